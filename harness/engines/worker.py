"""The process that measures one cell: its only argument is a ``WorkerOrder`` as JSON."""

import ctypes
import os
import signal
import sys

from harness.cell import WorkerOrder


def main() -> None:
    """Measure the ordered cell."""
    _die_with(parent=os.getppid())
    order = WorkerOrder.model_validate_json(sys.argv[1])

    # The engine's import takes seconds: after the parent can no longer be lost.
    from harness.load import batch

    with os.fdopen(order.progress_fd, "w", buffering=1) as progress:
        batch.measure(order, report=lambda message: print(message, file=progress))
        sys.stdout.flush()
        sys.stderr.flush()
    # All is written; taking the engine apart would only cost seconds.
    os._exit(0)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, even of SIGKILL."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # It died before the call.
        sys.exit(1)


if __name__ == "__main__":
    main()
