"""The verdict on a claim: what an interval says when it is held against what was claimed.

Nothing here knows a result or a claim; margins and tolerances are set beforehand in
``claims.yaml``.

*reproduced*
    The interval of the share of the claimed effect (ours ÷ the paper's) lies within the margins:
    two one-sided tests (TOST; Schuirmann, *J. Pharmacokinetics and Biopharmaceutics* 15, 1987),
    so that a wide interval reproduces nothing. Where no size is claimed: it lies on the claimed
    side of none. Of a claim that there is no effect: at every point it lies within the tolerance.
    Of a claim of at least so much: at every point it lies there or above.
*smaller*, *larger*
    It lies wholly below, or above, the margins, and on the claimed side.
*refuted*
    It excludes the claimed direction; of a claim that there is no effect, it lies wholly outside
    the tolerance, or of at least so much below that, at a point.
*undecided*
    Anything else: there is not enough data to say.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from scipy import stats

from harness.analysis.stats import Interval

Verdict = Literal["reproduced", "smaller", "larger", "refuted", "undecided", "not run"]
Margins = tuple[float, float]
# Half the width of an interval, in its standard errors.
_HALF = float(stats.norm.ppf(0.975))


class Power(NamedTuple):
    """The chance of "reproduced" in a run like this one, by what the truth is.

    ``full``: the paper's effect; ``half`` of it; ``none``. The last two are errors.
    """

    full: float
    half: float
    none: float


def of_share(share: Interval, margins: Margins) -> Verdict:
    """Return the verdict on the share of a claimed effect.

    Args:
        share: Ours ÷ what is claimed, with its interval.
        margins: Of the share, beforehand.

    """
    low, high = margins
    if low <= share.low and share.high <= high:
        return "reproduced"
    if share.high <= 0:
        return "refuted"
    if share.low > 0 and share.high < low:
        return "smaller"
    return "larger" if share.low > high else "undecided"


def of_direction(effect: Interval, expect: Literal["up", "down"]) -> Verdict:
    """Return the verdict on a claim of a direction without a size."""
    low, high = effect.low, effect.high
    if expect == "down":
        low, high = -high, -low
    if low > 0:
        return "reproduced"
    return "refuted" if high <= 0 else "undecided"


def of_none(effects: Sequence[Interval], tolerance: float) -> Verdict:
    """Return the verdict on a claim that there is no effect at any point."""
    if any(one.low > tolerance or one.high < -tolerance for one in effects):
        return "refuted"
    is_within = all(-tolerance <= one.low and one.high <= tolerance for one in effects)
    return "reproduced" if is_within else "undecided"


def of_least(effect: Interval, least: float) -> Verdict:
    """Return the verdict on a claim of at least so much at one point."""
    if effect.low >= least:
        return "reproduced"
    return "refuted" if effect.high < least else "undecided"


def of_all(points: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a claim of every point by those on each."""
    for verdict in ("refuted", "undecided"):
        if verdict in points:
            return verdict
    return "reproduced"


def power(share: Interval, margins: Margins) -> Power:
    """Return how likely a run with so wide an interval says "reproduced"."""
    half_width = max(share.high - share.value, share.value - share.low)
    chances = [_reproduced(truth, half_width, margins) for truth in (1.0, 0.5, 0.0)]
    return Power(*chances)


def _reproduced(truth: float, half_width: float, margins: Margins) -> float:
    low, high = margins[0] + half_width, margins[1] - half_width
    if low > high:
        return 0.0
    if not half_width:
        return float(low <= truth <= high)
    error = half_width / _HALF
    return float(stats.norm.cdf((high - truth) / error) - stats.norm.cdf((low - truth) / error))


def more_needed(share: Interval, margins: Margins) -> float:
    """Return how many times as much data an undecided share would be decided by, if it is right.

    Intervals shrink with the square root of what they are of; infinite for a share at a margin.
    """
    half_width = max(share.high - share.value, share.value - share.low)
    distance = min(abs(share.value - limit) for limit in (*margins, 0.0))
    if not distance:
        return math.inf
    widths = half_width / distance
    return widths * widths
