"""Means, percentiles, and how sure they are."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.multitest import multipletests

CONFIDENCE = 0.95
RESAMPLES = 2000
_SEED = 42
# Resamples at a time, which bounds the memory: a row of counts each, one for every request.
_AT_A_TIME = 100

_Array = npt.NDArray[Any]
# Resamples of clusters (a row each, naming clusters by number) -> the statistic of each.
_OfResamples = Callable[[_Array], _Array]


class Interval(NamedTuple):
    """An estimate and its 95 % interval; its ends are not a number if there is one cluster."""

    value: float
    low: float
    high: float


class Estimate(NamedTuple):
    """A number, its standard error, and the degrees of freedom with which that is known.

    An error of 0: it repeats exactly. One that is not a number: nobody knows.
    """

    value: float
    error: float = 0.0
    df: float = math.inf

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return its interval by Student's t; from minus to plus infinity if nobody knows."""
        if not self.error:
            return Interval(self.value, self.value, self.value)
        if math.isnan(self.error):
            return Interval(self.value, -math.inf, math.inf)
        half = float(stats.t.ppf((1 + confidence) / 2, self.df)) * self.error
        return Interval(self.value, self.value - half, self.value + half)


def mean_of(estimates: Sequence[Estimate], of_one_noise: bool = False) -> Estimate:
    """Return the mean of independent estimates.

    Args:
        estimates: At least one.
        of_one_noise: Whether their errors are one estimate of noise, so that the mean's has no more
            degrees of freedom than that; else they are Satterthwaite's (*Biometrics Bulletin* 2,
            1946).

    """
    squares = [estimate.error**2 for estimate in estimates]
    value = float(np.mean([estimate.value for estimate in estimates]))
    total = sum(squares)
    if not total:
        return Estimate(value)
    if math.isnan(total):
        return Estimate(value, math.nan, 0)
    if of_one_noise:
        df = min(estimate.df for estimate in estimates)
    else:
        df = total**2 / sum(
            square**2 / estimate.df for square, estimate in zip(squares, estimates, strict=True)
        )
    return Estimate(value, math.sqrt(total) / len(estimates), df)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval, by Student's t.

    Args:
        values: One of each seed; the half width of a single one is not a number.

    """
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    factor = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(np.mean(values)), float(factor * stats.sem(values))


def cluster_interval(
    values: npt.ArrayLike, clusters: npt.ArrayLike, percentile: float | None = None
) -> Interval:
    """Return a statistic of values that are not independent, with its 95 % interval.

    Requests that share a queue or a cache are not independent, and an interval that takes them for
    so is too narrow. So whole clusters are drawn with replacement, not single requests (Davison
    and Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8; for blocks in time
    Carlstein, *Annals of Statistics* 14, 1986, and Künsch, 17, 1989), and the interval is between
    the percentiles of what the resamples give, wider by what few clusters understate (Hesterberg,
    *What Teachers Should Know about the Bootstrap*, 2015, section 5.3, the expanded percentile
    interval). It is always the same for the same values.

    Args:
        values: One a request.
        clusters: The cluster that each is in, as the session of a conversation, or ``blocks``.
        percentile: Which one (0 to 100, interpolated as by ``numpy.percentile``); without, the
            mean.

    """
    numbers = _numbers(clusters)
    return _bootstrap(_statistic(np.asarray(values, float), numbers, percentile), numbers)


def ratio_interval(
    values: npt.ArrayLike,
    base: npt.ArrayLike,
    clusters: npt.ArrayLike,
    percentile: float | None = None,
) -> Interval:
    """Return the ratio of a statistic in two cells with the same requests, with its 95 % interval.

    The same clusters are drawn in both, so that what makes a request slow in either cancels out.

    Args:
        values: One a request.
        base: Of the same requests in the other cell, in the same order.
        clusters: The cluster of each; see ``cluster_interval``.
        percentile: As of ``cluster_interval``.

    """
    numbers = _numbers(clusters)
    above = _statistic(np.asarray(values, float), numbers, percentile)
    below = _statistic(np.asarray(base, float), numbers, percentile)
    return _bootstrap(lambda drawn: above(drawn) / below(drawn), numbers)


class Sums:
    """Sums of columns over requests, and the same over resamples of whole clusters.

    For statistics of several sums at once, as a ratio of two; see ``cluster_interval``.

    Args:
        columns: [request, column].
        clusters: The cluster of each request.

    """

    def __init__(self, columns: npt.ArrayLike, clusters: npt.ArrayLike) -> None:
        values, numbers = np.asarray(columns, float), _numbers(clusters)
        of_clusters = np.stack([np.bincount(numbers, weights=one) for one in values.T], axis=1)
        self._clusters = n = len(of_clusters)
        self._totals = of_clusters.sum(0)
        rng = np.random.default_rng(_SEED)
        # How often each cluster is drawn, so many resamples at a time.
        self._resampled = np.concatenate(
            [
                rng.multinomial(n, np.full(n, 1 / n), _AT_A_TIME) @ of_clusters
                for _ in range(RESAMPLES // _AT_A_TIME)
            ]
        )

    def interval(self, statistic: Callable[[_Array], _Array]) -> Interval:
        """Return a statistic of the sums with its 95 % interval.

        Args:
            statistic: Of sums [..., column], each [...].

        """
        value = float(statistic(self._totals))
        if self._clusters < 2:
            return Interval(value, float("nan"), float("nan"))
        outside = 50 * (1 - _level(self._clusters))
        # One of the values, since some may be infinite.
        low, high = np.percentile(
            statistic(self._resampled), [outside, 100 - outside], method="inverted_cdf"
        )
        return Interval(value, float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are (Holm, Scand. J. Statist. 6, 1979)."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def blocks(count: int, multiple: int = 1) -> _Array:
    """Return the blocks of consecutive requests to take for clusters, by number.

    About as many blocks as requests in one: blocks have to be long against the time for which
    requests affect each other, and many.

    Args:
        count: Number of requests, in the order of their arrival.
        multiple: Blocks are whole multiples of so many, as of a batch.

    """
    length = multiple * max(1, round(count**0.5 / multiple))
    # What is left over at the end is no block of its own.
    numbers: _Array = np.minimum(np.arange(count) // length, max(count // length - 1, 0))
    return numbers


def _numbers(clusters: npt.ArrayLike) -> _Array:
    return np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()


def _bootstrap(statistic: _OfResamples, numbers: _Array) -> Interval:
    every = np.arange(numbers.max() + 1)
    value = float(statistic(every[np.newaxis])[0])
    if len(every) < 2:
        return Interval(value, float("nan"), float("nan"))

    def vectorized(drawn: _Array, axis: int) -> _Array:
        return statistic(np.atleast_2d(np.moveaxis(drawn, axis, -1)))

    # scipy resamples observations; here these are the numbers of clusters.
    found = stats.bootstrap(
        (every,),
        vectorized,
        n_resamples=RESAMPLES,
        batch=_AT_A_TIME,
        vectorized=True,
        confidence_level=_level(len(every)),
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def _level(n: int) -> float:
    """Return between which percentiles of the resamples of ``n`` clusters the interval is."""
    # They are those of a normal distribution with n in place of n - 1; of few clusters, Student's t
    # is wider.
    factor = np.sqrt(n / (n - 1)) * stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    return min(1 - 2 * float(stats.norm.sf(factor)), 1 - 1e-9)


def _statistic(values: _Array, numbers: _Array, percentile: float | None) -> _OfResamples:
    """Return what works out the statistic of the values of the clusters drawn."""
    sizes = np.bincount(numbers)
    if percentile is None:
        sums = np.bincount(numbers, weights=values)
        return lambda drawn: sums[drawn].sum(-1) / sizes[drawn].sum(-1)
    order = np.argsort(values)
    sorted_values, sorted_numbers = values[order], numbers[order]

    def of_resamples(drawn: _Array) -> _Array:
        # How often each cluster was drawn, so how often each value counts.
        times = np.stack([np.bincount(row, minlength=len(sizes)) for row in drawn])
        upto = times[:, sorted_numbers].cumsum(-1)
        place = (upto[:, -1] - 1) * percentile / 100
        below, share = np.floor(place), place % 1
        last = len(values) - 1
        low = sorted_values[np.minimum((upto <= below[:, np.newaxis]).sum(-1), last)]
        high = sorted_values[np.minimum((upto <= below[:, np.newaxis] + 1).sum(-1), last)]
        interpolated: _Array = low + share * (high - low)
        return interpolated

    return of_resamples
