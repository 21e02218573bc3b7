import math
from pathlib import Path

import numpy as np
import pytest
from support.results import experiment, measured, record

from harness.analysis import noise
from harness.analysis.results import Results
from harness.bench import verdicts
from harness.bench.results import Result
from harness.cell import CellSpec
from harness.errors import HarnessError
from harness.measure.records import RequestRecord

_COUNT = 64
_RUNS = 10


def _results(root: Path, folder: Path, spread: float) -> Results:
    """Return measured cells, in which a share of what a token costs differs between engines."""

    def made(spec: CellSpec) -> list[RequestRecord]:
        is_arc = spec.policy == "arc"
        rng = np.random.default_rng(spec.seed)
        of_engine = np.random.default_rng([spec.repeat, is_arc, spec.cache_tokens])
        hits = rng.integers(20, 40, _COUNT) + 30 * is_arc * (np.arange(_COUNT) % 3 == 0)
        cost = 0.4 * (1 + spread * of_engine.normal())
        ttft = (100 - cost * hits) * of_engine.normal(1, 0.005, _COUNT)
        return [record(i, 500 * i, ttft[i], cached_tokens=int(hits[i])) for i in range(_COUNT)]

    batch = [{"mode": "batch", "batch_size": 1}]
    grid = experiment(cache_tokens=[50_000], loads=batch)
    again = grid | {"policies": ["lru"], "repeats": 4}
    return measured(root, folder, made, grid, again)


def _simulated(results: Results) -> dict[str, Result]:
    found = verdicts.simulate(results, noise.read(None), _RUNS)
    assert all(row.unit == "% of runs" for row in found)
    return {row.name: row for row in found}


def test_sure_runs_tell_no_effect_half_and_all_of_it_apart(root: Path, tmp_path: Path) -> None:
    found = _simulated(_results(root, tmp_path, 0.02))
    assert {name.partition(",")[0] for name in found} == {"C1 cpu hit_rate", "C2 cpu ttft"}
    for claim in ("C1 cpu hit_rate", "C2 cpu ttft"):
        assert found[f"{claim}, no effect: reproduced"].value == 0
        assert found[f"{claim}, all of it: not reproduced"].value <= 10
        assert found[f"{claim}, half of it: reproduced"].value == 0
        assert found[f"{claim}, half of it: not smaller"].value <= 10
    targets = {name: row.target for name, row in found.items()}
    assert targets == {
        "C1 cpu hit_rate, no effect: reproduced": 1,
        "C1 cpu hit_rate, all of it: not reproduced": 10,
        "C1 cpu hit_rate, half of it: reproduced": None,
        "C1 cpu hit_rate, half of it: not smaller": None,
        "C2 cpu ttft, no effect: reproduced": 1,
        "C2 cpu ttft, all of it: not reproduced": 10,
        "C2 cpu ttft, half of it: reproduced": 5,
        "C2 cpu ttft, half of it: not smaller": 20,
    }


def test_noisy_runs_reproduce_nothing(root: Path, tmp_path: Path) -> None:
    found = _simulated(_results(root, tmp_path, 0.8))
    assert found["C2 cpu ttft, no effect: reproduced"].value == 0
    assert found["C2 cpu ttft, all of it: not reproduced"].value >= 80
    # Their hits are as sure as ever.
    assert found["C1 cpu hit_rate, all of it: not reproduced"].value == 0


def test_made_up_effect_is_the_share_of_what_is_claimed(root: Path, tmp_path: Path) -> None:
    results = _results(root, tmp_path, 0.02)
    compared = verdicts.comparisons.compare(results)
    claim = next(one for one in verdicts.claims.read() if one.id == "C2")
    model = verdicts._model(results, claim, compared[0], noise.Noise(compared, noise.read(None)))
    rng = np.random.default_rng(1)
    for truth in (0.0, 1.0):
        made = [model.made(truth, number, rng).effect for number in range(20)]
        values = [one.value for one in made if one is not None]
        error = np.std(values, ddof=1) / math.sqrt(len(values))
        assert np.mean(values) == pytest.approx(truth * model.claimed, abs=5 * error)
        # Deviations may make more than the noise that was measured, and all of it is there.
        assert np.std(values) > 0.5 * model.known.error
        # A run has a name of its own, or the table were thought to have it already.
    assert model.made(1, 7, rng).measured != model.made(1, 8, rng).measured


def test_without_the_shipped_run_nothing_is_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HarnessError, match="reference/cpu: not there"):
        verdicts.run(tmp_path, tmp_path / "verdicts.json")
    assert not list(tmp_path.iterdir())
