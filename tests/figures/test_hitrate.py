from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.drawn import caption, legend, text, y_of
from support.results import row

from figures import catalogue, hitrate, style
from harness import config
from harness.analysis.results import Results
from harness.errors import HarnessError

_CONFIG: dict[str, Any] = {
    "name": "mine",
    "tiers": {"replay": {"block_size": 16}},
    "workloads": {"mine": {"kind": "docqa"}},
    "experiments": {
        "mine": {
            "tier": "replay",
            "workload": "mine",
            "policies": ["lru", "arc"],
            "cache_tokens": [16_000, 160_000],
        }
    },
}
_STUDY = {
    "cache_tokens": 160_000,
    "model": "a model",
    "kv_bytes_per_token": 2**30 / 1000,
    "base_ms": 0,
    "ms_per_token": 1,
    "ttft_from": "a line",
}


def _results(folder: Path, *rows: dict[str, Any], **changes: Any) -> Results:
    given = config.parse(_CONFIG | changes, "test")
    names = {(cell.policy, cell.cache_tokens): name for name, cell in given.cells.items()}
    cells = [
        row(workload="mine", ttft_kind=None, ttft_mean_ms=None)
        | each
        | {"cell": names.get((each["policy"], each["cache_tokens"]), next(iter(names.values())))}
        for each in rows
    ]
    bounds = [
        ["mine", size, "bound", name, rate]
        for size in (16_000, 160_000)
        for name, rate in (("optimum", 0.6), ("infinite", 0.9))
    ]
    columns = ["workload", "cache_tokens", "kind", "policy", "hit_rate"]
    return Results(given, folder, pd.DataFrame(cells), pd.DataFrame(bounds, columns=columns))


def _cell(policy: str, size: int, rate: float, **changes: Any) -> dict[str, Any]:
    return {"policy": policy, "cache_tokens": size, "hit_rate": rate, **changes}


def _draw(results: Results) -> Any:
    return hitrate.draw(results, catalogue.entries(results.config)["hitrate-mine"])


def test_draws_all_policies_and_both_bounds(tmp_path: Path) -> None:
    figure = _draw(
        _results(
            tmp_path,
            _cell("lru", 16_000, 0.1),
            _cell("lru", 160_000, 0.4),
            _cell("arc", 16_000, 0.2),
            _cell("arc", 160_000, 0.5, valid=False, invalid_reason="bad"),
        )
    )
    drawn = [y_of(line) for line in figure.axes[0].get_lines()]
    for line in ([0.1, 0.4], [0.2], [0.6, 0.6], [0.9, 0.9]):
        assert line in drawn
    assert legend(figure.legends[0]) == ["LRU", "ARC", "offline optimum", "infinite cache"]
    assert "one request at a time" in caption(figure)
    assert "1 invalid cell not drawn" in caption(figure)


def test_one_size_and_one_request_are_drawn_as_such(tmp_path: Path) -> None:
    results = _results(
        tmp_path, *(_cell(policy, 16_000, 0.0, requests=1) for policy in ("lru", "arc"))
    )
    bounds = results.policies[results.policies["cache_tokens"] == 16_000]
    axes = _draw(replace(results, policies=bounds)).axes[0]
    # Both policies are where their size is, and a bound is a line.
    assert axes.get_xlim() == (8, 32)
    drawn = [(list(line.get_xdata()), y_of(line)) for line in axes.get_lines()]
    assert [x for x, y in drawn if y == [0.0]] == [[pytest.approx(16, rel=0.01)]] * 2
    assert ([8, 32], [0.6, 0.6]) in drawn
    assert ([8, 32], [0.9, 0.9]) in drawn
    assert "one request at a time. 1 request; seed" in caption(axes.figure)


def test_policy_that_is_not_registered_is_drawn_too(tmp_path: Path) -> None:
    figure = _draw(_results(tmp_path, _cell("lru", 16_000, 0.1), _cell("new", 16_000, 0.7)))
    assert [0.7] in [y_of(line) for line in figure.axes[0].get_lines()]
    assert "new" in legend(figure.legends[0])
    looks = style.looks(["new", "newer", "lru"])
    assert list(looks) == ["lru", "new", "newer"]
    assert len({look.color for look in looks.values()}) == 3


def test_study_has_an_axis_in_gib_and_the_size_asked_about(tmp_path: Path) -> None:
    figure = _draw(
        _results(tmp_path, _cell("lru", 16_000, 0.1), _cell("lru", 160_000, 0.4), study=_STUDY)
    )
    (gib,) = figure.axes[0].child_axes
    assert [label.get_text() for label in gib.get_xticklabels()] == ["16", "160"]
    assert "a model" in gib.get_xlabel()
    assert [hitrate._short(x) for x in (19356.3, 262.144, 0.3321)] == ["19,360", "262", "0.332"]
    assert "160,000 tokens, the size asked about" in caption(figure)


def test_what_was_not_run_says_why_and_nothing_valid_is_refused(tmp_path: Path) -> None:
    cell = _cell("lru", 16_000, 0.0, valid=False, invalid_reason="not run: no network")
    assert "no network" in text(_draw(_results(tmp_path, cell)))
    with pytest.raises(HarnessError, match="none of its 1 cells is valid: bad"):
        _draw(_results(tmp_path, cell | {"invalid_reason": "bad"}))
