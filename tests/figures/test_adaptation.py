from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.drawn import caption
from support.results import experiment, measured, record

from figures import adaptation
from figures.catalogue import FIGURES
from harness.analysis.results import Results
from harness.cell import CellSpec
from harness.config import Config
from harness.errors import HarnessError
from harness.measure.records import RequestRecord

_ENTRY = FIGURES["adaptation"]
_HITS = {"lru": (10, 30, 10), "arc": (30, 20, 30), "alrfu": (40, 30, 40)}
_PHASE = 300
_SIZES = [50_000, 100_000]
_GRID = experiment(
    tier="replay",
    workload="docqa-sharegpt-docqa",
    policies=list(_HITS),
    cache_tokens=_SIZES,
)


def _made(spec: CellSpec) -> Sequence[RequestRecord]:
    more = 5 * (spec.cache_tokens > 50_000)
    return [
        record(i, i, 1, cached_tokens=_HITS[spec.policy][i // _PHASE] + more)
        for i in range(3 * _PHASE)
    ]


def _results(root: Path, folder: Path, made: Any = _made, seeds: Sequence[int] = (42,)) -> Results:
    found = measured(root, folder, made, _GRID | {"seeds": seeds}, base="policies")
    content = found.config.model_dump()
    for phase in content["workloads"]["docqa-sharegpt-docqa"]["phases"]:
        phase["requests"] = _PHASE
    for path in folder.glob("cells/*/*alrfu"):
        half_life = np.repeat([4.0, 0.0, 16.0], _PHASE)
        state = pd.DataFrame({"request": range(3 * _PHASE), "half_life": half_life})
        state.to_parquet(path / "telemetry.parquet")
    return Results(Config.model_validate(content), folder, found.cells, found.policies)


def test_half_life_above_and_hit_rates_of_each_phase_below(root: Path, tmp_path: Path) -> None:
    figure = adaptation.draw(_results(root, tmp_path, seeds=(42, 43)), _ENTRY)
    above, below = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title(loc="left") for axes in above] == ["50k tokens", "100k tokens"]
    # 0, then 1, 2, 4, ... a step each.
    steps = np.asarray(above[0].get_lines()[0].get_ydata(), float)
    assert [steps[0], steps[_PHASE], steps[2 * _PHASE]] == [3, 0, 5]
    names = [label.get_text() for label in above[0].get_yticklabels()]
    assert names == ["0 (LRU)", "1", "2", "4", "8", "16"]
    assert [text.get_text() for text in above[0].texts] == ["docqa", "sharegpt", "docqa"]
    for axes, more in zip(below, (0, 5), strict=True):
        lines = [np.asarray(line.get_ydata(), float) for line in axes.get_lines()]
        for line, hits in zip(lines, _HITS.values(), strict=False):
            for phase, hit in enumerate(hits):
                # Of its own requests only, once there are some.
                own = line[phase * _PHASE : (phase + 1) * _PHASE]
                assert np.isnan(own[:49]).all()
                assert own[49:] == pytest.approx((hit + more) / 100)
        changes = [line.get_xdata()[0] for line in axes.get_lines()[3:]]  # type: ignore[index]
        assert changes == [_PHASE, 2 * _PHASE]
    # The highest of both.
    assert below[0].get_ylim() == pytest.approx((0, 0.45 * 1.08))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["LRU", "ARC", "ALRFU"]
    said = caption(figure)
    assert "turnovers" in said
    assert "300 of docqa, then 300 of sharegpt, then 300 of docqa" in said
    assert "seed 42." in said
    assert "seed 43" in said.partition("Not in this figure")[2]


def test_nothing_that_could_be_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    figure = adaptation.draw(_results(root, tmp_path, lambda _: "no network"), _ENTRY)
    assert "no network" in caption(figure)


def test_nothing_valid_is_refused(root: Path, tmp_path: Path) -> None:
    def broken(spec: CellSpec) -> Sequence[RequestRecord]:
        rows = list(_made(spec))
        if spec.policy == "alrfu":
            rows[-1] = record(3 * _PHASE - 1, 0, 1, status="reset", error="gone")
        return rows

    with pytest.raises(HarnessError, match="none of its 2 cells is valid"):
        adaptation.draw(_results(root, tmp_path, broken), _ENTRY)
