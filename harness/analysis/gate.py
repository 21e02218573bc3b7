"""The nightly gate: does tonight still show what the nights before showed?

It judges the claims of one run (``claims.json``), all of which compare cells of that run with each
other: how fast the machine is cancels out. What it holds them against is a history, a line a
night. **It guards what held before**: a claim that never held raises no alarm for that, tonight or
any night. All nights have the same requests, so that the intervals here are those of the
measurement, not of the workload.

A claim is compared with the nights before that are of the same *setting* (engine version, patches,
model and, in tiers with a clock, machine of the claim's tier; what is not known of one of the two
nights does not tell them apart) and in which it was measured at the same points. It *held* in a
night whose verdict was "reproduced", "smaller" or "larger", or was "undecided" of the size alone:
the interval lies wholly on the claimed side, if not in or out of the margins. Any other "undecided"
is neither held nor lost. A claim is *guarded* once there are ``LEAST_NIGHTS`` of those nights and
it held in more than half of them. Alarms are of four kinds:

``not run``
    A claim, or a point of one, was measured in more than half of the nights since its first, and
    is not tonight. The only alarm that a claim need not be guarded for.
``direction lost``
    The 95 % interval of a guarded claim that something is up or down no longer reaches that side
    of 0, and tonight stands out.
``out of tolerance``
    The 95 % interval of a guarded claim's point lies wholly outside what is allowed there (the
    margins, times the paper's effect; of a claim that something is flat, around 0), where it did
    not in more than half of the nights before, and tonight stands out.
``drift``
    The median of a guarded claim's last ``DRIFT_NIGHTS`` nights is off that of the nights before,
    ``DRIFT_BEFORE`` or more, by over ``DRIFT_SHARE`` of half the width of what is allowed (without
    that, of the noise's 95 % band; without either it is not judged), to either side, and
    significantly so: Mann-Whitney's test, Holm's correction over all claims tested tonight,
    ``DRIFT_ALPHA``.

A value *stands out* if it is further than ``STANDS_OUT`` standard deviations from the median of the
nights before: the larger of their own (from the median absolute deviation) and that of the noise.
How large the noise is, one night knows from few degrees of freedom; so the estimates of tonight and
of the nights before are taken together (``noise``). So a weak claim near its limit raises no alarm
by chance. All of this is in terms of medians and majorities: one bad night changes nothing for
those after it, and what stays bad raises an alarm every night until it is mended or as old as what
was before. To accept a change sooner, start a new history file.

What that amounts to, as ``python tests/support/nights.py 78`` counts it on made-up nights of 16
claims, whose hit rates repeat exactly and whose ratios of TTFT, 11 claims of them, have a standard
deviation of 1.5 % from night to night, which a night knows from 4 degrees of freedom. In 78 years
without a change 3 had an alarm, each by drift. A claim with a single point and an effect of 6 %
(TTFT), or the paper's six points (hit rate, with a mean of 5.2 points), and margins of 0.67 to 1.5,
that changes after 60 steady nights, was found:

================================  =======  ====================================
change                            at once  nights it took, median (5 to 95 %)
================================  =======  ====================================
TTFT by 12 %                      95 %     1 (1 to 2)
TTFT by 9 %                       71 %     1 (1 to 4)
TTFT by 6 %                       10 %     6 (1 to 7)
TTFT by 4 %                       0 %      7 (4 to 14)
TTFT by 3 %                       0 %      8 (5 to more than 60)
TTFT by 0.2 % more each night     0 %      19 (11 to 27)
TTFT by 0.1 % more each night     0 %      34 (21 to 51)
hit rate by 2 points or more      100 %    1
hit rate by 0.6 points            0 %      4
hit rate by 0.1 points a night    0 %      8
hit rate by 0.02 points a night   0 %      25
================================  =======  ====================================

TTFT by 2 %, or by 0.05 % a night, was mostly not found within 60 nights.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import dropwhile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
)
from scipy import stats

from harness import git
from harness.analysis import tables
from harness.analysis.stats import holm
from harness.analysis.verdicts import Margins, Verdict
from harness.errors import HarnessError

LEAST_NIGHTS = 5
STANDS_OUT = 5.0
DRIFT_NIGHTS = 7
DRIFT_BEFORE = 14
DRIFT_SHARE = 0.2
DRIFT_ALPHA = 0.0001

# Half the width of a 95 % band, in standard deviations.
BAND = float(stats.norm.ppf(0.975))

CELLS = "cells.csv"
# Columns of cells.csv that make a setting; the last one only where there is a clock.
_SETTING = ("engine_version", "patches_sha256", "model_sha256", "machine")
_ONE_NIGHT = timedelta(hours=24)
# Of the history's lines: what held by other rules is not comparable.
_VERSION = 2

Kind = Literal["not run", "direction lost", "out of tolerance", "drift"]
Key = tuple[str, str, str]


class _Line(BaseModel):
    # What else claims.json says is of no use here.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Measured(_Line):
    ours: float | None
    ci95: tuple[float, float] | None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of what has a value; what repeats exactly may have none."""
        assert self.ours is not None
        return self.ci95 or (self.ours, self.ours)


