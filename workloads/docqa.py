"""Synthetic document question answering, after the paper's section on workloads.

Requests come in windows. In each window the documents are shuffled anew into an order of
popularity; each request draws a document by Zipf's law over that order and one of its questions at
random, and asks for one token.
"""

import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from workloads import corpus
from workloads.corpus import Entry, LengthLaw, Tokenizer
from workloads.file import Header, Request, Workload

OUTPUT_TOKENS = 1


class DocQA(BaseModel):
    """Parameters of the workload; all lengths in tokens at the paper's scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["docqa"] = "docqa"
    corpus: str = Field(
        "synthetic", description="`synthetic`, or the path of a corpus file (workloads/corpus.py)"
    )
    documents: PositiveInt = Field(381, description="number of different documents")
    requests: PositiveInt = Field(3072, description="number of requests")
    window: PositiveInt = Field(512, description="requests between two shuffles of popularity")
    zipf_exponent: float = Field(1.0, ge=0, description="0 is uniform")
    length_mean: PositiveFloat = Field(5768, description="mean length of a prompt")
    length_sd: PositiveFloat = Field(1300, description="its standard deviation")
    length_min: PositiveInt = Field(2000, description="shorter prompts are lengthened to this")
    length_max: PositiveInt = Field(9500, description="longer prompts are cut to this")
    scale: float = Field(
        1.0, gt=0, le=1, description="shrinks documents and cache alike, so that their ratio stays"
    )

    @property
    def law(self) -> LengthLaw:
        """The lengths of documents: those of prompts at this scale, less a whole question."""
        return LengthLaw(
            mean=self.length_mean * self.scale - corpus.QUESTION_TOKENS,
            sd=self.length_sd * self.scale,
            shortest=max(1, round(self.length_min * self.scale - corpus.QUESTION_TOKENS)),
            longest=max(1, round(self.length_max * self.scale - corpus.QUESTION_TOKENS)),
        )


def build(
    name: str,
    params: DocQA,
    seed: int,
    tokenizer: Tokenizer,
    tokenizer_sha256: str,
    words: Sequence[str],
) -> Workload:
    """Make the workload of one seed.

    Args:
        name: The workload's name in the config.
        params: Its parameters.
        seed: Seed of documents, questions, popularity and order alike.
        tokenizer: The model's tokenizer, which counts.
        tokenizer_sha256: The sha256 of its file.
        words: Words of synthetic text.

    Raises:
        WorkloadError: if the corpus file cannot be used.

    """
    entries = _documents(params, tokenizer, words, random.Random(f"{seed}/documents"))
    popularity = random.Random(f"{seed}/popularity")
    draws = random.Random(f"{seed}/requests")
    weights = list(accumulate((rank + 1) ** -params.zipf_exponent for rank in range(len(entries))))

    requests: list[Request] = []
    ranking = list(entries)
    for number in range(params.requests):
        window, position = divmod(number, params.window)
        if position == 0:
            popularity.shuffle(ranking)
        entry = draws.choices(ranking, cum_weights=weights)[0]
        question = draws.choice(entry.questions)
        prompt = f"{entry.document} {question}"
        requests.append(
            Request(
                request=number,
                window=window,
                document=entry.id,
                question=question,
                prompt_tokens=len(tokenizer.encode(prompt)),
                output_tokens=OUTPUT_TOKENS,
            )
        )
    texts = {entry.id: entry.document for entry in entries}
    header = Header(
        name=name,
        seed=seed,
        tokenizer=tokenizer_sha256,
        documents=len(texts),
        requests=len(requests),
        params=params.model_dump(),
    )
    return Workload(header, texts, tuple(requests))


def _documents(
    params: DocQA, tokenizer: Tokenizer, words: Sequence[str], rng: random.Random
) -> list[Entry]:
    if params.corpus == "synthetic":
        return corpus.synthetic(params.documents, params.law, words, tokenizer, rng)
    return corpus.resize(
        corpus.read(Path(params.corpus)), params.documents, params.law, tokenizer, rng
    )
