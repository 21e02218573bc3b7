import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes
from support.drawn import caption
from support.results import row

from figures import catalogue, policies, style
from harness import config
from harness.analysis import policies as tables
from harness.analysis.results import Results
from harness.errors import HarnessError

_SIZES = (16_000, 160_000)
_CONFIG: dict[str, Any] = {
    "name": "mine",
    "rivals": ["mine"],
    "tiers": {"replay": {"block_size": 16}},
    "workloads": {"mine": {"kind": "docqa"}, "other": {"kind": "docqa"}},
    "experiments": {
        name: {
            "tier": "replay",
            "workload": name,
            "policies": ["lru", "arc"],
            "cache_tokens": list(_SIZES),
        }
        for name in ("mine", "other")
    },
}
_RATES = {
    "lru": (0.2, 0.4),
    "arc": (0.3, 0.5),
    ("chains", "lru-2"): (0.1, 0.35),
    ("told", "t-lru"): (0.25, 0.41),
    ("blocks", "lru"): (0.2, 0.4),
    ("bound", "optimum"): (0.6, 0.8),
    ("bound", "infinite"): (0.9, 0.9),
}


def _results(folder: Path, **changes: Any) -> Results:
    given = config.parse(_CONFIG | changes, "test")
    cells, others = [], []
    for name, rates in _RATES.items():
        for size, rate in zip(_SIZES, rates, strict=True):
            if isinstance(name, str):
                cell = {"policy": name, "cache_tokens": size, "hit_rate": rate}
                cells.append(
                    row(workload="mine", ttft_kind=None, ttft_mean_ms=None, hit_rate_per_block=rate)
                    | cell
                )
            else:
                others.append(("mine", 42, size, name[1], name[0], rate, rate))
    bounds = pd.DataFrame(others, columns=list(tables._BOUND_COLUMNS))
    table = pd.DataFrame(cells)
    return Results(given, folder, table, tables.compare(table, [bounds]))


def _draw(results: Results) -> Any:
    return policies.draw(results, catalogue.entries(results.config)["policies"])


def _line(axes: Axes, color: str) -> list[list[float]]:
    return [
        list(map(float, line.get_ydata()))  # type: ignore[arg-type]
        for line in axes.get_lines()
        if line.get_color() == color
    ]


def test_gains_are_beside_the_caches_that_lru_would_need(tmp_path: Path) -> None:
    figure = _draw(_results(tmp_path))
    gains, caches = figure.axes[:2]
    ((arc,), (needed, beyond)) = (_line(axes, style.COLORS["arc"]) for axes in (gains, caches))
    assert arc == pytest.approx([10, 10])
    # Half of the way to ten times the cache; of the largest it is not known.
    assert needed[0] == pytest.approx(10**0.5, abs=1e-4)
    assert math.isnan(needed[1])
    assert beyond == [1]
    said = caption(figure)
    for words in ("blocks see single blocks only", "told what no engine knows", "Hollow"):
        assert words in said
    assert "leave a panel" not in said
    legend = [each.get_text() for each in figure.legends[0].get_texts()]
    for name in ("ARC", "lru-2", "t-lru", "offline optimum"):
        assert name in legend
    assert "infinite" not in legend


def test_losses_off_the_panel_are_said(tmp_path: Path) -> None:
    results = _results(tmp_path)
    table = results.policies
    table.loc[table["policy"] == "lru-2", "points_over_lru"] = -90.0
    assert "Lines that leave a panel at the bottom lose more" in caption(_draw(results))


def test_workloads_with_two_policies_beside_lru_have_it(tmp_path: Path) -> None:
    entry = catalogue.entries(_results(tmp_path).config)["policies"]
    assert entry.workloads == ("mine",)
    alone = config.parse(_CONFIG | {"rivals": []}, "test")
    assert "policies" not in catalogue.entries(alone)


def test_without_lru_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    results = _results(tmp_path)
    bare = Results(results.config, tmp_path, results.cells, results.policies.iloc[:0])
    with pytest.raises(HarnessError, match="no cell"):
        policies.draw(
            Results(bare.config, tmp_path, bare.cells.iloc[:0], bare.policies),
            catalogue.entries(bare.config)["policies"],
        )
