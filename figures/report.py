"""The report: claims, figures, cells and policies as one HTML page that needs no other file.

``python -m figures.report CONFIG RESULTS OUT.html``
"""

import base64
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from figures import captions, command, saved
from figures.catalogue import Entry, entries
from harness import kvcache
from harness.analysis import claims, policies, study
from harness.analysis.results import Results, read
from harness.analysis.tables import ORIGIN
from harness.errors import HarnessError

_TEMPLATE = "report.html.j2"
# As much of a hash as tells two apart.
_HASH_CHARACTERS = 12
# By the definition of CSS.
_PIXELS_AN_INCH = 96
_NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"

Claim = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """A figure as the page shows it.

    ``picture`` is a PNG in base64, to be shown so many CSS pixels wide; ``cells`` are rows of
    ``cells.csv`` with ``x``, ``load`` and ``group``; ``origin`` has what they come from by the
    names of ``tables.ORIGIN``.
    """

    name: str
    entry: Entry
    picture: str
    width: int
    caption: str
    outcome: saved.Outcome
    cells: Sequence[Mapping[str, Any]]
    origin: Mapping[str, str]

    @property
    def invalid(self) -> int:
        """Number of the cells that are not valid."""
        return sum(not cell["valid"] for cell in self.cells)

    @property
    def groups(self) -> list[str]:
        """The folders of the groups of cells, each once."""
        return list(dict.fromkeys(cell["group"] for cell in self.cells))


def render(config_file: Path, results: Results, judged: Sequence[Claim]) -> str:
    """Return the page.

    Args:
        config_file: As the commands on the page are to name it.
        results: With every figure of the config in ``figures/``.
        judged: Of ``claims.json``.

    Raises:
        HarnessError: if a figure is missing, or has no caption in it.

    """
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "signed": _signed}
    name, is_study = results.config.name, results.config.study is not None
    return environment.get_template(_TEMPLATE).render(
        title=f"Eviction of vLLM's KV cache: study of {name.removeprefix('study-')}"
        if is_study
        else f"ARC eviction of vLLM's KV cache: results of config {name}",
        study=study.read(results.folder / "study.json") if is_study else None,
        study_rows=study.read_table(results.folder / "study.csv") if is_study else [],
        config=results.config,
        config_file=shlex.quote(str(config_file)),
        claims=judged,
        figures=[_shown(results, *item) for item in entries(results.config).items()],
        cells=results.cells,
        model=kvcache.DEFAULT,
        origin=_origin(results.cells),
        policies={
            workload: rows.assign(lru_needs=policies.lru_needs(rows)).to_dict("records")
            for workload, rows in results.policies.groupby("workload", sort=False)
        },
    )


def _shown(results: Results, name: str, entry: Entry) -> Shown:
    png = results.folder / "figures" / f"{name}.png"
    drawn = saved.read(png)
    own = results.on(*entry.packages)
    cells = pd.concat(
        [
            own.cells_of(entry.tier, entry.workloads, entry.modes),
            *(own.again(entry.tier, *key) for key in product(entry.workloads, entry.modes)),
        ]
    )
    cells = cells.astype(object).where(cells.notna(), None)
    return Shown(
        name,
        entry,
        base64.b64encode(png.read_bytes()).decode(),
        round(drawn.width * _PIXELS_AN_INCH),
        drawn.caption.removeprefix(f"{entry.title}. "),
        drawn.outcome,
        [
            {
                **cell,
                "load": captions.load(results.load(str(cell["cell"]))),
                "group": Path(str(cell["folder"])).parts[0],
            }
            for _, cell in cells.iterrows()
        ],
        _origin(cells),
    )


def _origin(cells: pd.DataFrame) -> dict[str, str]:
    """Return what cells come from, all that differ; without what none of them has."""
    found = {}
    for column in ORIGIN:
        values = sorted(set(cells[column].dropna().astype(str)))
        if column == "measured_at":
            minutes = [f"{value[:16].replace('T', ' ')} UTC" for value in values]
            values = list(dict.fromkeys([*minutes[:1], *minutes[-1:]]))
        elif column.endswith("sha256"):
            values = [value[:_HASH_CHARACTERS] for value in values]
        if values:
            found[column] = (" to " if column == "measured_at" else "; ").join(values)
    return found


def _number(value: object, form: str) -> str:
    """Write a number, or that there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _NONE
    return format(value, form).replace("-", _MINUS)


def _signed(value: float | None) -> str:
    """Write a difference to one place."""
    # Nothing has no sign.
    return _number(value, "+.1f") if value is None or round(value, 1) else "0.0"


def main() -> int:
    """Write the report named on the command line; return the exit code."""
    given = command.arguments("figures.report", str(__doc__), "CONFIG", "RESULTS", "OUT.html")
    config, folder, output = map(Path, given)
    try:
        judged = claims.load(folder / "claims.json")
        page = render(config, read(config, folder), judged)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    partial.write_text(page)
    os.replace(partial, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
