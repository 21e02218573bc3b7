"""Taking turns: of the cells that are compared, one runs at any time, and soon another.

A machine's speed drifts, on shared ones by more than policies differ. Measured one after the other,
two equal cells differ by that drift; in turns, it meets all of them alike.
"""

import contextlib
import os
import time
from collections.abc import Iterator

_TURN = b"t"


def ring(count: int) -> list[tuple[int, int]]:
    """Return a pair of descriptors for ``Turns`` for each of so many processes.

    The first one's turn it is. Who made them keeps them open until all processes have ended, so
    that none of these is hurt by another's end.
    """
    pipes = [os.pipe() for _ in range(count)]
    os.write(pipes[0][1], _TURN)
    return [(pipes[i][0], pipes[(i + 1) % count][1]) for i in range(count)]


class Turns:
    """One process's place in a ring in which a turn is handed on.

    Args:
        mine: Descriptor that has something to read when the turn is this process's.
        after: Descriptor to hand it on.

    """

    def __init__(self, mine: int, after: int) -> None:
        self._mine, self._after = mine, after
        self.waited = 0.0
        """Seconds spent waiting, so far."""

    @classmethod
    def alone(cls) -> "Turns":
        """Return the place of a process that is its whole ring."""
        ((mine, after),) = ring(1)
        return cls(mine, after)

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Wait for the turn, and hand it on in the end."""
        self._wait()
        try:
            yield
        finally:
            self._hand_on()

    def offer(self) -> None:
        """Within ``take``: let all others have a turn, and wait for the next."""
        self._hand_on()
        self._wait()

    def _wait(self) -> None:
        start = time.monotonic()
        os.read(self._mine, len(_TURN))
        self.waited += time.monotonic() - start

    def _hand_on(self) -> None:
        os.write(self._after, _TURN)
