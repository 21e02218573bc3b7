"""The process that measures cells: its only argument is a ``WorkerOrder`` as JSON."""

import os
import select
import signal
import sys
import threading

from harness.cell import FAILED, WorkerOrder
from harness.errors import HarnessError
from harness.turns import Turns
from workloads.file import WorkloadError


def main() -> None:
    """Measure the ordered cells."""
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    order = WorkerOrder.model_validate_json(sys.argv[1])

    # The engine's import takes seconds: after the parent can no longer be lost.
    from harness.load import batch, online

    is_batch = all(spec.load.mode == "batch" for spec in order.cells.values())
    measure = batch.measure if is_batch else online.measure
    with os.fdopen(order.progress_fd, "w", buffering=1) as progress:
        try:
            measure(
                order,
                Turns(order.place),
                report=lambda message: print(message, file=progress),
            )
        except (HarnessError, WorkloadError) as error:
            print(f"{FAILED}{error}".replace("\n", " "), file=progress)
            sys.exit(1)
        sys.stdout.flush()
        sys.stderr.flush()
    # All is written; taking the engine apart would only cost seconds.
    os._exit(0)


def die_with(parent: int) -> None:
    """End this process group when the parent is gone, even by SIGKILL."""
    try:
        descriptor = os.pidfd_open(parent)
        # Not the parent any more: it died before, and the pid may be another's by now.
        if os.getppid() == parent:
            select.select([descriptor], [], [])
    except ProcessLookupError:
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
