"""The workload file: every request of one workload and seed, as JSON lines.

Line 1 is the header, then come the texts, if any, then the requests in the order they are sent.

A workload says what its prompts are in one of two ways. As *text*, a prompt is made of parts::

    {"format": "kv-workload", "version": 2, "content": "text", "name": "docqa-quality", "seed": 42,
     "block_size": null, "texts": 3429, "requests": 512, "params": {...}, "notes": []}
    {"text": "d17", "content": "..."}
    {"request": 0, "session": null, "turn": null, "window": 0, "arrival_ms": null,
     "prompt_tokens": 731, "output_tokens": 1, "parts": ["d17", "d17/3"]}

The prompt is the texts of its parts one after the other. Its tokens are those that the tokenizer
begins any prompt with (BOS), if any, and then those of the parts one after the other, so that
prompts with the same parts in front share these tokens whatever the tokenizer would merge. As
*blocks*, a prompt is the ids of its full KV-cache blocks, in runs of consecutive ids, and what is
left over is nobody else's::

    {..., "content": "blocks", "block_size": 16, "texts": 0, ...}
    {..., "prompt_tokens": 731, "output_tokens": 1, "runs": [[0, 44], [912, 1]]}

An id names a block and all the blocks before it. The header's counts tell a whole file from a
truncated one. A workload whose data could not be had is a header alone, whose ``missing`` says why.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    dataclasses,
)


class WorkloadError(Exception):
    """A workload, trace or corpus cannot be used; the message names file, line and reason."""


# Not strict about containers, since JSON has no tuples; strict about numbers and text.
_STRICT = ConfigDict(extra="forbid", strict=True)
_L = TypeVar("_L")


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Header(_Line):
    """First line of a workload file."""

    format: Literal["kv-workload"] = "kv-workload"
    version: Literal[2] = 2
    content: Literal["text", "blocks"]
    name: str
    seed: int
    block_size: PositiveInt | None = Field(None, description="tokens a block, of blocks")
    texts: NonNegativeInt = 0
    requests: NonNegativeInt
    warm_up: NonNegativeInt = Field(0, description="so many requests in front only fill the cache")
    params: dict[str, Any]
    document_tokens: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = Field(
        (), description="of doc-QA, the length of each document, in the corpus's order"
    )
    notes: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="what was left out, and what else a reader of a figure should know"
    )
    missing: str | None = Field(None, description="why there are no requests, and how to get them")


class Text(_Line):
    """A text that prompts are made of."""

    text: str = Field(min_length=1, description="its name")
    content: str = Field(min_length=1)


# There may be millions of these, of which a model of pydantic's takes three times the memory.
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Request:
    """What all requests have; counts are in tokens. None: the workload knows no such thing."""

    request: NonNegativeInt
    session: NonNegativeInt | None = None
    turn: NonNegativeInt | None = None
    window: NonNegativeInt | None = None
    arrival_ms: NonNegativeFloat | None = None
    prompt_tokens: PositiveInt
    output_tokens: PositiveInt


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class TextRequest(Request):
    """A request whose prompt is texts."""

    parts: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


_R = TypeVar("_R", bound=Request)
Run = Annotated[tuple[NonNegativeInt, PositiveInt], Field(strict=False)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class BlockRequest(Request):
    """A request whose prompt is blocks: its full blocks as runs of (first id, number of ids)."""

    runs: Annotated[tuple[Run, ...], Field(strict=False)]

    @property
    def num_blocks(self) -> int:
        """Number of full blocks."""
        return sum(count for _, count in self.runs)

    def blocks(self) -> Iterator[int]:
        """Yield the id of each full block, first to last."""
        for first, count in self.runs:
            yield from range(first, first + count)


_ADAPTERS: Mapping[type[Any], TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (Header, Text, TextRequest, BlockRequest)
}


@dataclass(frozen=True)
class TextWorkload:
    """A workload of text: its header, its texts by name, its requests in order."""

    header: Header
    requests: tuple[TextRequest, ...]
    texts: Mapping[str, str] = field(default_factory=dict)

    def prompt(self, request: TextRequest) -> str:
        """Return the full text that the request sends."""
        return "".join(self.texts[part] for part in request.parts)


@dataclass(frozen=True)
class BlockWorkload:
    """A workload of blocks: its header, its requests in order."""

    header: Header
    requests: tuple[BlockRequest, ...]


Workload = TextWorkload | BlockWorkload


def longest(requests: Sequence[Request]) -> Request:
    """Return the request that needs the most KV cache."""
    return max(requests, key=lambda r: r.prompt_tokens + r.output_tokens)


def write(path: Path, workload: Workload) -> None:
    """Write a workload file under a temporary name, renamed when whole.

    Raises:
        WorkloadError: if it cannot be written.

    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(workload.header.model_dump_json() + "\n")
            if isinstance(workload, TextWorkload):
                for text, content in workload.texts.items():
                    file.write(Text(text=text, content=content).model_dump_json() + "\n")
            for request in workload.requests:
                file.write(_ADAPTERS[type(request)].dump_json(request).decode() + "\n")
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise WorkloadError(f"{path}: cannot be written: {error.strerror}") from None


