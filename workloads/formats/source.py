"""The records of a log file: JSON lines, a JSON array, or CSV, plain, gzip or zstd; or Parquet."""

import codecs
import csv
import gzip
import io
import json
import re
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, TypeVar

import pyarrow as pa
from pyarrow import parquet
from pydantic_core import from_json

from workloads.file import WorkloadError
from workloads.formats.asked import BadRecord, Record, Unusable, shown

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# How files begin that have logs in them, but are not read.
_PACKED = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
# Where a tar file says that it is one, and what.
_TAR_AT, _TAR = 257, b"ustar"
_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 1000


_T = TypeVar("_T")


class Place(NamedTuple):
    """Where a record begins, of Parquet the row; `record` counts those of an array."""

    line: int
    record: int | None = None

    def __str__(self) -> str:
        return f"line {self.line}" + (f", record {self.record}" if self.record else "")


class CutOff(BadRecord):
    """An array ends before its end."""


class Records(Generic[_T]):
    """What is read of each record of a file, with its place.

    It counts what is left out. Iterated over, it raises a WorkloadError at a bad record that is one
    too many, and of a file that is missing, empty, or cannot be read.

    Args:
        path: The file.
        read: Returns what one record has, or raises BadRecord or Unusable.
        skip_bad: So many bad records are left out; None: none, and nobody can say so.
        may_be_cut_off: Whether an array that is cut off counts for what it has.

    """

    def __init__(
        self,
        path: Path,
        read: Callable[[Record], Iterable[_T]],
        skip_bad: int | None = None,
        may_be_cut_off: bool = False,
    ) -> None:
        self._path, self._read = path, read
        self._skip_bad, self._may_be_cut_off = skip_bad, may_be_cut_off
        self._num_bad = 0
        self._first_bad = ""
        self._unusable: Counter[str] = Counter()
        self.is_cut_off = False
        self.read = 0  # records that were not bad

    def __iter__(self) -> Iterator[tuple[Place, _T]]:
        for place, record in records(self._path):
            try:
                if isinstance(record, CutOff) and self._may_be_cut_off:
                    self.is_cut_off = True
                    return
                if isinstance(record, BadRecord):
                    raise record
                if not isinstance(record, Mapping):
                    raise BadRecord(f"{shown(record)} should be an object")
                # Whole or not at all.
                found = list(self._read(record))
                self.read += 1
            except BadRecord as error:
                self.bad(place, error)
            except Unusable as error:
                self._unusable[str(error)] += 1
                self.read += 1
            else:
                for one in found:
                    yield place, one

    def bad(self, place: Place, error: BadRecord) -> None:
        """Count a bad record.

        Raises:
            WorkloadError: if it is one too many.

        """
        self._num_bad += 1
        self._first_bad = self._first_bad or f"{place}: {error}"
        if self._num_bad <= (self._skip_bad or 0):
            return
        instead = ""
        if self._skip_bad:
            instead = f" (bad record {self._num_bad}; skip_bad allows {self._skip_bad})"
        elif self._skip_bad == 0:
            instead = "; mend it, or say `skip_bad` (SKIP_BAD=) to leave out so many"
        raise WorkloadError(f"{self._path}, {place}: {error}{instead}") from None

    @property
    def notes(self) -> list[str]:
        """What was left out, and how often."""
        notes = [f"{what} left out: {count}" for what, count in self._unusable.items()]
        if self._num_bad:
            notes.append(f"bad records left out: {self._num_bad}, the first at {self._first_bad}")
        return notes


def check(path: Path) -> None:
    """Check that there is a file which can be read more than once.

    Raises:
        WorkloadError: if there is none, or something else.

    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            raise WorkloadError(
                f"{path}: a link to {path.readlink()}, which is not there: name the log itself"
            ) from None
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise WorkloadError(f"{path}: {reason}: name a log that is there") from None
    if stat.S_ISDIR(mode):
        raise WorkloadError(f"{path}: is a folder: name a log that is in it")
    if not stat.S_ISREG(mode):
        raise WorkloadError(
            f"{path}: is no file, but a pipe, a socket or a device; a log is read more than once: "
            "write it to a file, and name that"
        )


def records(path: Path) -> Iterator[tuple[Place, object]]:
    """Yield each record with its place.

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
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        # The system numbers its errors; others are of what is in the file.
        if getattr(error, "errno", None) is None:
            reason = f"cut off or damaged: {str(error).rstrip('.')}: get the whole file"
        else:
            reason = f"cannot be read: {error}"
        raise WorkloadError(f"{path}: {reason}") from None
    if not found:
        raise WorkloadError(f"{path}: an empty file")


