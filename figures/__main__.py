"""Draws one figure: ``python -m figures NAME CONFIG RESULTS OUT.png OUT.pdf``."""

import sys
from importlib import import_module
from pathlib import Path

from figures import style
from figures.catalogue import FIGURES
from harness.analysis import results
from harness.errors import HarnessError


def main() -> int:
    """Draw the figure named on the command line; return the exit code."""
    name, *paths = sys.argv[1:]
    config, folder, png, pdf = map(Path, paths)
    entry = FIGURES[name]
    try:
        figure = import_module(f"figures.{entry.module}").draw(results.read(config, folder), entry)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    style.save(figure, png, pdf)
    return 0


if __name__ == "__main__":
    sys.exit(main())
