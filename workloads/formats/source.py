"""The records of a log file: JSON lines, a JSON array, or CSV; plain, gzip or zstd."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pydantic_core import from_json

from workloads.file import WorkloadError
from workloads.formats.asked import BadRecord, shown

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_CHUNK_CHARACTERS = 1 << 20


def records(path: Path) -> Iterator[tuple[int, object]]:
    """Yield each record with the number of the line that it begins in.

    A record that cannot be read is a `BadRecord` in its place; others may come after it.

    Raises:
        WorkloadError: if the file is missing, empty, cut off, or cannot be read.

    """
    found = False
    try:
        with _open(path) as file:
            for item in _records(path, file):
                found = True
                yield item
    except FileNotFoundError:
        raise WorkloadError(f"{path}: no such trace") from None
    except (OSError, EOFError, zlib.error) as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from None
    if not found:
        raise WorkloadError(f"{path}: an empty trace")


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(_UTF_16):
        raise WorkloadError(f"{path}: is in UTF-16: save it as UTF-8")
    if magic.startswith(_GZIP):
        return io.BufferedReader(gzip.open(path))
    if magic == _ZSTD:
        # Buffered, since a stream of Arrow has no lines.
        stream: Any = pa.input_stream(str(path), compression="zstd")
        return io.BufferedReader(stream)
    return path.open("rb")


def _records(path: Path, file: IO[bytes]) -> Iterator[tuple[int, object]]:
    start = b""
    blank = 0  # lines in front of the first that is not
    while not start and (line := file.readline()):
        start = line.removeprefix(_BOM) if not blank else line
        if not start.strip():
            start = b""
            blank += 1
    if start.lstrip().startswith(b"["):
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            yield from _elements(path, text, start.decode(), blank + 1)
        except UnicodeDecodeError as error:
            raise WorkloadError(f"{path}: not UTF-8: {error}") from None
    elif start.lstrip().startswith(b"{") or b"," not in start:
        yield from _lines(file, start, blank + 1)
    elif start:
        yield from _rows(path, file, start, blank + 1)


def _lines(file: IO[bytes], first: bytes, number: int) -> Iterator[tuple[int, object]]:
    line = first
    while line:
        if line.strip():
            yield number, _parsed(line)
        line = file.readline()
        number += 1


def _parsed(line: bytes) -> object:
    try:
        return from_json(line)
    except ValueError as error:
        try:
            line.decode()
        except UnicodeDecodeError as undecoded:
            return BadRecord(f"not UTF-8: {undecoded}")
        return BadRecord(f"not JSON: {error}, in {shown(line.decode().strip())}")


_SPACE, _COMMA = re.compile(r"\s*"), re.compile(r"\s*,?\s*")


def _elements(
    path: Path, file: io.TextIOWrapper, text: str, number: int
) -> Iterator[tuple[int, object]]:
    """Yield the elements of a JSON array, of which only a few are in memory."""
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    grow = _CHUNK_CHARACTERS
    while True:
        skipped = _COMMA.match(text, position)
        assert skipped
        number += text.count("\n", position, skipped.end())
        position = skipped.end()
        if position < len(text):
            if text[position] == "]":
                return
            try:
                element, end = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                try:
                    from_json(text[position:])
                except ValueError as other:
                    # Unlike the other parser, this one tells what is cut off from what is bad.
                    if not str(other).startswith("EOF while parsing"):
                        raise WorkloadError(
                            f"{path}, line {number}: not JSON: {other}, in "
                            f"{shown(text[position : position + 60])}"
                        ) from error
            else:
                # A number may go on where the text ends.
                if end < len(text):
                    yield number, element
                    number += text.count("\n", position, end)
                    position, grow = end, _CHUNK_CHARACTERS
                    continue
        more = file.read(grow)
        if not more:
            raise WorkloadError(
                f"{path}, line {number}: the array is cut off here: get the whole file, or end it "
                "with ] after the last whole element"
            )
        # A long element is parsed again only when there is twice as much of it.
        text, position, grow = text[position:] + more, 0, 2 * grow


def _rows(path: Path, file: IO[bytes], first: bytes, number: int) -> Iterator[tuple[int, object]]:
    try:
        names = next(csv.reader([first.decode()]))
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        rows = csv.DictReader(text, [name.strip() for name in names], strict=True)
        for row in rows:
            yield number + rows.line_num, row
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}: not UTF-8: {error}") from None
    except csv.Error as error:
        raise WorkloadError(f"{path}, line {number + rows.line_num}: not CSV: {error}") from None
