"""How far a job has come, in lines: how much is done, how fast, and how long it will take.

Lines and no bar that moves: they go through a log, beside those of other jobs.
"""

import time
from collections.abc import Callable

_WIDTH = 20
_SECONDS = 5.0


class Pulse:
    """Says now and then how many more requests are done.

    Args:
        say: Called with a number.
        seconds: At most once in so many.

    """

    def __init__(self, say: Callable[[int], object], seconds: float = 0.5) -> None:
        self._say, self._seconds = say, seconds
        self._count, self._last = 0, time.monotonic()

    def add(self, count: int) -> None:
        """Count requests that are done."""
        self._count += count
        if time.monotonic() >= self._last + self._seconds:
            self.flush()

    def flush(self) -> None:
        """Say what was not said yet."""
        if self._count:
            self._say(self._count)
        self._count, self._last = 0, time.monotonic()


class Bar:
    """Adds up what all processes of a job have done.

    Args:
        total: Requests, of all cells together.
        clock: In seconds.

    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._done = self._before = 0
        self._start: float | None = None
        self._last = clock()

    def add(self, count: int) -> str | None:
        """Count requests that are done; return a line if one is due."""
        now = self._clock()
        self._done += count
        if self._start is None:
            # What an engine took to start is no part of its speed.
            self._start, self._before = now, self._done
            self._last = now
        if now < self._last + _SECONDS or now == self._start:
            return None
        self._last = now
        rate = (self._done - self._before) / (now - self._start)
        share = min(1.0, self._done / self._total)
        filled = int(_WIDTH * share)
        line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {100 * share:.0f} %"
        if not rate:
            return line
        left = (self._total - self._done) / rate
        return f"{line} of {self._total:,} requests, {rate:,.0f}/s, {_minutes(left)} left"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02d}"
