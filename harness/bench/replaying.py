"""Times cells of tier replay; run by ``harness.bench.replay``.

A process of its own, since the engine that it imports is decided by its search path. Its argument
is an ``Order`` as JSON, its last line of output each cell's ms of CPU time a request, as a JSON
list.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from harness.bench.replay import Order
from harness.cell import CellSpec
from harness.measure import offline, records
from harness.measure.order import WorkerOrder
from harness.turns import Place, Turns


def main() -> None:
    """Run the order given on the command line."""
    order = Order.model_validate_json(sys.argv[1])
    print(json.dumps([_ms_per_request(spec, order) for spec in order.cells]))


def _ms_per_request(spec: CellSpec, order: Order) -> float:
    # Of a lone cell, the first report is that its engine is ready, the last that all its requests
    # have finished; what it writes, it writes after that.
    clock: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        offline.measure(
            WorkerOrder(
                cells={folder: spec},
                model=str(order.model),
                workload=order.workloads[spec.workload],
                patches_sha256=None,
                progress_fd=-1,
                place=Place(0, -1, (-1,)),
            ),
            Turns.alone(),
            report=lambda _: clock.append(time.process_time()),
        )
        requests: int = records.read_summary(folder)["requests"]
    return (clock[-1] - clock[0]) / requests * 1e3


if __name__ == "__main__":
    main()
