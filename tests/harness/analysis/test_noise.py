import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.results import experiment, measured, record

from harness.analysis import comparisons, noise
from harness.analysis.comparisons import Comparison
from harness.analysis.costline import Effect
from harness.analysis.noise import Noise
from harness.analysis.results import Results
from harness.analysis.stats import Estimate
from harness.cell import CellSpec
from harness.errors import HarnessError
from harness.measure.records import RequestRecord

_NO_HISTORY = noise.read(None)


def _effect(
    engines: Sequence[float], residuals: Sequence[float] = (0.0, 0.0), own_cost: float = 0.0
) -> Effect:
    value = float(np.mean(engines))
    return Effect(value, tuple(engines), value, None, None, tuple(residuals), own_cost)


def _comparison(effect: Effect | None = None, **changes: Any) -> Comparison:
    given: dict[str, Any] = {
        "tier": "cpu",
        "workload": "docqa-quality",
        "mode": "batch",
        "batch_size": 1.0,
        "request_rate": None,
        "load": "1",
        "x": 50.0,
        "package": "vllm",
        "seed": 42,
        "measured": "2026-11-10",
        "machine": "A CPU",
        "pair": comparisons.PAPERS,
        "base": (),
        "policy": (),
        "hit_rates": (0.2, 0.3),
        "gains": (10.0, 10.0),
        "effect": effect,
        "online": None,
    }
    return Comparison(**given | changes)


def _history(*runs: Sequence[Comparison]) -> pd.DataFrame:
    return pd.concat([noise.of_run(run) for run in runs])


def _runs(*values: float, **changes: Any) -> pd.DataFrame:
    """Return runs, a day each, whose engines all say the same."""
    return _history(
        *(
            [_comparison(_effect([value] * 3), measured=f"2026-10-{day + 10}", **changes)]
            for day, value in enumerate(values)
        )
    )


def test_engines_spread_about_what_they_say_together() -> None:
    one = _comparison(_effect([-9, -10, -11]))
    other = _comparison(_effect([-4, -5, -6]), x=100.0)
    value, error, df = Noise([one, other], _NO_HISTORY).of(one, "ttft")
    # Squares 2 and 2, of two degrees of freedom each; the mean of three engines.
    assert value == -10
    assert error == pytest.approx(math.sqrt(1 / 3))
    assert df == 4


def test_noise_is_that_of_the_same_tier_workload_mode_and_batch_size() -> None:
    one = _comparison(_effect([-9, -10, -11]))
    others = [
        _comparison(_effect([0, 90]), **changes)
        for changes in (
            {"workload": "docqa-few"},
            {"mode": "batch-http"},
            {"batch_size": 8.0, "load": "8"},
            {"tier": "gpu"},
        )
    ]
    assert Noise([one, *others], _NO_HISTORY).of(one, "ttft").df == 2
    history = _history([replace(other, measured="2026-10-01") for other in others])
    assert Noise([one], history).of(one, "ttft") == Noise([one], _NO_HISTORY).of(one, "ttft")


def test_noise_of_one_pair_is_known_to_nobody() -> None:
    one = _comparison(_effect([-9, -10]))
    value, error, _ = Noise([one], _NO_HISTORY).of(one, "ttft")
    assert value == -9.5
    assert math.isnan(error)


def test_hits_of_a_batch_size_seen_once_have_the_noise_of_the_others() -> None:
    http = {"mode": "batch-http", "batch_size": 8.0, "load": "8", "gains": (5.0,)}
    once = _comparison(_effect([-9, -10]), **http)
    twice = _comparison(
        _effect([-9, -10]), **http | {"batch_size": 32.0, "load": "32", "gains": (5.0, 5.2, 5.4)}
    )
    alone = Noise([once], _NO_HISTORY).of(once, "hit_rate")
    assert alone == Estimate(5)
    value, error, df = Noise([once, twice], _NO_HISTORY).of(once, "hit_rate")
    # The variance of an engine is 0.04; ARC's and LRU's add up.
    assert (value, df) == (5, 2)
    assert error == pytest.approx(math.sqrt(0.04 * 2))
    # Not so times, which differ by other amounts.
    assert math.isnan(Noise([once, twice], _NO_HISTORY).of(once, "ttft").error)


