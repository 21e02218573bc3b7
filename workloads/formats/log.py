"""A log as columns: all that a workload needs of its requests, in little memory."""

import math
from array import array
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workloads.file import Run, WorkloadError
from workloads.formats import source
from workloads.formats.asked import Asked, BadRecord, shown
from workloads.formats.registry import Format
from workloads.prefixes import Prefixes

_NONE = -1
# Requests from whose lengths it is found out how many tokens an id has.
_SAMPLE = 1000


@dataclass
class Log:
    """Requests in the order of the file, one column a property; -1 or nan where it has none.

    A prompt's ids are runs of numbers, each of which names ``id_tokens`` tokens and all before.
    """

    id_tokens: int
    notes: list[str] = field(default_factory=list)
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[float]" = field(default_factory=lambda: array("d"))  # ms
    prompt_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    output_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    sessions: "array[int]" = field(default_factory=lambda: array("q"))
    turns: "array[int]" = field(default_factory=lambda: array("q"))
    _runs: "array[int]" = field(default_factory=lambda: array("q"))
    _ends: "array[int]" = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        """The requests."""
        return len(self.lines)

    def runs(self, request: int) -> Iterator[Run]:
        """Yield the runs of one request's ids: first number and count."""
        end = self._ends[request]
        for i in range(self._ends[request - 1] if request else 0, end, 2):
            yield self._runs[i], self._runs[i + 1]

    def order(self) -> npt.NDArray[np.int64]:
        """Return the requests in the order of their times, or of the file if it has none."""
        times = np.array(self.times)
        if np.isnan(times).any():
            return np.arange(len(self))
        return np.argsort(times, kind="stable")

    def _append(self, line: int, asked: Asked, session: int, runs: list[Run]) -> None:
        def value(found: int | None) -> int:
            return _NONE if found is None else found

        self.lines.append(line)
        self.times.append(math.nan if asked.time is None else asked.time)
        self.prompt_tokens.append(asked.prompt.tokens)
        self.output_tokens.append(value(asked.output_tokens))
        self.sessions.append(session)
        self.turns.append(value(asked.turn))
        self._runs.extend(chain.from_iterable(runs))
        self._ends.append(len(self._runs))


def read(path: Path, form: Format, id_tokens: int | None = None, skip_bad: int = 0) -> Log:
    """Read a log.

    Args:
        path: The file.
        form: Its format.
        id_tokens: Tokens an id; without, found out from the lengths.
        skip_bad: So many bad records are left out and counted.

    Raises:
        WorkloadError: if the file cannot be read, or has more bad records than that.

    """
    bad = _Bad(path, skip_bad)
    requests = _requests(path, form, bad)
    sample = list(islice(requests, _SAMPLE))
    if id_tokens is None:
        id_tokens, found = _id_tokens(sample, form.id_tokens), " (found out from the lengths)"
    else:
        found = ""
    log = Log(id_tokens)
    prefixes = Prefixes()
    sessions = _Sessions()
    for line, asked in chain(sample, requests):
        try:
            _check_ids(asked, id_tokens)
        except BadRecord as error:
            bad.count(line, error)
            continue
        log._append(line, asked, sessions.of(asked), prefixes.add(asked.prompt.ids))
    if not len(log):
        raise WorkloadError(f"{path}: no request in it can be used: {bad.first or 'it has none'}")
    if id_tokens != form.id_tokens:
        log.notes.append(f"ids of {id_tokens} tokens{found}")
    if bad.found:
        log.notes.append(f"bad records left out: {bad.found}, the first in {bad.first}")
    if len(times := np.array(log.times)) and (np.diff(times) < 0).any():
        log.notes.append("the file is not in the order of time; the requests are")
    return log


class _Sessions:
    """Numbers the sessions as they come; one that goes on with another is that one."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._new = 0

    def of(self, asked: Asked) -> int:
        if asked.session is None:
            return _NONE
        known = self._numbers.get(asked.goes_on, self._numbers.get(asked.session))
        if known is None:
            known, self._new = self._new, self._new + 1
        self._numbers[asked.session] = known
        return known


class _Bad:
    """Counts bad records, and refuses the one that is too many."""

    def __init__(self, path: Path, allowed: int) -> None:
        self._path, self._allowed = path, allowed
        self.found = 0
        self.first = ""

    def count(self, line: int, error: Exception) -> None:
        self.found += 1
        self.first = self.first or f"line {line}: {error}"
        if self.found > self._allowed:
            before = f" (bad record {self.found}; {self._allowed} are left out)"
            raise WorkloadError(
                f"{self._path}, line {line}: {error}{before if self._allowed else ''}"
            ) from None


def _requests(path: Path, form: Format, bad: _Bad) -> Iterator[tuple[int, Asked]]:
    for line, record in source.records(path):
        try:
            if isinstance(record, BadRecord):
                raise record
            if not isinstance(record, Mapping):
                raise BadRecord(f"{shown(record)} should be an object")
            # Whole or not at all.
            found = list(form.read(record))
        except BadRecord as error:
            bad.count(line, error)
            continue
        for asked in found:
            yield line, asked


def _id_tokens(sample: list[tuple[int, Asked]], usual: int | None) -> int:
    """Return how many tokens an id has: the usual number, a power of 2, or else what fits."""
    sizes = Counter((asked.prompt.tokens, len(asked.prompt.ids)) for _, asked in sample)

    def fits(size: int) -> int:
        return sum(n for (tokens, ids), n in sizes.items() if ids in _numbers(tokens, size))

    # Of those that fit as many, the first.
    likely: int = max([*([usual] if usual else []), *(2**i for i in range(14))], key=fits)
    if 2 * fits(likely) >= len(sample):
        return likely
    return max({-(-tokens // ids) for tokens, ids in sizes if ids}, key=fits, default=likely)


def _numbers(tokens: int, id_tokens: int) -> tuple[int, int]:
    """Return the numbers of ids that so many tokens may have; a last one may be missing."""
    return -(-tokens // id_tokens), tokens // id_tokens


def _check_ids(asked: Asked, id_tokens: int) -> None:
    due = _numbers(asked.prompt.tokens, id_tokens)
    if len(asked.prompt.ids) not in due:
        raise BadRecord(
            f"hash_ids: {len(asked.prompt.ids)} ids where {asked.prompt.tokens} tokens have "
            f"{due[0]} of {id_tokens} tokens; say `id_tokens` if an id has another number"
        )
