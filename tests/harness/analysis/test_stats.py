import math

import numpy as np
import pytest
from scipy import stats

from harness.analysis.stats import (
    Estimate,
    Sums,
    blocks,
    cluster_interval,
    holm,
    mean_interval,
    mean_of,
    ratio_interval,
)


def test_known_interval() -> None:
    mean, half = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3
    # t(0.975, 4) = 2.776, standard error = sqrt(2.5 / 5).
    assert half == pytest.approx(2.776 * math.sqrt(0.5), rel=1e-3)


def test_one_value_has_no_interval() -> None:
    mean, half = mean_interval([2.0])
    assert mean == 2
    assert math.isnan(half)


def test_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        mean, half = mean_interval(list(rng.normal(10, 3, size=5)))
        covered += abs(mean - 10) <= half
    # Five standard deviations of a share of 2,000.
    assert covered / 2000 == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("percentile", [None, 50, 90, 99])
def test_estimate_is_numpys(percentile: float | None) -> None:
    values = np.random.default_rng(2).lognormal(size=57)
    estimate = cluster_interval(values, np.arange(57) // 5, percentile)
    expected = values.mean() if percentile is None else np.percentile(values, percentile)
    assert estimate.value == pytest.approx(expected)
    assert estimate.low < estimate.value < estimate.high
    assert estimate == cluster_interval(values, np.arange(57) // 5, percentile)


@pytest.mark.parametrize("percentile", [None, 90])
def test_interval_is_between_percentiles_of_resampled_clusters(percentile: float | None) -> None:
    rng = np.random.default_rng(3)
    clusters = rng.integers(0, 20, 200)
    values = rng.lognormal(size=200) + clusters
    members = [values[clusters == cluster] for cluster in range(20)]
    found = []
    for _ in range(4000):
        drawn = np.concatenate([members[cluster] for cluster in rng.integers(0, 20, 20)])
        found.append(drawn.mean() if percentile is None else np.percentile(drawn, percentile))
    interval = cluster_interval(values, clusters, percentile)
    # Wider by what 20 understate: t(0.975, 19) sqrt(20 / 19) = 2.147, which 1.588 % are beyond.
    low, high = np.percentile(found, [1.588, 98.412])
    # Another 2,000 resamples: the ends differ by chance, by a few hundredths of the width.
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.1 * (high - low))


@pytest.mark.parametrize("percentile", [None, 50])
def test_covers_the_truth_where_requests_of_a_cluster_are_alike(percentile: float | None) -> None:
    rng = np.random.default_rng(4)
    trials = 200
    covered = {"clusters": 0, "requests": 0}
    for _ in range(trials):
        # Symmetric about 10, so that the mean and the median are known.
        values = 10 + rng.normal(size=(60, 1)) + rng.normal(size=(60, 6))
        for kind, clusters in (("clusters", np.arange(360) // 6), ("requests", np.arange(360))):
            interval = cluster_interval(values.ravel(), clusters, percentile)
            covered[kind] += interval.low <= 10 <= interval.high
    # Three standard deviations of a share of 200, about what 60 clusters can give.
    assert covered["clusters"] / trials == pytest.approx(0.94, abs=0.05)
    # Taking requests for independent is what the clusters are there against.
    assert covered["requests"] / trials < 0.85


@pytest.mark.parametrize("count", [6, 12])
def test_covers_the_truth_with_few_clusters(count: int) -> None:
    rng = np.random.default_rng(8)
    trials = 400
    covered = 0
    for _ in range(trials):
        values, base = rng.normal(50, 10, count), rng.normal(100, 5, count)
        interval = ratio_interval(values, base, np.arange(count))
        covered += interval.low <= 0.5 <= interval.high
    # Three standard deviations of a share of 400.
    assert covered / trials == pytest.approx(0.95, abs=0.033)


def test_p_values_are_adjusted_for_how_many_there_are() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_interval_of_an_estimate() -> None:
    # t(0.975, 4) = 2.776, t(0.995, 4) = 4.604.
    assert Estimate(10, 2, 4).interval() == pytest.approx((10, 10 - 5.553, 10 + 5.553), abs=1e-3)
    assert Estimate(10, 2, 4).interval(0.99).high == pytest.approx(19.208, abs=1e-3)
    assert Estimate(10, 2).interval().high == pytest.approx(10 + 2 * 1.959964)
    assert Estimate(10).interval() == (10, 10, 10)
    assert Estimate(10, math.nan, 0).interval() == (10, -math.inf, math.inf)


@pytest.mark.parametrize("count", [3, 8])
def test_estimates_cover_the_truth_as_often_as_they_say(count: int) -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for values in rng.normal(10, 3, (2000, count)):
        interval = Estimate(values.mean(), stats.sem(values), count - 1).interval()
        covered += interval.low <= 10 <= interval.high
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


def test_mean_of_estimates() -> None:
    assert mean_of([Estimate(1), Estimate(3)]) == (2, 0, math.inf)
    value, error, df = mean_of([Estimate(1, 3, 3), Estimate(3, 4, 6)])
    assert (value, error) == (2, 2.5)
    # Satterthwaite: (9 + 16)^2 / (81 / 3 + 256 / 6).
    assert df == pytest.approx(8.971, abs=1e-3)
    assert mean_of([Estimate(1, 3, 3), Estimate(3, 4, 6)], of_one_noise=True) == (2, 2.5, 3)
    # What is exact adds nothing; what nobody knows makes nobody know the mean.
    assert mean_of([Estimate(1, 3, 3), Estimate(3)]) == (2, 1.5, pytest.approx(3))
    unknown = mean_of([Estimate(1, 3, 3), Estimate(3, math.nan, 0)])
    assert unknown.value == 2
    assert math.isnan(unknown.error)


@pytest.mark.parametrize("of_one_noise", [True, False])
def test_mean_of_estimates_covers_the_truth(of_one_noise: bool) -> None:
    """Whether the errors are one estimate of noise, from three values, or each its own."""
    rng = np.random.default_rng(12)
    covered = {True: 0, False: 0}
    trials = 3000
    for _ in range(trials):
        noise = 2 * np.sqrt(rng.chisquare(3, 1 if of_one_noise else 4) / 3)
        each = [
            Estimate(value, error, 3)
            for value, error in zip(rng.normal(10, 2, 4), np.resize(noise, 4), strict=True)
        ]
        for known in covered:
            interval = mean_of(each, known).interval()
            covered[known] += interval.low <= 10 <= interval.high
    assert covered[of_one_noise] / trials == pytest.approx(0.95, abs=0.015)
    # Degrees of freedom that are not there make intervals too narrow, those not counted too wide.
    assert covered[True] > covered[False] + 0.02 * trials


def test_covers_the_truth_of_a_series_in_time() -> None:
    rng = np.random.default_rng(5)
    trials = 300
    covered = 0
    for _ in range(trials):
        noise, series = rng.normal(size=1024), np.zeros(1024)
        for i in range(1, 1024):
            series[i] = 0.7 * series[i - 1] + noise[i]
        interval = cluster_interval(series, blocks(1024))
        covered += interval.low <= 0 <= interval.high
    assert covered / trials == pytest.approx(0.93, abs=0.045)


def test_same_cells_have_ratio_one_and_a_constant_factor_is_found() -> None:
    values = np.random.default_rng(6).lognormal(size=100)
    for percentile in (None, 90):
        assert ratio_interval(values, values, blocks(100), percentile) == (1, 1, 1)
        ratio = ratio_interval(0.9 * values, values, blocks(100), percentile)
        assert ratio == pytest.approx((0.9, 0.9, 0.9))


def test_pairing_narrows_the_interval_of_a_ratio() -> None:
    rng = np.random.default_rng(7)
    base = rng.lognormal(size=400)
    values = base * rng.uniform(0.8, 1.0, 400)
    paired = ratio_interval(values, base, blocks(400))
    unpaired = ratio_interval(rng.permutation(values), base, blocks(400))
    assert paired.low <= 0.9 <= paired.high
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2


def test_one_cluster_has_no_interval() -> None:
    interval = cluster_interval([1.0, 3.0], [0, 0])
    assert interval.value == 2
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_blocks_are_whole_multiples_of_a_batch() -> None:
    assert np.bincount(blocks(512)).tolist() == [23] * 21 + [29]
    assert np.bincount(blocks(512, 8)).tolist() == [24] * 20 + [32]
    assert np.bincount(blocks(512, 32)).tolist() == [32] * 16
    assert blocks(3).tolist() == [0, 0, 0]
    assert blocks(0).tolist() == []


def test_ratio_of_sums_is_that_of_two_statistics() -> None:
    rng = np.random.default_rng(1)
    base = rng.exponential(2, 300)
    values = base * rng.normal(1.2, 0.1, 300)
    clusters = np.arange(300) // 6
    sums = Sums(np.column_stack([values, base]), clusters)
    found = sums.interval(lambda total: total[..., 0] / total[..., 1])
    assert found.value == pytest.approx(values.sum() / base.sum())
    assert found == pytest.approx(ratio_interval(values, base, clusters), rel=0.01)


def test_sums_of_one_cluster_have_no_interval_and_infinity_is_an_end() -> None:
    one = Sums([[1.0], [2.0]], [0, 0]).interval(lambda total: total[..., 0])
    assert one.value == 3
    assert math.isnan(one.low)
    half = Sums([[0.0], [1.0]] * 50, np.arange(100)).interval(
        lambda total: np.where(total[..., 0] > 50, np.inf, total[..., 0])
    )
    assert half.high == math.inf
    assert half.low < 50
