from pathlib import Path

import pytest
from support.results import experiment, measured, record

from figures import catalogue, style
from figures import fleet as figure
from harness.analysis.results import Results
from harness.cell import CellSpec, Fleet
from harness.errors import HarnessError
from harness.measure.records import RequestRecord

_ENTRY = catalogue.FIGURES["fleet"]
_LOADS = [
    {"mode": "fleet", "engines": engines, "router": router}
    for router in ("round-robin", "scored")
    for engines in (2, 4)
]
_GRID = {"tier": "replay", "workload": "docqa-quality", "cache_tokens": [50_000]}


def _made(spec: CellSpec) -> list[RequestRecord]:
    at_many = spec.load.engines if isinstance(spec.load, Fleet) else 5
    cached = 10 * at_many + (20 if spec.policy == "arc" else 0)
    return [record(i, i, 1.0, cached_tokens=cached) for i in range(5)]


def _results(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    found = measured(
        root,
        folder,
        _made,
        experiment(**_GRID, loads=_LOADS),
        experiment(**_GRID | {"cache_tokens": [50_000, 100_000, 200_000]}),
    )
    state = Results.telemetry
    monkeypatch.setattr(Results, "telemetry", lambda *a: state(*a).assign(busiest=0.3))
    return found


def test_panels_are_routers_and_show_one_engine_beside(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figure.draw(_results(root, tmp_path, monkeypatch), _ENTRY)
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["round-robin", "scored"]
    for axes in drawn.axes:
        lru, one, arc, _ = axes.get_lines()
        assert list(lru.get_xdata()) == pytest.approx([100, 200], rel=1e-2)
        assert list(lru.get_ydata()) == pytest.approx([0.2, 0.4])
        assert list(arc.get_ydata()) == pytest.approx([0.4, 0.6])
        assert list(one.get_ydata()) == pytest.approx([0.5] * 3)
        (said,) = axes.texts
        assert said.get_text() == "busiest of 4: 30 % of requests"
    caption = style.caption(drawn)
    assert caption.startswith("Fleets: several engines behind a router. Tier replay: vLLM's")
    assert "50k tokens (docqa-quality)" in caption


def test_nothing_valid_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _results(root, tmp_path, monkeypatch)
    found.cells["valid"], found.cells["invalid_reason"] = False, "late"
    with pytest.raises(HarnessError, match="none of its"):
        figure.draw(found, _ENTRY)
