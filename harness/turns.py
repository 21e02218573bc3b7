"""Taking turns: of the cells that are compared, one runs at any time, and soon another.

A machine's speed drifts, on shared ones by more than policies differ. Measured one after the other,
two equal cells differ by that drift; in turns, it meets all of them alike.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_TURN = b"t"


def order(round_: int, count: int) -> list[int]:
    """Return who comes after whom in a round, of so many.

    The order is reversed in every other round, so that what drifts steadily meets all alike, and
    rotated by one after these two, so that none is always at an end: who ends one round begins the
    next, on caches that are still its own.
    """
    row = [(round_ // 2 + i) % count for i in range(count)]
    return row[::-1] if round_ % 2 else row


@dataclass(frozen=True)
class Place:
    """One process's place among those that take turns.

    ``mine`` is a descriptor that has something to read when the turn is this process's, ``give``
    has one for each process, itself included, to give it the turn; ``number`` is its own there.
    """

    number: int
    mine: int
    give: tuple[int, ...]


def places(count: int) -> list[Place]:
    """Return a place for each of so many processes; it is the first one's turn.

    Who made them keeps their descriptors open until all processes have ended, so that none of these
    is hurt by another's end.
    """
    pipes = [os.pipe() for _ in range(count)]
    give = tuple(writing for _, writing in pipes)
    os.write(give[order(0, count)[0]], _TURN)
    return [Place(number, reading, give) for number, (reading, _) in enumerate(pipes)]


class Turns:
    """The turns of one process. All must have as many: who has left takes no turn, and keeps it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._round = 0
        self.waited = 0.0
        """Seconds spent waiting, so far."""
        self.at_end: Callable[[], object] = lambda: None
        """Called as a turn is offered, before the others have theirs."""

    @classmethod
    def alone(cls) -> "Turns":
        """Return the turns of a process that has nobody beside it."""
        (place,) = places(1)
        return cls(place)

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Wait for the turn, and hand it on in the end."""
        self._wait()
        try:
            yield
        finally:
            self._hand_on()

    def offer(self) -> None:
        """Within ``take``: let all others have theirs of this round, and wait for the next."""
        self.at_end()
        self._hand_on()
        self._wait()

    def _wait(self) -> None:
        start = time.monotonic()
        os.read(self._place.mine, len(_TURN))
        self.waited += time.monotonic() - start

    def _hand_on(self) -> None:
        number, give = self._place.number, self._place.give
        coming = order(self._round, len(give)) + order(self._round + 1, len(give))
        self._round += 1
        os.write(give[coming[coming.index(number) + 1]], _TURN)
