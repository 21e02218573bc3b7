"""A log as columns: all that a workload needs of its requests, in little memory."""

import math
import time
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workloads.file import Run, WorkloadError
from workloads.formats.asked import SINCE_1970_MS, Asked, BadRecord, BlockIds
from workloads.formats.cutting import Cutter
from workloads.formats.registry import Format
from workloads.formats.source import Place, Records
from workloads.prefixes import Prefixes

NONE = -1
"""What a column of whole numbers has where there is nothing."""

_PROGRESS_SECONDS = 5.0
# Requests from whose lengths it is found out how many tokens an id has.
_SAMPLE = 1000
# Different lengths from which a size that is not usual is believed.
_SURE = 10


@dataclass
class Log:
    """Requests in the order of the file, one column a property; `NONE` or nan: it does not say.

    A prompt's ids are runs of numbers, each of which names ``id_tokens`` tokens and all before.
    """

    id_tokens: int
    notes: list[str] = field(default_factory=list)
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
        return len(self.times)

    def runs(self, request: int) -> Iterator[Run]:
        """Yield the runs of one request's ids: first number and count."""
        end = self._ends[request]
        for i in range(self._ends[request - 1] if request else 0, end, 2):
            yield self._runs[i], self._runs[i + 1]

    def _append(self, asked: Asked, prompt: BlockIds, session: int, runs: list[Run]) -> None:
        def value(found: int | None) -> int:
            return NONE if found is None else found

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
    block_size: int,
    cutter: Cutter | None = None,
    id_tokens: int | None = None,
    skip_bad: int = 0,
    report: Callable[[str], object] = lambda line: None,
) -> Log:
    """Read a log.

    Args:
        path: The file.
        form: Its format.
        block_size: Tokens a block of the engine, of which an id must have a whole number.
        cutter: Of a log of text, what makes ids of it.
        id_tokens: Of a log of ids, tokens an id; without, what the log says, or its lengths do.
        skip_bad: So many bad records are left out and counted.
        report: Is given a line of progress now and then.

    Raises:
        WorkloadError: if the file cannot be read, has more bad records than that, or says nothing
            of what its prompts have in common.

    """
    refuse_lengths(path, form)
    due = time.monotonic() + _PROGRESS_SECONDS
    records = Records(path, form.read, skip_bad)
    requests, id_tokens = with_ids(records, form, cutter, id_tokens)
    notes = []
    if form.id_tokens not in (None, id_tokens):
        notes.append(f"ids of {id_tokens} tokens, as the log or its lengths say")
    if id_tokens % block_size:
        raise WorkloadError(
            f"{path}: ids of {id_tokens} tokens are not a whole number of blocks of "
            f"{block_size}: set the engine's block size to a divisor of {id_tokens}"
        )
    log = Log(id_tokens, notes)
    prefixes = Prefixes()
    sessions = Sessions()
    for place, asked, prompt in requests:
        if len(prompt.ids) * id_tokens < prompt.tokens // block_size * block_size:
            error = "no id for the last full block of {} tokens: set the engine's block size to {}"
            records.bad(place, BadRecord(error.format(block_size, id_tokens)))
            continue
        log._append(asked, prompt, sessions.of(asked), prefixes.add(prompt.ids))
        if time.monotonic() >= due:
            due = time.monotonic() + _PROGRESS_SECONDS
            report(f"{path.name}: {len(log):,} requests read")
    if not len(log):
        raise WorkloadError(f"{path}: no request in it can be used; {'; '.join(records.notes)}")
    _refuse_mixed_times(path, log)
    notes += records.notes
    return log


