import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.equivalent import lru_tokens

_SIZES, _RATES = [100.0, 200.0, 800.0], [0.1, 0.3, 0.5]


@pytest.mark.parametrize(
    ("wanted", "tokens"), [(0.1, 100), (0.3, 200), (0.5, 800), (0.4, 400), (0.2, 100 * 2**0.5)]
)
def test_between_sizes_it_is_on_a_logarithmic_scale(wanted: float, tokens: float) -> None:
    assert lru_tokens(_SIZES, _RATES, wanted) == pytest.approx(tokens)


def test_beyond_lrus_sizes_it_is_not_known() -> None:
    assert lru_tokens(_SIZES, _RATES, 0.51) == math.inf
    assert lru_tokens(_SIZES, _RATES, 0.09) == 0
    assert math.isnan(lru_tokens([], [], 0.3))


def test_of_caches_that_hit_as_much_the_smallest_counts() -> None:
    assert lru_tokens(_SIZES, [0.1, 0.3, 0.3], 0.3) == pytest.approx(200)
    # What hits less by chance reaches no more than the smaller one did.
    assert lru_tokens(_SIZES, [0.1, 0.3, 0.2], 0.3) == pytest.approx(200)
    assert lru_tokens(_SIZES, [0.1, 0.3, 0.2], 0.31) == math.inf


@given(
    rates=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    wanted=st.tuples(*[st.floats(0, 1)] * 2),
)
def test_more_hits_need_no_less(rates: list[float], wanted: tuple[float, float]) -> None:
    sizes = [100.0 * 2**i for i in range(len(rates))]
    less, more = (lru_tokens(sizes, rates, each) for each in sorted(wanted))
    assert less <= more
