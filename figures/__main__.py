"""Draws figures of a config's results into their folder.

``python -m figures NAME CONFIG RESULTS`` writes ``RESULTS/figures/NAME.png`` and ``.pdf``; ``all``
for the name draws every figure of the config. In the place of a figure that cannot be drawn it
writes a picture that says why, warns, and exits 0, so that a run goes on to its report;
``python -m figures.check`` then fails.
"""

import sys
from importlib import import_module
from pathlib import Path

from figures import captions, catalogue, command, style
from figures.catalogue import Entry
from harness.analysis import results
from harness.analysis.results import Results
from harness.errors import HarnessError


def main() -> int:
    """Draw what is named on the command line; return the exit code."""
    name, *paths = command.arguments("figures", str(__doc__), "NAME", "CONFIG", "RESULTS")
    config, folder = map(Path, paths)
    try:
        found = results.read(config, folder)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    entries = catalogue.entries(found.config)
    for each in entries if name == "all" else [name]:
        if each not in entries:
            print(
                f"error: {config} has no figure {each}, only {', '.join(entries)}", file=sys.stderr
            )
            return 1
        _draw(found, each, entries[each])
    return 0


def _draw(found: Results, name: str, entry: Entry) -> None:
    found = found.on(*entry.packages)
    try:
        figure = import_module(f"figures.{entry.module}").draw(found, entry)
        cells = found.cells_of(entry.tier, entry.workloads, entry.modes)
        style.foot(figure, captions.origin(cells))
    except HarnessError as error:
        print(f"warning: {name} is not drawn: {error}", file=sys.stderr)
        figure = style.not_drawn(entry.title, str(error))
    path = found.folder / "figures" / name
    style.save(figure, path.with_suffix(".png"), path.with_suffix(".pdf"))


if __name__ == "__main__":
    sys.exit(main())
