"""The process that measures cells: its only argument is a ``WorkerOrder`` as JSON."""

import os
import sys
import threading

from harness.errors import HarnessError
from harness.measure.order import DONE, FAILED, WorkerOrder
from harness.processes import die_with
from harness.turns import Turns
from workloads.file import WorkloadError


def main() -> None:
    """Measure the ordered cells."""
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    order = WorkerOrder.model_validate_json(sys.argv[1])

    # The engine's import takes seconds: after the parent can no longer be lost.
    from harness.measure import offline, served

    is_batch = all(spec.load.mode == "batch" for spec in order.cells.values())
    is_replay = all(spec.tier == "replay" for spec in order.cells.values())
    with os.fdopen(order.progress_fd, "w", buffering=1) as progress:

        def say(message: str) -> None:
            print(message, file=progress)

        def done(count: int) -> None:
            say(f"{DONE}{count}")

        try:
            if is_replay:
                offline.measure(order, Turns(order.place), say, done)
            elif is_batch:
                offline.measure(order, Turns(order.place), say)
            else:
                served.measure(order, Turns(order.place), say)
        except (HarnessError, WorkloadError) as error:
            print(f"{FAILED}{error}".replace("\n", " "), file=progress)
            sys.exit(1)
        sys.stdout.flush()
        sys.stderr.flush()
    # All is written; taking the engine apart would only cost seconds.
    os._exit(0)


if __name__ == "__main__":
    main()
