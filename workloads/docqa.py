"""Synthetic document question answering, after the paper's section on workloads.

Requests come in windows. In each window the documents are shuffled anew into an order of
popularity; each request draws a document by Zipf's law over that order and one of its questions at
random, and asks for one token.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from workloads import corpus
from workloads.corpus import Entry, LengthLaw, Tokenizer
from workloads.file import Header, TextRequest, TextWorkload

SYNTHETIC = "synthetic"
OUTPUT_TOKENS = 1

_D = TypeVar("_D")


class DocQA(BaseModel):
    """Parameters of the workload; all lengths in tokens at the paper's scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["docqa"] = "docqa"
    corpus: str = Field(
        SYNTHETIC,
        description=f"`{SYNTHETIC}`, the name of a data set, or the path of a corpus file "
        "(workloads/corpus.py)",
    )
    own_lengths: bool = Field(
        False, description="documents keep their own lengths; the keys on lengths do not count"
    )
    documents: PositiveInt = Field(381, le=1_000_000, description="number of different documents")
    requests: PositiveInt = Field(3072, le=100_000_000, description="number of requests")
    window: PositiveInt = Field(
        512, le=100_000_000, description="requests between two shuffles of popularity"
    )
    zipf_exponent: float = Field(1.0, ge=0, le=100, description="0 is uniform")
    length_mean: PositiveFloat = Field(5768, le=10_000_000, description="mean length of a prompt")
    length_sd: PositiveFloat = Field(1300, le=10_000_000, description="its standard deviation")
    length_min: PositiveInt = Field(
        2000, le=10_000_000, description="shorter prompts are lengthened to this"
    )
    length_max: PositiveInt = Field(
        9500, le=10_000_000, description="longer prompts are cut to this"
    )

    @model_validator(mode="after")
    def _has_lengths(self) -> "DocQA":
        if self.own_lengths and self.corpus == SYNTHETIC:
            raise ValueError("own_lengths: synthetic documents have no lengths of their own")
        return self

    @property
    def popularity(self) -> list[float]:
        """The share of requests that each rank gets, the most popular first."""
        weights = [(rank + 1) ** -self.zipf_exponent for rank in range(self.documents)]
        total = sum(weights)
        return [weight / total for weight in weights]

    def rankings(self, seed: int, documents: Sequence[_D]) -> Iterator[list[_D]]:
        """Yield each window's documents, the most popular first; there is no end to them."""
        rng = random.Random(f"{seed}/popularity")
        ranking = list(documents)
        while True:
            rng.shuffle(ranking)
            yield list(ranking)

    def law(self, scale: float) -> LengthLaw:
        """Return the lengths of documents: those of prompts, scaled, less a whole question."""
        return LengthLaw(
            mean=self.length_mean * scale - corpus.QUESTION_TOKENS,
            sd=self.length_sd * scale,
            shortest=max(1, round(self.length_min * scale - corpus.QUESTION_TOKENS)),
            longest=max(1, round(self.length_max * scale - corpus.QUESTION_TOKENS)),
        )


def build(
    name: str,
    params: DocQA,
    seed: int,
    tokenizer: Tokenizer,
    words: Sequence[str],
    entries: Sequence[Entry] | None = None,
    scale: float = 1.0,
) -> TextWorkload:
    """Make the workload of one seed.

    Args:
        name: The workload's name in the config.
        params: Its parameters.
        seed: Seed of documents, questions, popularity and order alike.
        tokenizer: The model's tokenizer, which counts.
        words: Words of synthetic text.
        entries: The corpus to cut documents from; None: synthetic ones.
        scale: Shrinks all lengths.

    Raises:
        WorkloadError: if the corpus has too little text.

    """
    rng = random.Random(f"{seed}/documents")
    law = params.law(scale)
    if entries is None:
        documents = corpus.synthetic(params.documents, law, words, tokenizer, rng)
    elif params.own_lengths:
        documents = corpus.shrink(entries, params.documents, scale, tokenizer)
    else:
        documents = corpus.resize(entries, params.documents, law, tokenizer, rng)
    draws = random.Random(f"{seed}/requests")
    probabilities = list(accumulate(params.popularity))
    rankings = params.rankings(seed, documents)

    texts = {document.id: document.document for document in documents}
    tokens = {name: len(tokenizer.encode(text)) for name, text in texts.items()}
    document_tokens = tuple(tokens.values())
    requests: list[TextRequest] = []
    for number in range(params.requests):
        window, position = divmod(number, params.window)
        if position == 0:
            ranking = next(rankings)
        document = draws.choices(ranking, cum_weights=probabilities)[0]
        asked = draws.randrange(len(document.questions))
        question = f"{document.id}/{asked}"
        if question not in texts:
            texts[question] = f" {document.questions[asked]}"
            tokens[question] = len(tokenizer.encode(texts[question]))
        requests.append(
            TextRequest(
                request=number,
                window=window,
                prompt_tokens=len(tokenizer.start) + tokens[document.id] + tokens[question],
                output_tokens=OUTPUT_TOKENS,
                parts=(document.id, question),
            )
        )
    header = Header(
        content="text",
        name=name,
        seed=seed,
        texts=len(texts),
        requests=len(requests),
        params={**params.model_dump(), "scale": scale},
        document_tokens=document_tokens,
    )
    return TextWorkload(header, tuple(requests), texts)