def read(path: Path) -> Workload:
    """Read a workload file.

    Raises:
        WorkloadError: if the file is missing or truncated, or a line of it is bad.

    """
    lines = enumerate(_lines(path), start=1)
    number, line = next(lines, (0, ""))
    if not line:
        raise WorkloadError(f"{path}: empty; delete it and run again to make it anew")
    header = _parse(path, number, line, Header)
    texts = _texts(path, islice(lines, header.texts))
    numbered = islice(lines, header.requests)
    workload: Workload
    if header.content == "text":
        workload = TextWorkload(header, tuple(_text_requests(path, numbered, texts)), texts)
    else:
        workload = BlockWorkload(header, tuple(_block_requests(path, numbered, header)))
    found = 1 + len(texts) + len(workload.requests) + sum(1 for _ in lines)
    expected = 1 + header.texts + header.requests
    if found != expected:
        raise WorkloadError(
            f"{path}: {found} lines, but its header promises {expected} "
            f"({header.texts} texts, {header.requests} requests): truncated or appended "
            "to; delete it and run again to make it anew"
        )
    return workload


def _lines(path: Path) -> Iterator[str]:
    try:
        # Not at the separators that JSON allows inside a string.
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.removesuffix("\n")
    except FileNotFoundError:
        raise WorkloadError(f"{path}: no such workload file; `make figures` makes it") from None
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}: not a text file in UTF-8: {error}") from None


def _texts(path: Path, numbered: Iterator[tuple[int, str]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in numbered:
        text = _parse(path, number, line, Text)
        if text.text in texts:
            raise _bad_line(path, number, f"text {text.text!r} a second time")
        texts[text.text] = text.content
    return texts


def _text_requests(
    path: Path, numbered: Iterator[tuple[int, str]], texts: Mapping[str, str]
) -> Iterator[TextRequest]:
    for number, request in _requests(path, numbered, TextRequest):
        for part in request.parts:
            if part not in texts:
                raise _bad_line(path, number, f"no text {part!r} in this file")
        yield request


def _block_requests(
    path: Path, numbered: Iterator[tuple[int, str]], header: Header
) -> Iterator[BlockRequest]:
    if header.block_size is None:
        raise _bad_line(path, 1, "not a header: block_size: missing, of a workload of blocks")
    for number, request in _requests(path, numbered, BlockRequest):
        full = request.prompt_tokens // header.block_size
        if request.num_blocks != full:
            raise _bad_line(
                path,
                number,
                f"{request.num_blocks} blocks where {request.prompt_tokens} tokens have "
                f"{full} full ones",
            )
        yield request


def _requests(
    path: Path, numbered: Iterator[tuple[int, str]], kind: type[_R]
) -> Iterator[tuple[int, _R]]:
    for due, (number, line) in enumerate(numbered):
        request = _parse(path, number, line, kind)
        if request.request != due:
            raise _bad_line(path, number, f"request {request.request} where {due} is due")
        yield number, request


def _parse(path: Path, number: int, line: str, kind: type[_L]) -> _L:
    try:
        found: _L = _ADAPTERS[kind].validate_json(line)
        return found
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        name = "request" if issubclass(kind, Request) else kind.__name__.lower()
        raise _bad_line(
            path,
            number,
            f"not a {name}: {where + ': ' if where else ''}{first['msg']}",
        ) from None


def _bad_line(path: Path, number: int, reason: str) -> WorkloadError:
    return WorkloadError(f"{path}, line {number}: {reason}")