def test_what_runs_vary_by_beyond_their_engines_is_added() -> None:
    one = _comparison(_effect([-9, -10, -11]))
    # Runs vary by 32 / 3, of which engines explain 2 / 8 / 3; today's are noisier than others'.
    value, error, df = Noise([one], _runs(-6, -10, -14)).of(one, "ttft")
    assert value == -10
    assert error == pytest.approx(math.sqrt(1 / 3 + 32 / 3 - 2 / 8 / 3))
    assert 3 < df < 3.3
    # Runs that vary by less than their engines add nothing.
    near = Noise([one], _runs(-9.9, -10, -10.1)).of(one, "ttft")
    assert near == (-10, pytest.approx(math.sqrt(1 / 3)), 2)


def test_what_runs_vary_by_is_seen_where_engines_agree() -> None:
    http = {"mode": "batch-http", "batch_size": 32.0, "load": "32"}
    eight = http | {"batch_size": 8.0, "load": "8"}
    days = [(-9.9, (-4, -6, -8)), (-10.0, (-3, -6, -9)), (-10.1, (-5, -6, -7))]
    history = _history(
        *(
            [
                _comparison(_effect([value] * 3), measured=f"2026-10-{day + 10}", **eight),
                _comparison(_effect(engines), measured=f"2026-10-{day + 10}", **http),
            ]
            for day, (value, engines) in enumerate(days)
        )
    )
    noisy = _comparison(_effect([-5, -6, -7]), **http)
    # Engines: 2 (4 + 9 + 1 + 1) / 8 of each, of three; runs: 0.01, which only the quiet one shows.
    found = Noise([noisy], history).of(noisy, "ttft")
    assert found.error == pytest.approx(math.sqrt(30 / 8 / 3 + 0.01), rel=1e-3)
    # What single requests vary by is another matter.
    single = _comparison(_effect([-5, -6, -7]), **http | {"batch_size": 1.0, "load": "1"})
    assert Noise([single], history).of(single, "ttft").error == pytest.approx(math.sqrt(1 / 3))


def test_a_noisy_day_is_not_made_quiet_by_the_table_of_quiet_ones() -> None:
    noisy = _comparison(_effect([-5, -10, -15]))
    quiet = _history(
        *([_comparison(_effect([-9.9, -10, -10.1]), measured=f"2026-10-{day}")] for day in (1, 2))
    )
    assert Noise([noisy], quiet).of(noisy, "ttft") == (-10, pytest.approx(5 / math.sqrt(3)), 2)
    calm = _comparison(_effect([-10, -10, -10]))
    found = Noise([calm], quiet).of(calm, "ttft")
    assert found.df == 6
    assert found.error == pytest.approx(math.sqrt(4 * 0.01 / 6 / 3))


def test_runs_are_held_against_those_of_the_same_machine() -> None:
    one = _comparison(_effect([-10, -10, -10]), machine="B")
    found = Noise([one], _runs(-6, -10, -14)).of(one, "ttft")
    # What runs differ by on another machine is all that is known of this one's.
    assert found == (-10, pytest.approx(4), pytest.approx(2))


def test_what_the_table_has_of_the_same_run_is_left_out() -> None:
    run = [_comparison(_effect([-9, -10, -11]), x=x) for x in (50.0, 100.0)]
    alone = Noise(run, _NO_HISTORY).of(run[0], "ttft")
    assert Noise(run, noise.of_run(run)).of(run[0], "ttft") == alone
    others = _runs(-8, -10, -12)
    both = pd.concat([others, noise.of_run(run)])
    assert Noise(run, both).of(run[0], "ttft") == Noise(run, others).of(run[0], "ttft")


def test_hit_rates_repeat_exactly_unless_they_are_seen_not_to() -> None:
    exact = _comparison(gains=(10.0,))
    assert Noise([exact], _NO_HISTORY).of(exact, "hit_rate") == Estimate(10)
    again = _comparison(gains=(10.0, 10.0, 10.0))
    assert Noise([again], _NO_HISTORY).of(again, "hit_rate").error == 0
    # On servers, what arrives first may be chance.
    moved = _comparison(gains=(9.0, 10.0, 11.0))
    found = Noise([moved], _NO_HISTORY).of(moved, "hit_rate")
    # ARC's own engine differs by as much as each of LRU's three.
    assert found == (10, pytest.approx(math.sqrt(1 + 1 / 3)), 2)
    pair = _comparison(gains=(9.0, 11.0))
    assert math.isnan(Noise([pair], _NO_HISTORY).of(pair, "hit_rate").error)


def test_replays_repeat_exactly_whatever_else_is_known() -> None:
    replay = _comparison(tier="replay", gains=(4.0,), machine="None")
    others = [_comparison(gains=(9.0, 10.0, 11.0)), replay]
    assert Noise(others, _NO_HISTORY).of(replay, "hit_rate") == Estimate(4)
    assert not noise.of_run(others)["comparison"].str.startswith("replay").any()