def with_ids(
    records: Records[Asked], form: Format, cutter: Cutter | None, id_tokens: int | None = None
) -> tuple[Iterator[tuple[Place, Asked, BlockIds]], int]:
    """Return the requests with their prompts as ids, and how many tokens an id has.

    Args:
        records: What is read; a prompt whose ids do not fit its length counts as bad.
        form: The format that it is in.
        cutter: Of a log of text, what makes ids of it.
        id_tokens: Of a log of ids, tokens an id; without, what the log says, or its lengths do.

    """
    requests = iter(records)
    if form.content == "text":
        assert cutter is not None
        return cutter.cut(requests), cutter.block_size
    sample = list(islice(requests, _SAMPLE))
    size = id_tokens or _id_tokens(sample, form.id_tokens)

    def checked() -> Iterator[tuple[Place, Asked, BlockIds]]:
        for place, asked in chain(sample, requests):
            prompt = asked.prompt
            assert isinstance(prompt, BlockIds)
            due = _numbers(prompt.tokens, size)
            if len(prompt.ids) in due:
                yield place, asked, prompt
                continue
            error = (
                f"hash_ids: {len(prompt.ids)} ids where {prompt.tokens} tokens have {due[0]} of "
                f"{size} tokens; say `id_tokens` if an id has another number"
            )
            records.bad(place, BadRecord(error))

    return checked(), size


def read_times(path: Path, form: Format) -> npt.NDArray[np.float64]:
    """Return the times of a log's requests in ms from the first, ascending; shape (requests,).

    Raises:
        WorkloadError: if the file cannot be read, or a request has no time.

    """
    times = array("d")
    for place, asked in Records(path, form.read):
        if asked.time is None:
            raise WorkloadError(f"{path}, {place}: no time, where only times are asked for")
        times.append(asked.time)
    found: npt.NDArray[np.float64] = np.array(times, dtype=np.float64)
    found.sort()
    found -= found.min(initial=math.inf)
    return found


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


def _refuse_mixed_times(path: Path, log: Log) -> None:
    times = np.array(log.times)
    since_1970 = times >= SINCE_1970_MS
    from_another = times < SINCE_1970_MS
    if since_1970.any() and from_another.any():
        raise WorkloadError(
            f"{path}: {int(since_1970.sum())} times count since 1970, "
            f"{int(from_another.sum())} from another beginning, such as "
            f"{times[from_another][0]:g} ms: have all count from the same"
        )


class Sessions:
    """Numbers the sessions as they come; one that goes on with another is that one."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._new = 0

    def of(self, asked: Asked) -> int:
        """Return the number of the request's session; `NONE` without."""
        if asked.session is None:
            return NONE
        known = self._numbers.get(asked.goes_on, self._numbers.get(asked.session))
        if known is None:
            known, self._new = self._new, self._new + 1
        self._numbers[asked.session] = known
        return known


def _id_tokens(sample: list[tuple[Place, Asked]], usual: int | None) -> int:
    """Return how many tokens an id has: what is said, is usual, is a power of 2, or else fits."""
    prompts = [asked.prompt for _, asked in sample if isinstance(asked.prompt, BlockIds)]
    said = next((prompt.id_tokens for prompt in prompts if prompt.id_tokens), None)
    if said:
        return said
    sizes = Counter((prompt.tokens, len(prompt.ids)) for prompt in prompts)

    def fits(size: int) -> int:
        return sum(n for (tokens, ids), n in sizes.items() if ids in _numbers(tokens, size))

    def fits_whole(size: int) -> tuple[int, int]:
        whole = sum(n for (tokens, ids), n in sizes.items() if ids == _numbers(tokens, size)[0])
        return fits(size), whole

    # Of those that fit as many, the first.
    likely: int = max([*([usual] if usual else []), *(2**i for i in range(14))], key=fits)
    other = max({-(-tokens // ids) for tokens, ids in sizes if ids}, key=fits_whole, default=likely)
    # One bad record among few must not make them all another size.
    due = len(prompts) if len(sizes) >= _SURE else len(prompts) / 2
    return likely if fits(likely) >= due or fits(other) <= fits(likely) else other


def _numbers(tokens: int, id_tokens: int) -> tuple[int, int]:
    """Return the numbers of ids that so many tokens may have; a last one may be missing."""
    return -(-tokens // id_tokens), tokens // id_tokens