class Point(_Measured):
    """One of the points that a claim is the mean of, in the claim's unit.

    ``allowed`` is where the size is as claimed; None if the size is not judged.
    """

    at: str
    allowed: tuple[float, float] | None


class Claim(_Measured):
    """A claim as one night judged it; an entry of ``claims.json``.

    ``ours`` and ``paper`` are means over the points, ``ci95`` is the interval of the measurement,
    ``noise`` the standard error of ``ours`` by what differs from run to run, known with
    ``noise_df`` degrees of freedom (None where equal cells are equal); all are in ``unit``: points
    of hit rate, or per cent of LRU's. ``margins`` are of the share of the paper's effect.
    """

    id: str
    claim: str
    tier: str
    quantity: str
    unit: str
    expect: Literal["up", "down", "flat", "at-least"]
    paper: float | None
    noise: float | None
    noise_df: PositiveFloat | None
    margins: Margins | None
    verdict: Verdict
    reason: str
    points: tuple[Point, ...]

    @property
    def key(self) -> Key:
        """What names the claim in every night."""
        return self.id, self.tier, self.quantity

    @cached_property
    def ran(self) -> bool:
        """Whether there is a value."""
        return self.ours is not None and self.verdict != "not run"

    @property
    def is_judged(self) -> bool:
        """Whether there is a value, and it is known how sure: times never repeat exactly."""
        return self.ran and (self.ci95 is not None or self.quantity != "ttft")

    @cached_property
    def measured(self) -> dict[str, Point]:
        """The points that have a value, by where they are."""
        return {point.at: point for point in self.points if point.ours is not None}

    @cached_property
    def held(self) -> bool:
        """Whether the claim holds, if not in the paper's size."""
        if self.verdict == "undecided" and self.margins is not None and self.is_judged:
            low, high = self.interval
            return {"up": low > 0, "down": high < 0}.get(self.expect, False)
        return self.verdict in ("reproduced", "smaller", "larger")

    @cached_property
    def allowed(self) -> tuple[float, float] | None:
        """Where the mean's size is as claimed; None if the size is not judged."""
        if self.margins is not None and self.paper is not None:
            low, high = sorted(margin * self.paper for margin in self.margins)
            return low, high
        given = [point.allowed for point in self.points if point.allowed is not None]
        if not given:
            return None
        low, high = np.mean(given, axis=0).tolist()
        return low, high