def test_own_cost_is_a_difference_of_one_engine_from_the_mean_of_others() -> None:
    residuals = tuple(np.log([0.99, 1.0, 1.01]))
    one = _comparison(_effect([0, 0, 0, 0], residuals, own_cost=2.5))
    found = Noise([one], _NO_HISTORY).of(one, "own_cost")
    assert found == (2.5, pytest.approx(math.sqrt(1 + 1 / 3)), 2)


def test_open_loop_has_the_larger_of_its_turns_and_of_runs() -> None:
    changes: dict[str, Any] = {"mode": "open-loop", "batch_size": None, "request_rate": 9.0}
    alone = _comparison(**changes, online=Estimate(-10, 3, 16))
    assert Noise([alone], _NO_HISTORY).of(alone, "ttft") == (-10, 3, 16)
    history = _history(
        *(
            [_comparison(**changes, online=Estimate(value, 3, 16), measured=f"2026-10-{day}")]
            for day, value in ((1, 0), (2, -10), (3, -20))
        )
    )
    assert Noise([alone], history).of(alone, "ttft") == (-10, pytest.approx(math.sqrt(200 / 3)), 3)
    unknown = _comparison(**changes, online=Estimate(-10, math.nan, 0))
    assert math.isnan(Noise([unknown], _NO_HISTORY).of(unknown, "ttft").error)
    assert Noise([unknown], history).of(unknown, "ttft").df == 3
    # Another rate of the run, the noisiest, tells of one without equal cells.
    rates = [
        _comparison(
            **changes | {"request_rate": rate, "load": f"-poisson-r{rate:g}"}, online=online
        )
        for rate, online in ((8.0, Estimate(-5, 2, 8)), (10.0, Estimate(-5, 4, 8)))
    ]
    assert Noise([unknown, *rates], _NO_HISTORY).of(unknown, "ttft") == (-10, 4, 8)
    assert Noise([unknown, *rates], _NO_HISTORY).of(rates[0], "ttft") == (-5, 2, 8)


@pytest.mark.parametrize("runs", [0, 3])
def test_covers_what_would_be_found_again_as_often_as_it_says(runs: int) -> None:
    """Engines differ, and with a table of runs, the runs do: the truth is -10 on all days."""
    rng = np.random.default_rng(3)
    trials, covered = 100, 0

    def run(day: int) -> list[Comparison]:
        found = []
        for x in (50.0, 100.0):
            engines = -10 + rng.normal(0, 0.5 if runs else 0) + rng.normal(0, 0.5, 3)
            found.append(_comparison(_effect(engines), x=x, measured=f"2026-10-1{day}"))
        return found

    for _ in range(trials):
        history = _history(*map(run, range(1, runs + 1))) if runs else _NO_HISTORY
        own = run(0)
        interval = Noise(own, history).of(own[0], "ttft").interval()
        covered += interval.low <= -10 <= interval.high
    # Three standard deviations of a share of 100; the larger of two is on the safe side.
    assert covered / trials >= 0.95 - 0.066
    assert runs or covered < trials


def test_table_has_each_run_once(tmp_path: Path) -> None:
    path = tmp_path / "noise.csv"
    first = [_comparison(_effect([-9, -10, -11]))]
    noise.add(noise.read(None), first, path)
    pd.testing.assert_frame_equal(noise.read(path), noise.of_run(first))
    again = [_comparison(_effect([-8, -10, -12]))]
    noise.add(noise.read(path), again, path)
    pd.testing.assert_frame_equal(noise.read(path), noise.of_run(again))
    noise.add(noise.read(path), [_comparison(_effect([1, 2]), measured="2026-11-11")], path)
    assert set(noise.read(path)["run"]) == {"2026-11-10", "2026-11-11"}
    assert [file.name for file in tmp_path.iterdir()] == ["noise.csv"]


def test_values_of_a_run() -> None:
    table = noise.of_run([_comparison(_effect([-9, -11], np.log([1.02]), own_cost=1.5))])
    assert list(table.columns) == noise.COLUMNS
    values = table.groupby(["quantity", "kind"])["value"].apply(list).to_dict()
    assert values == {
        ("hit_rate", "engine"): [10, 10],
        ("hit_rate", "together"): [10],
        ("ttft", "engine"): [-9, -11],
        ("ttft", "together"): [-10],
        ("own_cost", "engine"): [pytest.approx(2)],
        ("own_cost", "together"): [1.5],
    }
    assert noise.of_run([]).empty


