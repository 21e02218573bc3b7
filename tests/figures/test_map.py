from pathlib import Path

import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from support import maps as made_up
from support.drawn import caption, legend, title
from support.results import row

from figures import catalogue
from figures import map as figure_map
from harness import config
from harness.analysis import maps, policies, traffic
from harness.analysis.results import Results
from harness.errors import HarnessError

_STUDY = {
    "cache_tokens": 16_000,
    "model": "m",
    "kv_bytes_per_token": 1,
    "base_ms": 0,
    "ms_per_token": 1,
    "ttft_from": "x",
}


def _draw(results: Results, name: str) -> Figure:
    return figure_map.draw(results, catalogue.entries(results.config)[name])


@pytest.fixture
def mapped(root: Path, tmp_path: Path) -> Results:
    maps.write(made_up.table(), tmp_path / "map.csv")
    given = config.load(root / "config" / "map.yaml")
    cells = pd.DataFrame([row(workload="skew-10")])
    return Results(given, tmp_path, cells, pd.DataFrame())


@pytest.fixture
def studied(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.setattr(maps, "SHIPPED", tmp_path / "shipped.csv")
    maps.write(made_up.table(), maps.SHIPPED)
    traffic.write(made_up.traffic(**made_up.CHATS), tmp_path / "traffic.json")
    base = config.load(root / "config" / "cpu.yaml").model_dump()
    experiment = {
        "tier": "replay",
        "workload": "mine",
        "policies": ["lru", "arc"],
        "cache_tokens": [16_000, 32_000],
    }
    own = {
        "tiers": {"replay": {"block_size": 16}},
        "workloads": {"mine": {"kind": "docqa"}},
        "experiments": {"one": experiment},
        "study": _STUDY,
    }
    given = config.Config.model_validate(base | own)
    cells = pd.DataFrame(
        [
            row(workload="mine", policy=policy, cache_tokens=size, hit_rate=rate)
            | {"hit_rate_per_block": rate}
            for size in (16_000, 32_000)
            for policy, rate in (("lru", 0.3), ("arc", 0.36))
        ]
    )
    return Results(given, tmp_path, cells, policies.compare(cells, []))


def _points(figure: Figure, panel: int) -> list[list[tuple[float, float]]]:
    """Return where the marks of a panel are, those of the map's own points first."""
    return [
        [(float(x), float(y)) for x, y in found.get_offsets()]  # type: ignore[union-attr]
        for found in figure.axes[panel].collections
        if isinstance(found, PathCollection)
    ]


def test_config_with_a_map_has_that_figure_alone(mapped: Results) -> None:
    assert catalogue.names(mapped.config) == ["map"]


def test_draws_both_maps_with_what_lies_on_them(mapped: Results) -> None:
    figure = _draw(mapped, "map")
    titles = [title(axes) for axes in figure.axes[:4]]
    assert titles[0] == "documents: ARC less LRU"
    assert titles[3] == "conversations: best other policy less LRU"
    own, full, papers, traces = _points(figure, 0)
    assert len(own) == 4
    assert full == [(1.0, pytest.approx(0.2))]
    # Its six sizes, of what the full size holds.
    assert [share for _, share in papers][::5] == pytest.approx([50_000 / 4e5, 300_000 / 4e5])
    assert traces == [(pytest.approx(0.5), pytest.approx(0.2))]
    # The paper has no other policy that is ours.
    assert len(_points(figure, 2)) == 3
    said = caption(figure)
    assert "documents 1.0 points for ARC, 0.0 for the best (1 squares)" in said
    assert "Not to be had here: " in said
    assert "bailian-a" in said
    assert {"as good as LRU", "real trace"} < set(legend(figure.legends[0]))


def test_colours_are_as_strong_for_a_loss_as_for_a_gain(mapped: Results) -> None:
    for axes in _draw(mapped, "map").axes[:4]:
        for drawn in axes.collections:
            if drawn.get_array() is not None and isinstance(drawn, PathCollection):
                assert (drawn.norm.vmin, drawn.norm.vmax) == (-9, 9)


def test_study_marks_its_traffic_on_the_map_of_its_kind(studied: Results) -> None:
    figure = _draw(studied, "where-mine")
    assert [title(axes) for axes in figure.axes[:2]] == [
        "conversations: ARC less LRU",
        "conversations: best other policy less LRU",
    ]
    mine = _points(figure, 0)[-1]
    assert mine == [(pytest.approx(60), 0.8), (pytest.approx(60), 1.6)]
    assert "this traffic, larger at the cache asked about" in legend(figure.legends[0])


def test_without_a_shipped_map_a_study_has_no_such_figure(studied: Results) -> None:
    maps.SHIPPED.unlink()
    assert "where-mine" not in catalogue.names(studied.config)


def test_damaged_map_is_named(mapped: Results) -> None:
    (mapped.folder / "map.csv").write_text("x\n")
    with pytest.raises(HarnessError, match=r"map\.csv"):
        _draw(mapped, "map")
