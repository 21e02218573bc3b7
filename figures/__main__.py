"""Draws figures of a config's results into their folder.

``python -m figures NAME CONFIG RESULTS`` writes ``RESULTS/figures/NAME.png`` and ``.pdf``; ``all``
for the name draws every figure of the config.
"""

import sys
from importlib import import_module
from pathlib import Path

from figures import captions, catalogue, style
from harness.analysis import results
from harness.analysis.results import Results
from harness.errors import HarnessError


def main() -> int:
    """Draw what is named on the command line; return the exit code."""
    name, *paths = sys.argv[1:]
    config, folder = map(Path, paths)
    try:
        found = results.read(config, folder)
        for each in catalogue.names(found.config) if name == "all" else [name]:
            _draw(found, each)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _draw(found: Results, name: str) -> None:
    entry = catalogue.FIGURES[name]
    figure = import_module(f"figures.{entry.module}").draw(found, entry)
    style.foot(figure, captions.origin(found.cells_of(entry.tier, entry.workloads, entry.modes)))
    path = found.folder / "figures" / name
    style.save(figure, path.with_suffix(".png"), path.with_suffix(".pdf"))


if __name__ == "__main__":
    sys.exit(main())