def test_a_run_is_named_by_when_its_engines_ran() -> None:
    replayed = _comparison(tier="replay", measured="2026-11-09")
    (run,) = noise.of_run([replayed, _comparison(_effect([-9, -11]))])["run"].unique()
    assert run == "2026-11-10"
    assert noise.of_run([replayed]).empty


def test_table_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"gone\.csv: no table of noise"):
        noise.read(tmp_path / "gone.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(HarnessError, match=r"other\.csv: columns \['a', 'b'\]"):
        noise.read(tmp_path / "other.csv")


# How much longer a repeat takes than the line says, in percent.
_OFF = {"batch": 1.0, "batch-http": 3.0}
_BATCH = {"mode": "batch", "batch_size": 1}
_HTTP = [{"mode": "batch-http", "batch_size": size} for size in (1, 2)]


def _made(spec: CellSpec) -> list[RequestRecord]:
    factor = 1 + (_OFF[spec.load.mode] / 100 if spec.repeat else 0)
    more = 10 if spec.policy == "arc" else 0
    return [
        record(i, 500 * i, factor * (100 - i % 7 - more), cached_tokens=i % 7 + more)
        for i in range(64)
    ]


@pytest.fixture
def without_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(noise, "_SHIPPED", tmp_path / "no-history.csv")


def _measured(root: Path, folder: Path, *grids: dict[str, Any]) -> Results:
    found = measured(root, folder, _made, *grids)
    return replace(found, cells=found.cells.assign(machine="A", measured_at="2026-11-10"))


@pytest.mark.usefixtures("without_shipped")
def test_band_is_within_what_equal_cells_differ_from_the_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [50_000, 100_000]
    grid = experiment(cache_tokens=sizes, loads=[_BATCH, *_HTTP])
    again = grid | {"policies": ["lru"], "repeats": 2}
    found = _measured(root, tmp_path, grid, again)
    # Pairs that are 1 % apart: a standard deviation of 0.707, twice that variance of a difference,
    # and t(0.975) of two pairs, one a cache size, and of four, two batch sizes at each.
    assert noise.band(found, "cpu", "docqa-quality", "batch") == pytest.approx(4.303, rel=0.01)
    assert noise.band(found, "cpu", "docqa-quality", "batch-http") == pytest.approx(
        3 * 2.776, rel=0.02
    )
    # The shipped run, be it this one or a quiet one of any tier, makes it no narrower.
    alone = noise.band(found, "cpu", "docqa-quality", "batch")
    own = noise.of_run(comparisons.compare(found))
    quiet = own.assign(run="2026-10-01", value=0.0)
    for shipped in (own, quiet):
        monkeypatch.setattr(noise, "shipped", lambda shipped=shipped: shipped)
        assert noise.band(found, "cpu", "docqa-quality", "batch") == alone
    # A noisy one makes it wider: squares of 0.5 for each of today's pairs, and 8.
    noisy = own.assign(run="2026-10-01", value=own["value"] * 4)
    monkeypatch.setattr(noise, "shipped", lambda: noisy)
    wider = 2.776 * math.sqrt(2 * (2 * 0.5 + 2 * 8) / 4)
    assert noise.band(found, "cpu", "docqa-quality", "batch") == pytest.approx(wider, rel=0.01)
    gpu = noisy.assign(comparison=noisy["comparison"].str.replace("cpu", "gpu"))
    monkeypatch.setattr(noise, "shipped", lambda: gpu)
    assert noise.band(found, "cpu", "docqa-quality", "batch") == alone


def test_without_two_pairs_the_band_is_that_of_the_shipped_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = experiment(policies=["lru"], repeats=2, loads=[_BATCH])
    found = measured(root, tmp_path, _made, experiment(loads=[_BATCH]), again)
    others = _history(
        *([_comparison(_effect([0, 0], (0, off)), measured=f"2026-10-{off}")] for off in (1, 2))
    )
    shipped = tmp_path / "noise.csv"
    others.to_csv(shipped, index=False)
    monkeypatch.setattr(noise, "_SHIPPED", shipped)
    assert noise.band(found, "cpu", "docqa-quality", "batch") is not None
    shipped.unlink()
    assert noise.band(found, "cpu", "docqa-quality", "batch") is None
    assert noise.band(found, "cpu", "docqa-quality", "batch-http") is None
    assert noise.band(found, "cpu", "docqa-few", "batch") is None
