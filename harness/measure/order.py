"""What the process that measures cells is told, and what it answers."""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from harness import turns
from harness.cell import CellSpec

# How a worker's last line begins that says what went wrong.
FAILED = "failed: "
# How a line begins that says how many more requests are done.
DONE = "done: "
# Of a cell's number in a queue.
_BYTES = 4


class WorkerOrder(BaseModel):
    """What a worker process is told, as JSON on its command line.

    ``cells`` are by the folder that each is written to; they share the model and the workload.
    ``place`` is of ``Turns``, ``beside`` the cells that it takes turns with. ``queue_fd``, if any,
    is a ``queue`` of numbers of cells: those read from it are this process's to measure.
    """

    cells: dict[Path, CellSpec]
    model: str
    workload: Path
    patches_sha256: str | None
    progress_fd: int
    place: turns.Place
    beside: tuple[str, ...] = ()
    queue_fd: int | None = None

    def mine(self) -> Iterator[tuple[Path, CellSpec]]:
        """Yield the cells to measure, each as late as can be: others take theirs meanwhile."""
        cells = list(self.cells.items())
        if self.queue_fd is None:
            yield from cells
            return
        while number := os.read(self.queue_fd, _BYTES):
            yield cells[int.from_bytes(number)]


def queue(count: int) -> int:
    """Return a descriptor from which processes read the numbers of so many cells, each once."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as numbers:
        # A pipe that nobody reads yet holds 64 KiB, more cells than there ever are.
        numbers.write(b"".join(number.to_bytes(_BYTES) for number in range(count)))
    return reading
