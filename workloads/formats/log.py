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
from workloads.formats.asked import Asked, BadRecord, BlockIds, Unusable, shown
from workloads.formats.cutting import Cutter
from workloads.formats.registry import Format
from workloads.prefixes import Prefixes

NONE = -1
"""What a column of whole numbers has where there is nothing."""

# Requests from whose lengths it is found out how many tokens an id has.
_SAMPLE = 1000


@dataclass
class Log:
    """Requests in the order of the file, one column a property; `NONE` or nan: it does not say.

    A prompt's ids are runs of numbers, each of which names ``id_tokens`` tokens and all before.
    """

    id_tokens: int
    notes: list[str] = field(default_factory=list)
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[float]" = field(default_factory=lambda: array("d"))  # ms
    delays: "array[float]" = field(default_factory=lambda: array("d"))  # ms after the turn before
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

    def _append(
        self, line: int, asked: Asked, prompt: BlockIds, session: int, runs: list[Run]
    ) -> None:
        def value(found: int | None) -> int:
            return NONE if found is None else found

        self.lines.append(line)
        self.times.append(math.nan if asked.time is None else asked.time)
        self.delays.append(math.nan if asked.delay is None else asked.delay)
        self.prompt_tokens.append(prompt.tokens)
        self.output_tokens.append(value(asked.output_tokens))
        self.sessions.append(session)
        self.turns.append(value(asked.turn))
        self._runs.extend(chain.from_iterable(runs))
        self._ends.append(len(self._runs))


def read(
    path: Path,
    form: Format,
    cutter: Cutter | None = None,
    id_tokens: int | None = None,
    skip_bad: int = 0,
) -> Log:
    """Read a log.

    Args:
        path: The file.
        form: Its format.
        cutter: Of a log of text, what makes ids of it.
        id_tokens: Of a log of ids, tokens an id; without, what the log says, or its lengths do.
        skip_bad: So many bad records are left out and counted.

    Raises:
        WorkloadError: if the file cannot be read, has more bad records than that, or says nothing
            of what its prompts have in common.

    """
    refuse_lengths(path, form)
    records = Records(path, form, skip_bad)
    notes = []
    requests = iter(records)
    if form.content == "text":
        assert cutter is not None
        requests, id_tokens = cutter.cut(requests), cutter.block_size
    else:
        sample = list(islice(requests, _SAMPLE))
        requests = chain(sample, requests)
        if id_tokens is None:
            id_tokens = _id_tokens(sample, form.id_tokens)
            if id_tokens != form.id_tokens:
                notes.append(f"ids of {id_tokens} tokens, as the log or its lengths say")
    log = Log(id_tokens, notes)
    prefixes = Prefixes()
    sessions = _Sessions()
    for line, asked in requests:
        prompt = asked.prompt
        assert isinstance(prompt, BlockIds)
        try:
            _check_ids(prompt, id_tokens)
        except BadRecord as error:
            records.bad(line, error)
            continue
        log._append(line, asked, prompt, sessions.of(asked), prefixes.add(prompt.ids))
    if not len(log):
        raise WorkloadError(f"{path}: no request in it can be used; {'; '.join(records.notes)}")
    notes += records.notes
    return log


def read_times(path: Path, form: Format) -> npt.NDArray[np.float64]:
    """Return the times of a log's requests in ms from the first, ascending; shape (requests,).

    Raises:
        WorkloadError: if the file cannot be read, or a request has no time.

    """
    times = array("d")
    for line, asked in Records(path, form):
        if asked.time is None:
            raise WorkloadError(f"{path}, line {line}: no time, where only times are asked for")
        times.append(asked.time)
    found = np.array(times, dtype=np.float64)
    found.sort()
    return found - found.min(initial=math.inf)


def refuse_lengths(path: Path, form: Format) -> None:
    """Check that a log says what its prompts have in common.

    Raises:
        WorkloadError: if it has lengths alone.

    """
    if form.content == "lengths":
        raise WorkloadError(
            f"{path}: has times and lengths alone, by which nothing can be said of what requests "
            "have in common (reuse): it is no workload for a cache. Name it as `times` of another "
            "workload, whose requests then come at these times"
        )


class Records:
    """The requests of a log file, with their lines; counts what is left out.

    Iterated over, it raises a WorkloadError at a bad record that is one too many, and of a file
    that cannot be read.

    """

    def __init__(self, path: Path, form: Format, skip_bad: int = 0) -> None:
        self._path, self._form, self._skip_bad = path, form, skip_bad
        self._num_bad = 0
        self._first_bad = ""
        self._unusable: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[int, Asked]]:
        for line, record in source.records(self._path):
            try:
                if isinstance(record, BadRecord):
                    raise record
                if not isinstance(record, Mapping):
                    raise BadRecord(f"{shown(record)} should be an object")
                # Whole or not at all.
                found = list(self._form.read(record))
            except BadRecord as error:
                self.bad(line, error)
                continue
            except Unusable as error:
                self._unusable[str(error)] += 1
                continue
            for asked in found:
                yield line, asked

    def bad(self, line: int, error: BadRecord) -> None:
        """Count a bad record."""
        self._num_bad += 1
        self._first_bad = self._first_bad or f"line {line}: {error}"
        if self._num_bad > self._skip_bad:
            raise WorkloadError(
                f"{self._path}, line {line}: {error}"
                + (f" (bad record {self._num_bad}, of which `skip_bad` allows {self._skip_bad})")
                * bool(self._skip_bad)
            ) from None

    @property
    def notes(self) -> list[str]:
        """What was left out."""
        notes = [f"left out, {what}: {count}" for what, count in self._unusable.items()]
        if self._num_bad:
            notes.append(f"left out, bad records: {self._num_bad}, the first in {self._first_bad}")
        return notes


class _Sessions:
    """Numbers the sessions as they come; one that goes on with another is that one."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._new = 0

    def of(self, asked: Asked) -> int:
        if asked.session is None:
            return NONE
        known = self._numbers.get(asked.goes_on, self._numbers.get(asked.session))
        if known is None:
            known, self._new = self._new, self._new + 1
        self._numbers[asked.session] = known
        return known


def _id_tokens(sample: list[tuple[int, Asked]], usual: int | None) -> int:
    """Return how many tokens an id has: what is said, is usual, is a power of 2, or else fits."""
    prompts = [asked.prompt for _, asked in sample if isinstance(asked.prompt, BlockIds)]
    said = next((prompt.id_tokens for prompt in prompts if prompt.id_tokens), None)
    if said:
        return said
    sizes = Counter((prompt.tokens, len(prompt.ids)) for prompt in prompts)

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


def _check_ids(prompt: BlockIds, id_tokens: int) -> None:
    due = _numbers(prompt.tokens, id_tokens)
    if len(prompt.ids) not in due:
        raise BadRecord(
            f"hash_ids: {len(prompt.ids)} ids where {prompt.tokens} tokens have "
            f"{due[0]} of {id_tokens} tokens; say `id_tokens` if an id has another number"
        )
