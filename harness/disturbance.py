"""What disturbed a cell: time in which it could have run, had others not had the cores.

Linux counts two such times. A thread's *run delay* is how long it was ready to run and waited for a
core (``/proc/PID/schedstat``); *steal* is how long a virtual machine's cores were ready to run and
its host ran something else (``/proc/stat``). Both are read as each turn begins and ends, so that
what the others' turns suffer does not count. A disturbed cell is still valid: in a ring, the others
were most likely disturbed as much.

Of a process its first thread counts, which does the work: of the engine's other threads, dozens
wake every 10 ms to see whether there is any, all at once, and wait for each other.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
# On two shared cores on which nothing else runs, cells lose 5 to 15 % of their time. With more than
# this, a cell's TTFT may be off by more than policies differ by: the paper's are 6 to 13 % apart.
MAX_LOST_SHARE = 0.2


@dataclass(frozen=True)
class Turn:
    """One turn of a cell: the columns of ``turns.parquet``.

    Times in ns, ``start_ns`` and ``end_ns`` on the monotonic clock, which in an open loop is ahead
    of the schedule's time. ``run_delay_ns`` adds up over the processes of the engine and those
    that measure, ``steal_ns`` over all cores; None: the kernel does not say.
    """

    first_request: int
    start_ns: int
    end_ns: int
    run_delay_ns: int | None
    steal_ns: int | None


class Watch:
    """Keeps what disturbs the turns of some processes; without any, nothing.

    Args:
        pids: Of the engine and of who measures it.

    """

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self.turns: list[Turn] = []
        """Those that have ended."""

    def add(self, *pids: int) -> None:
        """Watch more processes, which measure too; nothing, where there are none so far."""
        if self._pids:
            self._pids += pids

    @contextlib.contextmanager
    def turn(self, first_request: int) -> Iterator[None]:
        """Watch a turn that begins with a request."""
        if not self._pids:
            yield
            return
        delays, stolen = self._run_delays_ns(), _stolen_ns()
        start_ns = time.monotonic_ns()
        yield
        end_ns = time.monotonic_ns()
        # Of a process that has ended since, nothing is known any more.
        grown = [ns - delays[pid] for pid, ns in self._run_delays_ns().items() if pid in delays]
        self.turns.append(
            Turn(
                first_request,
                start_ns,
                end_ns,
                run_delay_ns=sum(grown) if grown else None,
                steal_ns=None if stolen is None else (_stolen_ns() or stolen) - stolen,
            )
        )

    def _run_delays_ns(self) -> dict[int, int]:
        """Return the run delay of each process."""
        found = {}
        for pid in self._pids:
            with contextlib.suppress(OSError):
                text = (_PROC / str(pid) / "schedstat").read_text()
                _, delay_ns, timeslices = map(int, text.split())
                # A kernel that does not count says so with zeros.
                if timeslices:
                    found[pid] = delay_ns
        return found


def processes_of(group: int) -> list[int]:
    """Return the processes of a process group."""
    found = []
    for name in os.listdir(_PROC):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.getpgid(int(name)) == group:
                found.append(int(name))
    return found


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return what a summary says of a cell's turns: the shares of their time that were lost.

    ``disturbed`` says so if these are more than the limit, and is empty otherwise.
    """
    seconds = sum(turn.end_ns - turn.start_ns for turn in turns)
    run_delay = _share([turn.run_delay_ns for turn in turns], seconds)
    steal = _share([turn.steal_ns for turn in turns], seconds)
    disturbed = (run_delay or 0.0) + (steal or 0.0) > MAX_LOST_SHARE
    said = f"waiting for a core took {_percent(run_delay)} of its time, steal {_percent(steal)}"
    return {
        "run_delay_share": run_delay,
        "steal_share": steal,
        "disturbed": said if disturbed else "",
    }


def _share(lost_ns: Sequence[int | None], all_ns: int) -> float | None:
    known = [ns for ns in lost_ns if ns is not None]
    return sum(known) / all_ns if known and len(known) == len(lost_ns) and all_ns else None


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.0f} %"


def _stolen_ns() -> int | None:
    """Return the time stolen from all cores since the machine started."""
    try:
        with (_PROC / "stat").open() as file:
            # cpu user nice system idle iowait irq softirq steal ...
            ticks = int(file.readline().split()[8])
    except (OSError, IndexError):
        return None
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
