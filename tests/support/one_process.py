"""Measures all cells of a config in this process, whatever their tier.

Arguments: the config, the model's folder, the workload's file, and the folder for the cells.
An engine for each, one after the other, since the import takes longer than all else.
"""

import sys
from pathlib import Path

from vllm.distributed import cleanup_dist_env_and_memory

from harness import config
from harness.measure import offline
from harness.measure.order import WorkerOrder
from harness.turns import Turns, places


def main() -> None:
    parsed, model = config.load(Path(sys.argv[1])), sys.argv[2]
    workload, folder = map(Path, sys.argv[3:])
    for group, cells in parsed.groups.items():
        for name, spec in cells.items():
            home = folder / group / name
            home.mkdir(parents=True)
            (place,) = places(1)
            order = WorkerOrder(
                cells={home: spec},
                model=model,
                workload=workload,
                patches_sha256=None,
                progress_fd=-1,
                place=place,
            )
            offline.measure(order, Turns(place), report=print)
            cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()
