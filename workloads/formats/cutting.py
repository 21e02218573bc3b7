"""From the text of prompts to ids of blocks, by which the text cannot be told."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol

import numpy as np
import numpy.typing as npt

from workloads.corpus import Tokenizer
from workloads.formats.asked import Asked, BlockIds, Text, TokenIds
from workloads.formats.source import Place

# Text that is tokenized together, on all cores.
_BATCH_CHARACTERS = 1 << 22
_BATCH_REQUESTS = 1024
# Tokens that are remembered, in 4 bytes each.
_REMEMBERED = 1 << 24
_ID_BYTES = 8


class BatchTokenizer(Tokenizer, Protocol):
    """A tokenizer that takes many texts at a time."""

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, on all cores."""
        ...


class Hasher:
    """Names the blocks of prompts, each by a hash of it and all before it.

    Args:
        key: Of the hash (BLAKE2b): who does not have it cannot try out what an id is of.

    """

    def __init__(self, key: bytes = b"") -> None:
        self._key = key
        # The full blocks of the last prompt, and their hashes.
        self._before: tuple[bytes, list[bytes]] = b"", []

    def ids(self, content: bytes, step: int) -> npt.NDArray[np.uint64]:
        """Return the ids of a prompt's blocks of so many bytes; the last may be shorter."""
        # Of a conversation, most was hashed just before.
        known, found = self._before if content.startswith(self._before[0]) else (b"", [])
        found = found.copy()
        before = found[-1] if found else bytes(_ID_BYTES)
        for start in range(len(known), len(content), step):
            before = hashlib.blake2b(
                before + content[start : start + step], digest_size=_ID_BYTES, key=self._key
            ).digest()
            found.append(before)
        full = len(content) // step
        self._before = content[: full * step], found[:full]
        # 63 bits, which all that read JSON as whole numbers can take.
        return np.frombuffer(b"".join(found), dtype="<u8").astype(np.uint64) >> np.uint64(1)


class Cutter:
    """Cuts prompts into blocks, and names each.

    Args:
        tokenizer: The model's tokenizer.
        block_size: Tokens a block, and so an id.
        key: See `Hasher`.

    """

    def __init__(self, tokenizer: BatchTokenizer, block_size: int, key: bytes = b"") -> None:
        self._tokenizer, self.block_size = tokenizer, block_size
        self._hasher = Hasher(key)
        self._start = np.array(tokenizer.start, dtype=np.uint32)
        self._tokens: dict[str, npt.NDArray[np.uint32]] = {}
        self._remembered = 0

    def cut(
        self, requests: Iterable[tuple[Place, Asked]]
    ) -> Iterator[tuple[Place, Asked, BlockIds]]:
        """Yield each request, which now has the length of its answer, and its prompt as ids."""
        for batch in _batches(requests):
            self._tokenize(batch)
            for place, asked in batch:
                tokens = self._tokens_of(asked)
                output = asked.output_tokens
                if output is None and asked.reply is not None:
                    output = len(self._tokens[asked.reply])
                prompt = BlockIds(self._ids(tokens), len(tokens))
                yield place, replace(asked, output_tokens=output), prompt

    def _tokenize(self, batch: Sequence[tuple[Place, Asked]]) -> None:
        if self._remembered > _REMEMBERED:
            self._tokens.clear()
            self._remembered = 0
        texts = dict.fromkeys(
            text for _, asked in batch for text in _texts(asked) if text not in self._tokens
        )
        for text, tokens in zip(texts, self._tokenizer.encode_all(list(texts)), strict=True):
            self._tokens[text] = np.array(tokens, dtype=np.uint32)
            self._remembered += len(tokens)

    def _tokens_of(self, asked: Asked) -> npt.NDArray[np.uint32]:
        if isinstance(asked.prompt, TokenIds):
            return np.array(asked.prompt.ids, dtype=np.uint32)
        assert isinstance(asked.prompt, Text)
        return np.concatenate([self._start, *(self._tokens[part] for part in asked.prompt.parts)])

    def _ids(self, tokens: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        return self._hasher.ids(tokens.astype("<u4").tobytes(), 4 * self.block_size)


def _texts(asked: Asked) -> Iterator[str]:
    parts = asked.prompt.parts if isinstance(asked.prompt, Text) else ()
    reply = () if asked.reply is None or asked.output_tokens is not None else (asked.reply,)
    return chain(parts, reply)


def _batches(requests: Iterable[tuple[Place, Asked]]) -> Iterator[list[tuple[Place, Asked]]]:
    batch: list[tuple[Place, Asked]] = []
    characters = 0
    for place, asked in requests:
        batch.append((place, asked))
        characters += sum(map(len, _texts(asked)))
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_REQUESTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
