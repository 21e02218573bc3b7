"""What the process that measures cells is told."""

from pathlib import Path

from pydantic import BaseModel

from harness import turns
from harness.cell import CellSpec

# How a worker's last line begins that says what went wrong.
FAILED = "failed: "


class WorkerOrder(BaseModel):
    """What a worker process is told, as JSON on its command line.

    ``cells`` are by the folder that each is written to; they share the model and the workload.
    ``place`` is of ``Turns``, ``beside`` the cells that it takes turns with.
    """

    cells: dict[Path, CellSpec]
    model: str
    workload: Path
    patches_sha256: str | None
    progress_fd: int
    place: turns.Place
    beside: tuple[str, ...] = ()
