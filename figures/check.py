"""Fails if figures could not be drawn: ``python -m figures.check CONFIG RESULTS``, after all else.

A figure whose cells ran and gave nothing to draw (``style.not_drawn``) fails a run, but only once
its report is there; so does an engine whose environment is not there. A figure whose data set
cannot be had (``style.not_run``) does not; one that the config has no cells for is none of its
figures (``catalogue``).
"""

import sys
from pathlib import Path

from figures import catalogue, command, saved
from harness import config as configs
from harness.analysis import tables
from harness.engines.registry import ENGINES
from harness.errors import HarnessError
from harness.measure.records import NOT_RUN


def main() -> int:
    """Check the results named on the command line; return the exit code."""
    config, folder = map(
        Path, command.arguments("figures.check", str(__doc__), "CONFIG", "RESULTS")
    )
    try:
        run = configs.load(config)
        names = catalogue.names(run)
        figures = {name: saved.read(folder / "figures" / f"{name}.png") for name in names}
        not_run = set(tables.read_cells(folder / "cells.csv")["invalid_reason"])
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    lacking = {ENGINES[cell.engine].lacks(cell.tier) for cell in run.cells.values()}
    # Results that came from elsewhere may be whole.
    missing = [reason for reason in lacking if f"{NOT_RUN}: {reason}" in not_run]
    for reason in missing:
        print(f"error: not all was run: {reason}, then run this again", file=sys.stderr)
    reasons = [
        f"\n  {name}: {figure.caption}"
        for name, figure in figures.items()
        if figure.outcome == "not drawn"
    ]
    if reasons:
        print(
            f"error: {len(reasons)} of {len(names)} figures could not be drawn; the rest is made, "
            f"and report.html says the same:{''.join(reasons)}",
            file=sys.stderr,
        )
    return 1 if reasons or missing else 0


if __name__ == "__main__":
    sys.exit(main())
