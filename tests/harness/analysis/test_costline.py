"""Requests whose TTFT is a known line: what it says of them is found, and what is on top of it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from harness.analysis import costline
from harness.analysis.costline import Effect

_COUNT = 512
# Milliseconds, and those of a token and of a token times the prompt's.
_LINE = (5.0, 0.05, 2e-5)
_Array = npt.NDArray[np.float64]


def _prompts() -> _Array:
    return np.random.default_rng(1).integers(300, 900, _COUNT).astype(float)


def _cached(saved: float) -> _Array:
    """Return tokens in the cache; of half of the requests, more by a share of the prompt."""
    of_base = np.random.default_rng(2).uniform(0, 0.5, _COUNT)
    more = saved * (np.random.default_rng(3).random(_COUNT) < 0.5)
    return np.round(_prompts() * (of_base + more))


def _requests(saved: float = 0.0, factor: _Array | float = 1.0) -> pd.DataFrame:
    prompts, cached = _prompts(), _cached(saved)
    constant, linear, attention = _LINE
    uncached = prompts - cached
    ttft = constant + linear * uncached + attention * uncached * prompts
    return pd.DataFrame(
        {"prompt_tokens": prompts, "cached_tokens": cached, "ttft_ms": factor * ttft}
    )


def _effect(
    base: Sequence[pd.DataFrame], policy: Sequence[pd.DataFrame], batch_size: int = 1
) -> Effect:
    found = costline.effect(base, policy, batch_size)
    assert found is not None
    return found


def _truth(saved: float) -> float:
    return float(100 * (_requests(saved)["ttft_ms"].mean() / _requests()["ttft_ms"].mean() - 1))


def test_effect_of_a_known_line_is_what_the_line_says() -> None:
    found = _effect([_requests(), _requests()], [_requests(0.2)], 1)
    truth = _truth(0.2)
    assert truth < -5
    assert found.value == pytest.approx(truth, abs=1e-6)
    assert found.of_engines == pytest.approx([truth] * 3, abs=1e-6)
    assert found.plain == pytest.approx(truth)
    assert found.equal_hits == pytest.approx(0)
    assert found.did == pytest.approx(truth)
    assert found.residuals == pytest.approx((0, 0), abs=1e-9)
    assert found.own_cost == pytest.approx(0, abs=1e-6)


def test_equal_hits_are_no_effect_whatever_was_measured() -> None:
    rng = np.random.default_rng(4)
    noisy = [_requests(factor=rng.normal(1, 0.2, _COUNT)) for _ in range(2)]
    found = _effect(noisy[:1], noisy[1:])
    assert found.value == 0
    assert found.did is None
    assert found.equal_hits == pytest.approx(found.plain)


def test_line_is_surer_than_the_ratio_of_means() -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(40):
        cells = [_requests(saved, rng.normal(1, 0.2, _COUNT)) for saved in (0.0, 0.0, 0.2)]
        found.append(_effect(cells[:2], cells[2:]))
    truth = _truth(0.2)
    through_hits = np.array([one.value for one in found])
    plain = np.array([one.plain for one in found])
    assert through_hits.mean() == pytest.approx(truth, abs=0.3)
    assert plain.mean() == pytest.approx(truth, abs=0.8)
    assert through_hits.std() < plain.std() / 2


def test_a_pause_of_the_machine_moves_means_but_not_the_line() -> None:
    paused = np.ones(_COUNT)
    paused[100:105] = 40
    found = _effect([_requests(), _requests()], [_requests(0.2, paused)])
    assert found.value == pytest.approx(_truth(0.2), abs=0.05)
    assert found.plain > 0


def test_policys_own_cost_is_told_from_its_hits() -> None:
    found = _effect([_requests(), _requests()], [_requests(0.2, 1.03)])
    assert found.equal_hits == pytest.approx(3)
    assert found.own_cost == pytest.approx(3, abs=0.3)
    # The ratio of means is of both, the effect of the hits alone.
    assert found.plain == pytest.approx(100 * (1.03 * (1 + _truth(0.2) / 100) - 1))
    assert found.value == pytest.approx(_truth(0.2), abs=0.5)


def test_slow_engines_of_lru_are_its_residuals() -> None:
    found = _effect([_requests(), _requests(factor=1.04)], [_requests(0.2, 1.02)])
    apart = found.residuals[1] - found.residuals[0]
    assert apart == pytest.approx(np.log(1.04))
    assert found.own_cost == pytest.approx(0, abs=0.3)


def _plain(ttft_ms: Sequence[float], cached: Sequence[int]) -> pd.DataFrame:
    return pd.DataFrame({"prompt_tokens": 100, "cached_tokens": cached, "ttft_ms": ttft_ms})


def test_difference_in_differences_by_hand() -> None:
    base = _plain([100.0] * 16, [0] * 16)
    policy = _plain([105.0] * 8 + [85.0] * 8, [0] * 8 + [30] * 8)
    found = _effect([base], [policy])
    assert found.plain == pytest.approx(-5)
    assert found.equal_hits == pytest.approx(5)
    # -15 on the others, less 5, of half of the requests.
    assert found.did == pytest.approx(-10)
    # Of all LRU's cells and the policy's: means of cells first.
    slower = _plain([110.0] * 16, [0] * 16)
    assert _effect([base, slower], [policy]).equal_hits == pytest.approx(0)


def test_too_few_equal_requests_say_nothing() -> None:
    base = _plain([100.0] * 16, [0] * 16)
    found = _effect([base], [_plain([100.0] * 16, [0] * 7 + [30] * 9)])
    assert found.equal_hits is None
    assert found.did is None


def test_a_request_waits_for_all_that_is_computed_before_its_token() -> None:
    requests = pd.DataFrame(
        {
            "prompt_tokens": [100, 200, 300, 400, 500],
            "cached_tokens": [0, 100, 0, 0, 100],
            # Of a batch of three the last is a step of its own, and before the others.
            "ttft_ms": [300.0, 301.0, 100.0, 7.0, 9.0],
        }
    )
    work = costline.work(requests, 3)
    assert list(work["batch"]) == [0, 0, 0, 1, 1]
    assert list(work["own"]) == [100, 100, 300, 400, 400]
    assert list(work["uncached"]) == [500, 500, 300, 400, 800]
    attention = [100 * 100, 100 * 200, 300 * 300, 400 * 400, 400 * 500]
    first, second = sum(attention[:3]), sum(attention[3:])
    assert list(work["uncached_prompt"]) == [first, first, attention[2], attention[3], second]
    alone = costline.work(requests, 1)
    assert list(alone["uncached"]) == list(alone["own"])
    assert list(alone["uncached_prompt"]) == attention


def test_steps_of_a_batch_do_not_flatten_the_line() -> None:
    """Of 16 together, a step takes so many tokens, and its requests' first tokens come with it."""

    def cell(saved: float, seed: int) -> pd.DataFrame:
        requests = _requests(saved)
        uncached = requests["prompt_tokens"] - requests["cached_tokens"]
        ttft = np.zeros(_COUNT)
        # Who comes first is chance.
        order = np.random.default_rng(seed).permuted(np.arange(_COUNT).reshape(-1, 16), axis=1)
        for batch in order:
            done = uncached.to_numpy()[batch].cumsum()
            steps = np.searchsorted(np.arange(2000, 20000, 2000), done)
            ends = [done[steps == step].max() for step in steps]
            ttft[batch] = 20 + 0.25 * np.array(ends)
        slow = np.random.default_rng(seed + 1).normal(1, 0.1, _COUNT // 16)
        return requests.assign(ttft_ms=ttft * np.repeat(slow, 16))

    cells = [cell(0, 10), cell(0, 20), cell(0.2, 30)]
    found = _effect(cells[:2], cells[2:], 16)
    line = costline.fit([costline.work(one, 16) for one in cells])
    assert line @ [0, 1, 500] == pytest.approx(0.25, rel=0.05)
    assert np.std(found.of_engines) < 1


def test_effect_on_batches_whose_ttft_is_of_all_that_was_sent_together() -> None:
    def cell(saved: float) -> pd.DataFrame:
        requests = _requests(saved)
        of_batch = requests["ttft_ms"].groupby(np.arange(_COUNT) // 8).transform("sum")
        return requests.assign(ttft_ms=of_batch)

    found = _effect([cell(0), cell(0)], [cell(0.2)], 8)
    assert found.value == pytest.approx(_truth(0.2), abs=1e-6)
    # Hardly a batch of eight has equal hits.
    assert found.equal_hits is None


@pytest.mark.parametrize(("count", "batch_size"), [(3, 1), (24, 8), (1, 32)])
def test_of_no_more_requests_than_parameters_there_is_no_line(count: int, batch_size: int) -> None:
    few = _requests()[:count]
    assert costline.effect([few], [few], batch_size) is None
    enough = _requests()[: 4 * batch_size]
    assert costline.effect([enough], [enough], batch_size) is not None


def test_line_that_was_made_is_found() -> None:
    cells = [costline.work(_requests(saved), 1) for saved in (0.0, 0.2)]
    assert costline.fit(cells) == pytest.approx(_LINE, rel=1e-6)