class Night(_Line):
    """A line of the history: when (UTC), with what code, on what, and every claim.

    ``provenance`` is tier -> column of ``cells.csv`` -> the values that the tier's cells have.
    """

    version: Literal[2]
    date: AwareDatetime
    git: str | None
    provenance: dict[str, dict[str, tuple[str, ...]]] = {}
    claims: tuple[Claim, ...]

    @cached_property
    def by_key(self) -> dict[Key, Claim]:
        """The claims by what names them."""
        return {claim.key: claim for claim in self.claims}


class Alarm(NamedTuple):
    """Why a claim raises an alarm."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Judgement:
    """A claim tonight, the nights before that it is compared with, and its alarms."""

    claim: Claim
    before: tuple[Claim, ...]
    alarms: tuple[Alarm, ...]

    @property
    def held(self) -> int:
        """In how many of the nights before the claim held."""
        return sum(claim.held for claim in self.before)

    @property
    def guarded(self) -> bool:
        """Whether losing the claim would raise an alarm."""
        return len(self.before) >= LEAST_NIGHTS and 2 * self.held > len(self.before)


def read_night(path: Path) -> Night:
    """Read tonight's claims, and where their cells come from out of ``cells.csv`` beside them.

    The night is dated by its last cell; where there is no such table, by the claims file.

    Raises:
        HarnessError: if there are no claims, or they are not in the format, or the cells of a tier
            with a clock are not of one machine and one night (24 hours).

    """
    try:
        claims = TypeAdapter(tuple[Claim, ...]).validate_json(path.read_bytes())
        written = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    except OSError as error:
        raise HarnessError(
            f"{path}: no claims to judge: {error.strerror}; `harness judge` writes them"
        ) from None
    except ValidationError as error:
        raise HarnessError(
            f"{path}: not a list of claims: {_first(error)}; write it anew with `harness judge`"
        ) from None
    twice = [key for key, count in Counter(claim.key for claim in claims).items() if count > 1]
    if not claims or twice:
        found = f"{' '.join(twice[0])} twice" if twice else "no claim"
        raise HarnessError(f"{path}: {found}; write it anew with `harness judge`")
    provenance: dict[str, dict[str, tuple[str, ...]]] = {}
    date = written
    table = path.with_name(CELLS)
    if table.exists():
        cells = tables.read_cells(table)
        measured = pd.to_datetime(cells["measured_at"], utc=True)
        for tier, own in cells.groupby("tier"):
            provenance[str(tier)] = _setting(str(tier), own)
            if tier != "replay":
                _check_one_night(f"{table}: cells of tier {tier}", own, measured[own.index])
        if measured.notna().any():
            date = measured.max().to_pydatetime()
    return Night(
        version=_VERSION,
        date=date,
        git=git.revision(Path(__file__).parents[2]),
        provenance=provenance,
        claims=claims,
    )


def _setting(tier: str, cells: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    columns = [column for column in _SETTING if tier != "replay" or column != "machine"]
    return {column: tuple(sorted(map(str, cells[column].dropna().unique()))) for column in columns}


def _check_one_night(which: str, cells: pd.DataFrame, measured: "pd.Series[pd.Timestamp]") -> None:
    machines = sorted(cells["machine"].dropna().unique())
    if len(machines) > 1:
        raise HarnessError(
            f"{which} are of {len(machines)} machines ({' / '.join(machines)}); the gate judges "
            "one machine's night: measure all of them on one"
        )
    if measured.max() - measured.min() > _ONE_NIGHT:
        raise HarnessError(
            f"{which} were measured from {_time(measured.min())} to {_time(measured.max())}; the "
            "gate judges one night: measure all of them anew"
        )


def read_history(path: Path) -> list[Night]:
    """Read the nights before, ordered by date; none if there is no file.

    Raises:
        HarnessError: if a line is not a night, is one that was judged by other rules, or a night
            is there twice.

    """
    try:
        # Not splitlines(), which also splits at separators that JSON allows inside a string.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read: {error}") from None
    nights: dict[datetime, Night] = {}
    for number, line in enumerate(lines, start=1):
        try:
            night = Night.model_validate_json(line)
        except ValidationError as error:
            if any(problem["loc"] == ("version",) for problem in error.errors()):
                raise HarnessError(
                    f"{path}, line {number}: not a night of version {_VERSION} of this file: what "
                    "held by other rules cannot be compared with tonight; move the file away to "
                    "begin a new history"
                ) from None
            raise HarnessError(
                f"{path}, line {number}: not a night: {_first(error)}; take the line out, or "
                "restore the file"
            ) from None
        if night.date in nights:
            raise HarnessError(
                f"{path}, line {number}: the night of {_time(night.date)} once more; take one of "
                "the two lines out"
            )
        nights[night.date] = night
    return sorted(nights.values(), key=lambda night: night.date)


def append(path: Path, night: Night) -> None:
    """Add a night to the history file, which is replaced as a whole, or made.

    Raises:
        HarnessError: if the file is bad, or has the night already.

    """
    if any(known.date == night.date for known in read_history(path)):
        raise HarnessError(
            f"{path} has the night of {_time(night.date)} already; judge it without --append, or "
            "take its line out"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    partial = path.with_name(f".{path.name}.partial")
    separator = "" if not before or before.endswith("\n") else "\n"
    partial.write_text(f"{before}{separator}{night.model_dump_json()}\n", encoding="utf-8")
    os.replace(partial, path)


def judge(night: Night, history: Iterable[Night]) -> list[Judgement]:
    """Judge each claim of a night, and those that it no longer has, by the rules above.

    Args:
        night: Tonight.
        history: The nights before, ordered by date; those that are not before are left out.

    """
    before = [earlier for earlier in history if earlier.date < night.date]
    known = {key: claim for earlier in before for key, claim in earlier.by_key.items()}
    gone = [_gone(claim) for key, claim in known.items() if key not in night.by_key]
    found = []
    same = {
        tier: [earlier for earlier in before if not changed(night, earlier, tier)]
        for tier in {claim.tier for claim in [*night.claims, *gone]}
    }
    for claim in [*night.claims, *gone]:
        nights = [earlier.by_key.get(claim.key) for earlier in same[claim.tier]]
        judgement = _judge(claim, nights)
        if claim.key in night.by_key or judgement.alarms:
            found.append(judgement)
    return _with_drift(found)


def _gone(claim: Claim) -> Claim:
    nothing = {
        "ours": None,
        "ci95": None,
        "verdict": "not run",
        "reason": "the claims no longer have it",
        "points": (),
    }
    return Claim.model_validate(claim.model_dump() | nothing)


def changed(night: Night, earlier: Night, tier: str) -> list[str]:
    """Return what makes a tier's setting another one than on an earlier night.

    Returns:
        The columns of ``cells.csv`` that differ. Where a part of the cells was not run, they do
        not: one night's values are then among the other's.

    """
    now, then = night.provenance.get(tier, {}), earlier.provenance.get(tier, {})
    values = {column: (set(now.get(column, ())), set(then.get(column, ()))) for column in _SETTING}
    return [column for column, (a, b) in values.items() if not (a <= b or b <= a)]


def _judge(claim: Claim, nights: Sequence[Claim | None]) -> Judgement:
    """Judge all but drift; ``nights`` is the claim in each night of the same setting."""
    since = list(dropwhile(lambda earlier: earlier is None or not earlier.ran, nights))
    ran = [earlier for earlier in since if earlier is not None and earlier.ran]
    before = tuple(earlier for earlier in ran if earlier.measured.keys() == claim.measured.keys())
    judgement = Judgement(claim, before, ())
    alarms = list(_not_run(claim, ran, len(since)))
    if claim.is_judged and judgement.guarded:
        alarms += _direction_lost(claim, before)
        alarms += _out_of_tolerance(claim, before)
    return replace(judgement, alarms=tuple(alarms))


def _not_run(claim: Claim, ran: Sequence[Claim], nights: int) -> Iterable[Alarm]:
    said = f"of the {nights} nights since its first"
    if not claim.ran:
        if 2 * len(ran) > nights:
            yield Alarm("not run", f"{claim.reason.rstrip('.')}; ran in {len(ran)} {said}")
        return
    for at, count in Counter(at for earlier in ran for at in earlier.measured).items():
        if at not in claim.measured and 2 * count > nights:
            yield Alarm("not run", f"nothing at {at}; measured in {count} {said}")


def _direction_lost(claim: Claim, before: Sequence[Claim]) -> Iterable[Alarm]:
    low, high = claim.interval
    is_lost = {"up": high <= 0, "down": low >= 0}.get(claim.expect, False)
    if is_lost and _stands_out(claim, before, noise((*before, claim))):
        side = "above" if claim.expect == "up" else "below"
        yield Alarm("direction lost", f"{_value(claim)} is not {side} 0; {_said_before(before)}")


def _out_of_tolerance(claim: Claim, before: Sequence[Claim]) -> Iterable[Alarm]:
    for at, point in claim.measured.items():
        if point.allowed is None or not _is_out(point):
            continue
        earlier = [other.measured[at] for other in before]
        is_usual = 2 * sum(map(_is_out, earlier)) >= len(earlier)
        # The claim's noise is that of the mean of its points.
        error = (noise((*before, claim)) or 0.0) * len(claim.measured) ** 0.5
        if not is_usual and _stands_out(point, earlier, error):
            low, high = point.allowed
            yield Alarm(
                "out of tolerance",
                f"{at}: {_value(point)} is not within {low:+.3g} to {high:+.3g}; "
                f"{_said_before(earlier)}",
            )


def _is_out(point: Point) -> bool:
    if point.allowed is None:
        return False
    low, high = point.interval
    return low > point.allowed[1] or high < point.allowed[0]


def _said_before(before: Sequence[Claim | Point]) -> str:
    return f"median of the {len(before)} nights before {_median(before):+.3g}"


def noise(claims: Iterable[Claim]) -> float | None:
    """Return the standard error of a claim by noise, as nights' estimates of it together say.

    Returns:
        The median of the estimates, each divided by what the median of such an estimate of 1 is;
        None if there is none.

    """
    known = [
        (claim.noise, claim.noise_df)
        for claim in claims
        if claim.noise is not None and claim.noise_df is not None
    ]
    if not known:
        return None
    estimates, freedom = np.array(known).T
    # An estimated variance of 1, times its degrees of freedom, is chi-squared.
    return float(np.median(estimates / np.sqrt(stats.chi2.median(freedom) / freedom)))


def _stands_out(
    tonight: Claim | Point, before: Sequence[Claim | Point], error: float | None
) -> bool:
    value, values = _values([tonight])[0], _values(before)
    own = stats.median_abs_deviation(values, scale="normal")
    return bool(abs(value - np.median(values)) > STANDS_OUT * max(own, error or 0.0))


def _values(measured: Iterable[Claim | Point]) -> npt.NDArray[np.float64]:
    return np.array([each.ours for each in measured], float)


def _median(measured: Iterable[Claim | Point]) -> float:
    return float(np.median(_values(measured)))


def _with_drift(judgements: Sequence[Judgement]) -> list[Judgement]:
    tested = {
        place: p
        for place, judgement in enumerate(judgements)
        if (p := _drift_p(judgement)) is not None
    }
    found = list(judgements)
    # Adjusted, p is no less; and adjusting takes longer than all else.
    if min(tested.values(), default=1.0) > DRIFT_ALPHA:
        return found
    for place, adjusted in zip(tested, holm(list(tested.values())), strict=True):
        if adjusted <= DRIFT_ALPHA:
            drift = _drift(found[place], tested[place])
            found[place] = replace(found[place], alarms=(*found[place].alarms, drift))
    return found


def _last_and_before(judgement: Judgement) -> tuple[Sequence[Claim], Sequence[Claim]]:
    nights = (*judgement.before, judgement.claim)
    return nights[-DRIFT_NIGHTS:], nights[:-DRIFT_NIGHTS]


def _drift_p(judgement: Judgement) -> float | None:
    """Return how likely so much of a change is by chance; None if it cannot be said."""
    claim = judgement.claim
    last, before = _last_and_before(judgement)
    if not (claim.ran and judgement.guarded) or len(before) < DRIFT_BEFORE:
        return None
    half = _half_width(judgement)
    if half is None:
        return None
    if abs(_median(last) - _median(before)) <= DRIFT_SHARE * half:
        return 1.0
    return float(stats.mannwhitneyu(_values(last), _values(before)).pvalue)


def _half_width(judgement: Judgement) -> float | None:
    """Return half the width of what is allowed of the claim, or of the noise; None without both."""
    if judgement.claim.allowed is not None:
        low, high = judgement.claim.allowed
        return (high - low) / 2
    error = noise((*judgement.before, judgement.claim))
    return None if error is None else BAND * error


def _drift(judgement: Judgement, p: float) -> Alarm:
    last, before = _last_and_before(judgement)
    return Alarm(
        "drift",
        f"median of the last {len(last)} nights {_median(last):+.3g} {judgement.claim.unit}, of "
        f"the {len(before)} before {_median(before):+.3g} (p = {p:.1g})",
    )


def table(night: Night, history: Sequence[Night], judgements: Sequence[Judgement]) -> str:
    """Return the judgements as lines of text: the night, then each claim that ran or should."""
    before = [earlier for earlier in history if earlier.date < night.date]
    shown = [each for each in judgements if each.claim.ran or each.alarms]
    rows = [_TITLES, *map(_row, shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"night of {_time(night.date)}, git {night.git or 'unknown'}, {len(before)} before it"]
    for tier in night.provenance if before else ():
        if columns := changed(night, before[-1], tier):
            lines.append(f"tier {tier}: not the {' and '.join(columns)} of the night before")
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    if len(shown) < len(judgements):
        lines.append(f"not run, as before: {len(judgements) - len(shown)} claims")
    return "\n".join(lines)


def alarms(judgements: Sequence[Judgement]) -> list[str]:
    """Return a line for each alarm."""
    return [
        f"{' '.join(judgement.claim.key)}: {alarm.kind}: {alarm.text}"
        for judgement in judgements
        for alarm in judgement.alarms
    ]


_TITLES = (
    "claim",
    "tier",
    "quantity",
    "expect",
    "tonight",
    "median before",
    "held before",
    "verdict",
    "gate",
)


def _row(judgement: Judgement) -> tuple[str, ...]:
    claim, before = judgement.claim, judgement.before
    return (
        *claim.key,
        claim.expect,
        _value(claim) if claim.ran else "not run",
        f"{_median(before):+.3g}" if before else "-",
        f"{judgement.held}/{len(before)}",
        claim.verdict,
        _status(judgement),
    )


def _status(judgement: Judgement) -> str:
    if judgement.alarms:
        return f"ALARM: {', '.join(dict.fromkeys(alarm.kind for alarm in judgement.alarms))}"
    if len(judgement.before) < LEAST_NIGHTS:
        return f"not yet guarded: {len(judgement.before)} of {LEAST_NIGHTS} nights"
    if not judgement.guarded:
        return "not guarded: did not hold before"
    return "ok" if judgement.claim.held else f"{judgement.claim.verdict}, but no alarm"


def _value(measured: Claim | Point) -> str:
    interval = measured.ci95
    said = f"{measured.ours:+.3g}" + (
        f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
    )
    return f"{said} {measured.unit}" if isinstance(measured, Claim) else said


def _time(date: datetime) -> str:
    return f"{date:%Y-%m-%d %H:%M:%S}"


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where + ': ' if where else ''}{problem['msg']}"
