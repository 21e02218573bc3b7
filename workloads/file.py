"""The workload file: every request of one workload and seed, as JSON lines.

Line 1 is the header, then come the documents, then the requests in the order they are sent::

    {"format": "kv-workload", "version": 1, "name": "docqa-quality", "seed": 42,
     "tokenizer": "<sha256>", "documents": 381, "requests": 512, "params": {...}}
    {"document": "d0", "text": "..."}
    {"request": 0, "window": 0, "document": "d17", "question": "...",
     "prompt_tokens": 731, "output_tokens": 1}

The prompt of a request is its document, one space and its question. ``prompt_tokens`` counts it
with the tokenizer that the header's sha256 names. The header's counts tell a whole file from a
truncated one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError


class WorkloadError(Exception):
    """A workload or corpus file cannot be used; the message names file, line and reason."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_L = TypeVar("_L", bound=_Line)


class Header(_Line):
    """First line of a workload file."""

    format: Literal["kv-workload"] = "kv-workload"
    version: Literal[1] = 1
    name: str
    seed: int
    tokenizer: str
    documents: PositiveInt
    requests: PositiveInt
    params: dict[str, Any]


class Document(_Line):
    """A text that requests ask about."""

    document: str = Field(min_length=1)
    text: str = Field(min_length=1)


class Request(_Line):
    """One question about one document; counts are in tokens."""

    request: NonNegativeInt
    window: NonNegativeInt
    document: str
    question: str
    prompt_tokens: PositiveInt
    output_tokens: PositiveInt


@dataclass(frozen=True)
class Workload:
    """A whole workload file: its header, its texts by document id, its requests in order."""

    header: Header
    texts: Mapping[str, str]
    requests: tuple[Request, ...]

    def prompt(self, request: Request) -> str:
        """Return the full text that the request sends."""
        return f"{self.texts[request.document]} {request.question}"

    @property
    def longest(self) -> Request:
        """The request that needs the most KV cache."""
        return max(self.requests, key=lambda r: r.prompt_tokens + r.output_tokens)


def write(path: Path, workload: Workload) -> None:
    """Write a workload file under a temporary name, renamed when whole."""
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(workload.header.model_dump_json() + "\n")
        for document, text in workload.texts.items():
            file.write(Document(document=document, text=text).model_dump_json() + "\n")
        for request in workload.requests:
            file.write(request.model_dump_json() + "\n")
    os.replace(partial, path)


def read(path: Path) -> Workload:
    """Read a workload file.

    Raises:
        WorkloadError: if the file is missing or truncated, or a line of it is bad.

    """
    try:
        # Not splitlines(), which also splits at separators that JSON allows inside a string.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise WorkloadError(f"{path}: no such workload file; `make figures` makes it") from None
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}: not a text file in UTF-8: {error}") from None
    if lines == [""]:
        raise WorkloadError(f"{path}: empty; delete it and run again to make it anew")

    header = _parse(path, 1, lines[0], Header)
    expected = 1 + header.documents + header.requests
    texts: dict[str, str] = {}
    requests: list[Request] = []
    for number, line in enumerate(lines[1:expected], start=2):
        if number <= 1 + header.documents:
            document = _parse(path, number, line, Document)
            if document.document in texts:
                raise _bad_line(path, number, f"document {document.document!r} a second time")
            texts[document.document] = document.text
        else:
            request = _parse(path, number, line, Request)
            if request.document not in texts:
                raise _bad_line(path, number, f"no document {request.document!r} in this file")
            if request.request != len(requests):
                raise _bad_line(
                    path, number, f"request {request.request} where {len(requests)} is due"
                )
            requests.append(request)
    if len(lines) != expected:
        raise WorkloadError(
            f"{path}: {len(lines)} lines, but its header promises {expected} "
            f"({header.documents} documents, {header.requests} requests): truncated or appended "
            "to; delete it and run again to make it anew"
        )
    return Workload(header, texts, tuple(requests))


def _parse(path: Path, number: int, line: str, kind: type[_L]) -> _L:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _bad_line(
            path,
            number,
            f"not a {kind.__name__.lower()}: {where + ': ' if where else ''}{first['msg']}",
        ) from None


def _bad_line(path: Path, number: int, reason: str) -> WorkloadError:
    return WorkloadError(f"{path}, line {number}: {reason}")
