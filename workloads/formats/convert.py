"""A log as lines like Mooncake's, with hashes in place of text: once, and fit to be shared.

    {"timestamp": 0, "input_length": 40, "output_length": 7, "hash_ids": [8271..., 1039..., 77...],
     "block_size": 16, "session_id": "0", "turn": 0}

Times are in ms from the first. An id is the hash of a block and all before it, under a key; without
the key nobody can try out which text it is of. Two logs share ids if they were converted with the
same key, block size and tokenizer. What remains to be seen is who asked when, how much, and what
had the same beginning.
"""

import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from workloads.file import WorkloadError
from workloads.formats.asked import Asked
from workloads.formats.cutting import Cutter, Hasher
from workloads.formats.log import NONE, Sessions, refuse_lengths, with_ids
from workloads.formats.registry import Format
from workloads.formats.source import Records

_PROGRESS_SECONDS = 5


def convert(
    source: Path,
    target: Path,
    form: Format,
    make_cutter: Callable[[], Cutter],
    key: bytes,
    skip_bad: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Convert a log; return notes on what is in the new one.

    It is read twice: all of it is checked before anything is tokenized. Little of it is in memory
    at a time. The new file is compressed if its name ends in .gz or .zst, and is there when whole.

    Args:
        source: The log.
        target: The file to write.
        form: The log's format.
        make_cutter: Called only of a log of text: what cuts it, under the key.
        key: Of the hashes of a log that has ids already.
        skip_bad: So many bad records are left out and counted.
        report: Is given a line of progress now and then.

    Raises:
        WorkloadError: if the log cannot be read, has more bad records than that, or says nothing of
            what its prompts have in common; or if the file cannot be written.

    """
    refuse_lengths(source, form)
    if target.exists() and target.samefile(source):
        raise WorkloadError(f"{target}: is the log itself: name another file to write")
    times = [asked.time for _, asked in Records(source, form.read, skip_bad)]
    first = min((time for time in times if time is not None), default=0.0)
    total = len(times)
    del times
    records = Records(source, form.read, skip_bad)
    cutter = make_cutter() if form.content == "text" else None
    requests, id_tokens = with_ids(records, form, cutter)
    hasher, sessions = Hasher(key), Sessions()
    done, due = 0, time.monotonic() + _PROGRESS_SECONDS
    with _written(target) as file:
        for _, asked, prompt in requests:
            ids = prompt.ids if cutter else hasher.ids(prompt.ids.tobytes(), 8)
            line = _line(asked, prompt.tokens, ids.tolist(), id_tokens, first, sessions.of(asked))
            file.write(json.dumps(line).encode() + b"\n")
            done += 1
            if time.monotonic() >= due:
                due = time.monotonic() + _PROGRESS_SECONDS
                report(f"{source.name}: {done:,} of {total:,} requests")
        if not done:
            raise WorkloadError(f"{source}: no request in it can be used")
    return [
        f"{done:,} request{'s' if done > 1 else ''} in ids of {id_tokens} tokens",
        *records.notes,
    ]


def _line(
    asked: Asked, tokens: int, ids: list[int], id_tokens: int, first: float, session: int
) -> dict[str, Any]:
    line = {
        "timestamp": None if asked.time is None else round(asked.time - first, 3),
        "delay": asked.delay,
        "input_length": tokens,
        "output_length": asked.output_tokens,
        "hash_ids": ids,
        "block_size": id_tokens,
        "session_id": None if session == NONE else str(session),
        "turn": asked.turn,
    }
    return {key: value for key, value in line.items() if value is not None}


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write, which has its name when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            file: Any = opened.enter_context(partial.open("wb"))
            if path.suffix == ".gz":
                # Without name and time, so that the same log makes the same file.
                file = opened.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
            elif path.suffix == ".zst":
                file = opened.enter_context(pa.CompressedOutputStream(file, "zstd"))
            yield file
        os.replace(partial, path)
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be written: {error}") from None
    finally:
        with suppress(OSError):
            partial.unlink()
