"""Documents with questions: made from a seed, or read from a file of real text.

A corpus file is JSON lines, or a JSON array; plain, gzip or zstd::

    {"id": "...", "document": "...", "questions": ["..."]}
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workloads.file import WorkloadError
from workloads.formats.asked import BadRecord, Record
from workloads.formats.source import Records


class Tokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    @property
    def start(self) -> Sequence[int]:
        """Token ids that a prompt begins with, before any text; often none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the token ids of the text, which may be any part of a prompt."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the token ids."""
        ...


class Entry(BaseModel):
    """One document of a corpus and the questions about it."""

    # Who counts documents has whole numbers.
    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    id: str = Field(min_length=1)
    document: str = Field(min_length=1)
    questions: tuple[str, ...] = Field(min_length=1)


@dataclass(frozen=True)
class LengthLaw:
    """Normally distributed lengths in tokens, cut off at both ends.

    The lengths are the law's quantiles, so their mean does not depend on the seed: only which
    document has which length does.
    """

    mean: float
    sd: float
    shortest: int
    longest: int

    def lengths(self, count: int, rng: random.Random) -> list[int]:
        """Return ``count`` lengths in tokens, in random order."""
        law = NormalDist(self.mean, self.sd)
        quantiles = (law.inv_cdf((i + 0.5) / count) for i in range(count))
        lengths = [round(min(max(q, self.shortest), self.longest)) for q in quantiles]
        rng.shuffle(lengths)
        return lengths


QUESTIONS_PER_DOCUMENT = 8
_QUESTION_WORDS = (8, 16)
# On average, with the question mark.
QUESTION_TOKENS = sum(_QUESTION_WORDS) // 2 + 1
_SENTENCE_WORDS = (6, 20)


def synthetic(
    count: int, law: LengthLaw, words: Sequence[str], tokenizer: Tokenizer, rng: random.Random
) -> list[Entry]:
    """Make documents of random words that share no first sentence, with questions.

    Args:
        count: Number of documents.
        law: Length of a document, in tokens of the tokenizer.
        words: Words to draw from.
        tokenizer: The tokenizer that counts.
        rng: The source of all randomness.

    """
    return [
        Entry(
            id=f"d{i}",
            # A word is one token or more, so there is never too little to cut.
            document=cut(_sentences(length, words, rng), length, tokenizer),
            questions=tuple(
                _words(rng.randint(*_QUESTION_WORDS), words, rng) + "?"
                for _ in range(QUESTIONS_PER_DOCUMENT)
            ),
        )
        for i, length in enumerate(law.lengths(count, rng))
    ]


def read(path: Path) -> list[Entry]:
    """Read a corpus file.

    Raises:
        WorkloadError: if the file is missing or damaged, or a line of it is bad.

    """
    entries = [entry for _, entry in Records(path, _entry)]
    ids = {entry.id for entry in entries}
    if not entries or len(ids) != len(entries):
        raise WorkloadError(f"{path}: {len(entries)} documents with {len(ids)} different ids")
    return entries


def resize(
    entries: Sequence[Entry],
    count: int,
    law: LengthLaw,
    tokenizer: Tokenizer,
    rng: random.Random,
) -> list[Entry]:
    """Cut ``count`` documents of the wanted lengths out of real ones.

    Each real document is cut into consecutive pieces, so no two pieces share text; questions are
    inherited. The longest real documents are cut first.

    Raises:
        WorkloadError: if the corpus has too little text.

    """
    pieces: list[Entry] = []
    lengths = law.lengths(count, rng)
    tokens = {entry.id: tokenizer.encode(entry.document) for entry in entries}
    for entry in sorted(entries, key=lambda e: -len(tokens[e.id])):
        rest = tokens[entry.id]
        while len(pieces) < count and len(rest) >= lengths[len(pieces)]:
            length = lengths[len(pieces)]
            pieces.append(
                Entry(
                    id=f"{entry.id}-{len(tokens[entry.id]) - len(rest)}",
                    document=tokenizer.decode(rest[:length]),
                    questions=entry.questions,
                )
            )
            rest = rest[length:]
    if len(pieces) < count:
        raise WorkloadError(
            f"the corpus has text for {len(pieces)} documents of the wanted lengths, not {count}: "
            "lower `documents` or `scale`, or use a larger corpus"
        )
    return pieces


def shrink(entries: Sequence[Entry], count: int, scale: float, tokenizer: Tokenizer) -> list[Entry]:
    """Keep the first ``count`` documents at their own lengths, or a share of them from the front.

    Raises:
        WorkloadError: if there are fewer.

    """
    if len(entries) < count:
        raise WorkloadError(f"the corpus has {len(entries)} documents, not {count}")
    if scale == 1:
        return list(entries[:count])
    return [
        entry.model_copy(
            update={
                "document": cut(
                    entry.document,
                    max(1, round(scale * len(tokenizer.encode(entry.document)))),
                    tokenizer,
                )
            }
        )
        for entry in entries[:count]
    ]


def cut(text: str, length: int, tokenizer: Tokenizer) -> str:
    """Return the first ``length`` tokens of a text."""
    return tokenizer.decode(tokenizer.encode(text)[:length])


def _entry(record: Record) -> Iterator[Entry]:
    try:
        yield Entry.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadRecord(f"{where}: {first['msg']}") from None


def _words(count: int, words: Sequence[str], rng: random.Random) -> str:
    return " ".join(rng.choices(words, k=count)).capitalize()


def _sentences(count: int, words: Sequence[str], rng: random.Random) -> str:
    sentences: list[str] = []
    left = count
    while left > 0:
        length = min(left, rng.randint(*_SENTENCE_WORDS))
        sentences.append(_words(length, words, rng) + ".")
        left -= length
    return " ".join(sentences)
