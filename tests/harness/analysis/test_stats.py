import math

import numpy as np
import pytest

from harness.analysis.stats import mean_interval


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