def _open(path: Path) -> io.BufferedReader:
    check(path)
    with path.open("rb") as file:
        magic = file.read(8)
    if magic.startswith(_UTF_16):
        raise WorkloadError(f"{path}: is in UTF-16: save it as UTF-8")
    if packed := next((name for start, name in _PACKED.items() if magic.startswith(start)), None):
        raise WorkloadError(
            f"{path}: is packed with {packed}, which is not read: unpack it, or pack it with gzip "
            "or zstd"
        )
    if magic.startswith(_GZIP):
        return io.BufferedReader(gzip.open(path))
    if magic.startswith(_ZSTD):
        # Buffered, since a stream of Arrow has no lines.
        stream: Any = pa.input_stream(str(path), compression="zstd")
        return io.BufferedReader(stream)
    return path.open("rb")


def _records(path: Path, file: io.BufferedReader) -> Iterator[tuple[Place, object]]:
    start = file.peek(_TAR_AT + len(_TAR))
    if start[_TAR_AT:].startswith(_TAR):
        raise WorkloadError(f"{path}: is a tar archive: take the log out of it, and name that")
    if start.startswith(_PARQUET):
        # Arrow opens it by itself: it reads from the end.
        for i, row in enumerate(_parquet(path), start=1):
            yield Place(i), row
        return
    start = b""
    blank = 0  # lines in front of the first that is not
    while not start and (line := file.readline()):
        start = line.removeprefix(_BOM) if not blank else line
        if not start.strip():
            start = b""
            blank += 1
    if start.lstrip().startswith(b"["):
        try:
            yield from _elements(path, file, start, blank + 1)
        except UnicodeDecodeError as error:
            raise WorkloadError(f"{path}: not UTF-8: {error}: save it as UTF-8") from None
    elif start.lstrip().startswith(b"{") or b"," not in start:
        yield from _lines(file, start, blank + 1)
    elif start:
        yield from _rows(path, file, start, blank + 1)


def _parquet(path: Path) -> Iterator[object]:
    with parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(_BATCH_ROWS):
            yield from batch.to_pylist()


def _lines(file: IO[bytes], first: bytes, number: int) -> Iterator[tuple[Place, object]]:
    line = first
    while line:
        if line.strip():
            yield Place(number), _parsed(line)
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
    path: Path, file: IO[bytes], start: bytes, number: int
) -> Iterator[tuple[Place, object]]:
    """Yield the elements of a JSON array, of which only a few are in memory."""
    # A file may be cut off inside a character, too.
    characters = codecs.getincrementaldecoder("utf-8")()
    text = characters.decode(start)
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    count = 1
    grow = _CHUNK_BYTES
    while True:
        skipped = _COMMA.match(text, position)
        assert skipped
        number += text.count("\n", position, skipped.end())
        position = skipped.end()
        if position < len(text):
            if text[position] == "]":
                rest = (text[position + 1 :].encode() + file.read(_CHUNK_BYTES)).strip()
                if rest:
                    raise WorkloadError(
                        f"{path}, line {number}: after the end of the array is {shown(rest[:60])}: "
                        "write one array, or JSON lines"
                    )
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
                            f"{path}, {Place(number, count)}: not JSON: {other}, in "
                            f"{shown(text[position : position + 60])}"
                        ) from error
            else:
                # A number may go on where the text ends.
                if end < len(text) or isinstance(element, dict):
                    yield Place(number, count), element
                    count += 1
                    number += text.count("\n", position, end)
                    position, grow = end, _CHUNK_BYTES
                    continue
        more = file.read(grow)
        if not more:
            yield (
                Place(number, count),
                CutOff(
                    "the array is cut off here: get the whole file, or end it with ] after the "
                    "last whole element"
                ),
            )
            return
        # A long element is parsed again only when there is twice as much of it.
        text, position, grow = text[position:] + characters.decode(more), 0, 2 * grow


def _rows(path: Path, file: IO[bytes], first: bytes, number: int) -> Iterator[tuple[Place, object]]:
    line = 0
    try:
        names = next(csv.reader([first.decode()]))
        with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
            rows = csv.DictReader(text, [name.strip() for name in names], strict=True)
            for row in rows:
                line = rows.line_num
                yield Place(number + line), row
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}: not UTF-8: {error}: save it as UTF-8") from None
    except csv.Error as error:
        raise WorkloadError(f"{path}, line {number + line + 1}: not CSV: {error}") from None
