import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import nights as made_up
from support.nights import (
    C1,
    C2,
    CERTAIN,
    CLAIMS,
    FIRST,
    SETTING,
    Made,
    alarmed,
    exact,
    night,
    nights,
    ratios,
)

from harness import cli
from harness.analysis import claims, gate, tables
from harness.analysis.gate import Claim, Night
from harness.analysis.stats import Estimate
from harness.errors import HarnessError


def _kinds(history: Sequence[Night]) -> dict[gate.Key, list[gate.Kind]]:
    """Return the alarms of the last night."""
    return alarmed(gate.judge(history[-1], history[:-1]))


def test_a_steady_year_raises_no_alarm() -> None:
    # Strong and weak, near a limit or never held; tests/support/nights.py counts over 100 years.
    few = [made for made in CLAIMS if made.id in ("C1", "L1", "C2", "O1", "O6")]
    judged = made_up.judged(nights(365, few))
    assert [found for found in map(alarmed, judged) if found] == []
    # It was not for want of guarded claims.
    assert [each.guarded for each in judged[-1]] == [True, False, True, True, True]


def test_a_broken_night_raises_an_alarm_at_once_and_no_other_night() -> None:
    broken = {"C2": lambda i: 12.0 * (i == 10), "C1": lambda i: -6.0 * (i == 12)}
    judged = made_up.judged(nights(20, CLAIMS, shifts=broken))
    found = {i: kinds for i, each in enumerate(judged) if (kinds := alarmed(each))}
    assert found.keys() == {10, 12}
    assert found[10].keys() == {C2.key}
    assert {"direction lost", "out of tolerance"} == set(found[10][C2.key])
    assert found[12].keys() == {C1.key}
    assert found[12][C1.key].count("direction lost") == 1


def test_what_stays_broken_raises_an_alarm_until_it_is_as_old_as_what_held() -> None:
    judged = made_up.judged(nights(30, [C1], shifts={"C1": lambda i: -9.0 * (i >= 10)}))
    days = [i for i, each in enumerate(judged) if alarmed(each)]
    assert days == list(range(10, 20))


def test_what_never_held_may_go_wherever_it_likes() -> None:
    never = exact("L1", -0.5, -6.5)
    assert never.night(made_up.rng(1)).verdict == "refuted"
    for shift in (-3.0, 20.0):
        assert _kinds(nights(40, [never], shifts={"L1": lambda i, s=shift: s * (i >= 20)})) == {}


@pytest.mark.parametrize(("before", "is_guarded"), [(4, False), (5, True)])
def test_a_claim_is_guarded_after_five_nights(before: int, is_guarded: bool) -> None:
    history = nights(before + 1, [C1], shifts={"C1": lambda i: -9.0 * (i == before)})
    assert bool(_kinds(history)) == is_guarded


@pytest.mark.parametrize(("held", "is_guarded"), [(5, False), (6, True)])
def test_a_claim_is_guarded_if_it_held_in_most_nights(held: int, is_guarded: bool) -> None:
    history = nights(11, [C1], shifts={"C1": lambda i: -9.0 * (i >= held)})
    (judgement,) = gate.judge(history[-1], history[:-1])
    assert judgement.held == held
    assert judgement.guarded == is_guarded


def test_a_claim_that_is_undecided_of_its_size_alone_held() -> None:
    # About half of the paper's effect, to within a third: the size may be in the margins, or below.
    half = Made("H", truth=(-6.0,), paper=(-11.0,), spread=0.0, noise=1.0, noise_df=CERTAIN)
    history = nights(11, [half], shifts={"H": lambda i: 9.0 * (i == 10)})
    assert {each.claims[0].verdict for each in history[:10]} == {"undecided"}
    assert history[-1].claims[0].verdict == "refuted"
    assert _kinds(history)[half.key] == ["direction lost", "out of tolerance"]


@pytest.mark.parametrize(("undecided", "is_guarded"), [(5, True), (6, False)])
def test_an_undecided_direction_was_not_held(undecided: int, is_guarded: bool) -> None:
    claim = ratios("U", -6.0, spread=0.0, noise_df=CERTAIN)
    history = nights(12, [claim], shifts={"U": lambda i: 5.0 * (i < undecided)})
    (judgement,) = gate.judge(history[-1], history[:-1])
    assert judgement.before[0].verdict == "undecided"
    assert judgement.guarded == is_guarded


def test_undecided_is_not_lost() -> None:
    claim = ratios("U", -20.0, spread=0.0, noise_df=CERTAIN)
    history = nights(12, [claim], shifts={"U": lambda i: 22.0 * (i == 11)})
    assert history[-1].claims[0].verdict == "undecided"
    judged = gate.judge(history[-1], history[:-1])
    assert alarmed(judged) == {}
    said = gate.table(history[-1], history, judged).split("11/11")[-1]
    assert said.split() == ["undecided", "undecided,", "but", "no", "alarm"]


@pytest.mark.parametrize(
    ("spread", "noise", "is_found"),
    # It changed by 7.8: less than five times what the nights before differ by, or the noise.
    [(2.5, 0.5, False), (0.0, 1.6, False), (0.0, 0.5, True)],
)
def test_a_weak_claim_that_is_lost_by_chance_does_not_stand_out(
    spread: float, noise: float, is_found: bool
) -> None:
    weak = ratios("W", -4.5, spread=spread, noise=noise, noise_df=CERTAIN)
    history = nights(30, [weak])
    lost = replace(weak, spread=0.0).night(made_up.rng(1), 7.8)
    assert lost.interval[0] > 0
    history[-1] = night(29, lost)
    assert _kinds(history) == ({weak.key: ["direction lost"]} if is_found else {})


@pytest.mark.parametrize(("value", "is_lost"), [(-0.4, False), (-0.6, True)])
def test_a_direction_is_lost_that_the_interval_no_longer_reaches(
    value: float, is_lost: bool
) -> None:
    claim = ratios("U", 6.0, expect="up", spread=0.0, noise=0.25, noise_df=CERTAIN)
    history = nights(10, [claim], shifts={"U": lambda i: (value - 6.0) * (i == 9)})
    assert bool(_kinds(history)) == is_lost


def test_a_point_is_held_against_the_noise_of_one_point() -> None:
    # By noise alone the mean of four has a standard deviation of 0.75, each of them 1.5.
    four = (-6.0,) * 4
    claim = Made("P", truth=four, paper=four, spread=0.0, noise_df=CERTAIN)
    found = {claim.key: ["direction lost", *4 * ["out of tolerance"]]}
    for shift, kinds in ((7.0, {}), (8.0, found)):
        history = nights(10, [claim], shifts={"P": lambda i, s=shift: s * (i == 9)})
        assert all(gate._is_out(point) for point in history[-1].claims[0].points)
        assert _kinds(history) == kinds


def test_noise_is_what_the_nights_know_of_it_together() -> None:
    claim = ratios("N", -6.0, noise=2.0)
    made = [each.claims[0] for each in nights(400, [claim])]
    estimates = [each.noise for each in made if each.noise]
    assert (min(estimates), max(estimates)) == pytest.approx((0.5, 4.0), rel=0.5)
    assert gate.noise(made) == pytest.approx(2.0, rel=0.05)
    # One night changes little, and of what repeats exactly there is none.
    bad = made[0].model_copy(update={"noise": 1000.0})
    assert gate.noise([*made[1:10], bad]) == pytest.approx(2.0, rel=0.3)
    assert gate.noise([C1.night(made_up.rng(1))]) is None


def test_a_night_that_takes_its_noise_for_small_does_not_stand_out() -> None:
    claim = Made("W", truth=(-6.0,), paper=(-6.0,), spread=0.0)
    history = nights(20, [claim])
    small = replace(claim, noise=0.05).night(made_up.rng(1), 6.2)
    assert small.interval[0] > 0
    (judgement,) = gate.judge(night(19, small), history[:-1])
    assert (judgement.guarded, judgement.alarms) == (True, ())


def test_ttft_whose_noise_nobody_knows_is_not_judged() -> None:
    history = nights(12, [C2])
    for shift in (0.0, 12.0):
        unknown = replace(C2, noise=None).night(made_up.rng(1), shift)
        unknown = unknown.model_copy(update={"verdict": "undecided"})
        (judgement,) = gate.judge(night(11, unknown), history[:-1])
        assert (judgement.claim.held, judgement.guarded, judgement.alarms) == (False, True, ())


@pytest.mark.parametrize(("out", "found"), [(4, ["out of tolerance"]), (5, [])])
def test_out_of_tolerance_in_half_of_the_nights_is_usual(out: int, found: list[str]) -> None:
    claim = exact("T", 5.0, paper=(5.0,))
    history = nights(11, [claim], shifts={"T": lambda i: 15.0 if i == 10 else -2.6 * (i < out)})
    assert _kinds(history).get(claim.key, []) == found


def test_a_noisy_night_is_not_a_broken_one_and_hides_none_after_it() -> None:
    history = nights(21, [C2], shifts={"C2": lambda i: 12.0 * (i == 20)})
    noisy = replace(C2, noise=40.0, noise_df=CERTAIN).night(made_up.rng(1), 12.0)
    history[-2] = night(19, noisy)
    assert _kinds(history[:-1]) == {}
    assert "direction lost" in _kinds(history)[C2.key]


def test_a_point_that_leaves_what_is_allowed() -> None:
    # The first point is off the paper every night.
    two = exact("T", 5.0, 9.0, paper=(12.0, 6.5))
    shifts = {"T": lambda i: {18: 0.7, 19: 0.8}.get(i, 0.0)}
    history = nights(20, [two], shifts=shifts)
    assert _kinds(history[:-1]) == {}
    (judgement,) = gate.judge(history[-1], history[:-1])
    ((kind, text),) = judgement.alarms
    assert kind == "out of tolerance"
    assert text == (
        "100k tokens: +9.8 is not within +4.36 to +9.75; median of the 19 nights before +9"
    )


def test_the_whole_interval_has_to_be_out_of_tolerance() -> None:
    shifts = {"T": lambda i: -2.0 * (i == 19)}
    wide, narrow = (
        exact("T", 5.0, paper=(5.0,), noise=noise, noise_df=CERTAIN) for noise in (0.3, 0.1)
    )
    assert _kinds(nights(20, [wide], shifts=shifts)) == {}
    assert _kinds(nights(20, [narrow], shifts=shifts)) == {narrow.key: ["out of tolerance"]}


def test_flat_is_within_tolerance_of_none_to_either_side() -> None:
    flat = exact("F", 0.2, expect="flat", paper=None)
    history = nights(20, [flat])
    for shift, found in ((-1.1, {}), (0.9, {flat.key}), (-1.3, {flat.key})):
        shifted = night(19, flat.night(made_up.rng(1), shift))
        assert _kinds([*history[:-1], shifted]).keys() == set(found)


def _without(claim: Claim, **changes: Any) -> Claim:
    nothing = {"ours": None, "ci95": None, "verdict": "not run", "reason": "No cell.", "points": ()}
    return Claim.model_validate(claim.model_dump() | nothing | changes)


def test_what_ran_and_does_not_raises_an_alarm_also_if_it_never_held() -> None:
    never = exact("L1", -0.5)
    (first, second) = nights(2, [never])
    tonight = night(1, _without(second.claims[0]))
    (judgement,) = gate.judge(tonight, [first])
    assert judgement.alarms == (("not run", "No cell; ran in 1 of the 1 nights since its first"),)
    gone = night(1)
    ((_, text),) = gate.judge(gone, [first])[0].alarms
    assert text.startswith("the claims no longer have it; ran in 1")


def test_what_did_not_run_in_most_nights_may_be_missing() -> None:
    history = nights(10, [C1, C2])
    for i in (*range(3), *range(5, 10)):
        history[i] = night(i, _without(history[i].claims[0]), history[i].claims[1])
    # C1 ran on nights 3 and 4.
    assert [bool(_kinds(history[: i + 1])) for i in range(10)] == [
        *(False, False, False, False, False),
        *(True, True, False, False, False),
    ]


def _without_point(claim: Claim, at: str) -> Claim:
    left = [point.model_dump() for point in claim.points if point.at != at]
    return Claim.model_validate(claim.model_dump() | {"points": left, "ours": 4.2})


def test_a_point_that_is_missing_raises_an_alarm_and_is_not_compared() -> None:
    history = nights(10, [C1])
    # Without its largest point the mean is lower by 1: no drift, and no fewer nights after it.
    less = night(9, _without_point(history[-1].claims[0], "50k tokens"))
    (judgement,) = gate.judge(less, history[:-1])
    assert judgement.alarms == (
        ("not run", "nothing at 50k tokens; measured in 9 of the 9 nights since its first"),
    )
    (after,) = gate.judge(nights(11, [C1])[-1], [*history[:-1], less])
    assert (len(after.before), after.alarms) == (9, ())


def test_a_point_that_was_missing_in_half_of_the_nights_may_be() -> None:
    history = nights(9, [C1])
    for i in (4, 5, 6, 7, 8):
        history[i] = night(i, _without_point(history[i].claims[0], "50k tokens"))
    for count, is_missed in ((8, False), (7, True)):
        assert bool(_kinds(history[: count + 1])) == is_missed


@pytest.mark.parametrize(
    ("shift", "most"),
    [
        # Found the fourth night, when the median of seven is of the new ones.
        (lambda night: -0.6, 7),
        (lambda night: 0.6, 7),
        (lambda night: -0.05 * night, 18),
    ],
)
def test_drift_of_what_repeats_exactly(shift: made_up.Shift, most: int) -> None:
    claim = exact("D", 5.0, paper=(5.0,))
    assert 4 <= made_up.nights_to_find(claim, shift, seed=1, most=most) <= most


def test_drift_of_what_does_not_repeat() -> None:
    worst = Made("W", truth=(-6.0,), paper=(-6.0,))
    assert made_up.nights_to_find(worst, lambda night: 0.2 * night, seed=1) <= 30
    kinds = _kinds(nights(90, [worst], shifts={"W": lambda i: 4.0 * (i >= 80)}))
    assert kinds == {worst.key: ["drift"]}


def test_drift_by_a_fifth_of_what_is_allowed_is_none() -> None:
    claim = exact("D", 5.0, paper=(5.0,))
    for shift, found in ((-0.41, {}), (-0.42, {claim.key: ["drift"]})):
        assert _kinds(nights(60, [claim], shifts={"D": lambda i, s=shift: s * (i >= 50)})) == found


def test_without_a_size_drift_is_held_against_the_noise() -> None:
    shifts = {"W": lambda i: -2.0 * (i >= 50)}
    # A fifth of the band of 95 % is 0.39 standard deviations of it.
    for noise, found in ((None, []), (5.5, []), (4.5, ["drift"])):
        claim = ratios("W", -20.0, spread=0.1, noise=noise, noise_df=CERTAIN)
        assert _kinds(nights(60, [claim], shifts=shifts)).get(claim.key, []) == found


def test_drift_is_corrected_for_the_number_of_claims() -> None:
    # Seven nights against fourteen, all of them lower: p = 1.7e-5.
    def drifting(i: int) -> float:
        return -0.6 - 0.001 * i if i >= 14 else 0.001 * i

    steady = [exact(f"S{i}", 5.0, paper=(5.0,)) for i in range(10)]
    for others, found in ((steady[:4], {C1.key}), (steady, set())):
        assert _kinds(nights(21, [C1, *others], shifts={"C1": drifting})).keys() == found


def _elsewhere(history: Sequence[Night], first: int, **changes: tuple[str, ...]) -> list[Night]:
    """Return the history with another setting in both tiers from a night on."""
    other = {"replay": SETTING | changes, "gpu": SETTING | changes}
    return [
        each.model_copy(update={"provenance": other}) if i >= first else each
        for i, each in enumerate(history)
    ]


@pytest.mark.parametrize("column", SETTING)
def test_another_setting_begins_a_new_history(column: str) -> None:
    history = nights(20, [C2], shifts={"C2": lambda i: 12.0 * (i >= 10)})
    moved = _elsewhere(history, 10, **{column: ("other",)})
    assert [bool(_kinds(moved[: i + 1])) for i in range(20)] == [False] * 20
    said = gate.table(moved[10], moved[:10], gate.judge(moved[10], moved))
    assert f"tier gpu: not the {column} of the night before" in said
    # And back again it goes on.
    (judgement,) = gate.judge(history[0].model_copy(update={"date": night(20).date}), moved)
    assert len(judgement.before) == 10


@pytest.mark.parametrize(
    "tonight",
    [
        {},
        {"gpu": {}},
        {"gpu": {"engine_version": ()}},
        # One of two engines did not run.
        {"gpu": SETTING | {"engine_version": ("0.32.0", "other")}},
    ],
)
def test_what_is_not_known_does_not_tell_nights_apart(tonight: dict[str, Any]) -> None:
    history = nights(10, [C2], shifts={"C2": lambda i: 12.0 * (i == 9)})
    history[-1] = history[-1].model_copy(update={"provenance": tonight})
    assert _kinds(history)


def test_a_night_knows_none_after_it() -> None:
    history = nights(20, [C1])
    (judgement,) = gate.judge(history[3], history)
    assert len(judgement.before) == 3


# What is read and written.


def _write(folder: Path, made: Night, rows: Sequence[dict[str, Any]] | None = None) -> Path:
    """Write a night's claims as ``harness judge`` does, and a table of cells beside them."""
    path = folder / "claims.json"
    path.write_text(json.dumps([claim.model_dump() | {"p": None} for claim in made.claims]))
    os.utime(path, (made.date.timestamp(),) * 2)
    if rows is not None:
        _cells(folder, rows)
    return path


def _cells(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pandas as pd

    pd.DataFrame(rows, columns=tables.COLUMNS).to_csv(folder / "cells.csv", index=False)


def _row(**changes: Any) -> dict[str, Any]:
    return {
        "tier": "gpu",
        "engine_version": "0.32.0",
        "patches_sha256": "aa",
        "model_sha256": "bb",
        "machine": "one",
        "measured_at": "2030-01-01T01:00:00Z",
    } | changes


def test_a_night_is_dated_and_named_by_its_cells(tmp_path: Path) -> None:
    (made,) = nights(1, [C1, C2])
    rows = [
        _row(),
        _row(patches_sha256=None, measured_at="2030-01-01T03:00:00Z"),
        # Hit rates do not depend on the machine.
        _row(tier="replay", machine="two", measured_at="2029-12-24T01:00:00Z"),
        {"tier": "cpu"},
    ]
    found = gate.read_night(_write(tmp_path, made, rows))
    assert found.claims == made.claims
    assert found.date.isoformat() == "2030-01-01T03:00:00+00:00"
    known = {"engine_version": ("0.32.0",), "patches_sha256": ("aa",), "model_sha256": ("bb",)}
    nothing = dict.fromkeys([*known, "machine"], ())
    assert found.provenance == {
        "gpu": known | {"machine": ("one",)},
        "replay": known,
        "cpu": nothing,
    }
    (tmp_path / "cells.csv").unlink()
    alone = gate.read_night(tmp_path / "claims.json")
    assert (alone.date, alone.provenance) == (FIRST, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "no claims to judge: No such file"),
        (lambda path: path.write_text("[{"), "not a list of claims: Invalid JSON"),
        (lambda path: path.write_text("[]"), "no claim; write it anew"),
        (
            lambda path: path.write_text('[{"id": "C1"}]'),
            "not a list of claims: 0.ours: Field required; write it anew",
        ),
        (
            lambda path: path.write_text(
                path.read_text().replace('"ours": 5', '"ours": NaN, "x": 5')
            ),
            "not a list of claims: 0.ours: Input should be a finite number",
        ),
        (
            lambda path: path.write_text(json.dumps(2 * json.loads(path.read_text()))),
            "C1 replay hit_rate twice",
        ),
        (
            lambda path: _cells(path.parent, [_row(), _row(machine="two")]),
            "cells of tier gpu are of 2 machines (one / two)",
        ),
        (
            lambda path: _cells(path.parent, [_row(), _row(measured_at="2030-01-02T01:00:01Z")]),
            "cells of tier gpu were measured from 2030-01-01 01:00:00 to 2030-01-02 01:00:01",
        ),
        (lambda path: (path.parent / "cells.csv").write_text("x\n1\n"), "cells.csv: columns"),
    ],
)
def test_a_night_that_cannot_be_judged(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    path = _write(tmp_path, night(0, exact("C1", 5.0).night(made_up.rng(1))), [_row()])
    assert gate.read_night(path)
    change(path)
    with pytest.raises(HarnessError) as refused:
        gate.read_night(path)
    assert message in str(refused.value)


def test_what_is_judged_is_what_the_gate_reads(tmp_path: Path) -> None:
    claim = next(claim for claim in claims.read() if claim.id == "C2")
    effect = Estimate(-9.0, error=0.5, df=4.0)
    found = claims.Measured([claims.Point("50k tokens", effect, -10.0)], effect, -10.0)
    rows = [
        claims._row(claim, "gpu", claim.tiers["gpu"], found),
        claims._row(claim, "cpu", claim.tiers["cpu"], "No valid cell."),
    ]
    claims.write(rows, tmp_path / "claims.json")
    ran, not_run = gate.read_night(tmp_path / "claims.json").claims
    assert (ran.verdict, ran.held) == ("reproduced", True)
    assert (ran.ours, ran.interval) == (-9.0, pytest.approx((-10.39, -7.61), abs=0.01))
    assert (ran.noise, ran.noise_df) == (0.5, 4.0)
    assert ran.allowed == ran.measured["50k tokens"].allowed == pytest.approx((-15.0, -6.7))
    assert not not_run.ran


def test_what_is_allowed_of_a_flat_claim_is_that_of_its_points() -> None:
    flat, none = (
        made.night(made_up.rng(1)) for made in (exact("F", 0.1, 0.2, expect="flat"), ratios("N", 1))
    )
    assert (flat.allowed, none.allowed) == ((-1.0, 1.0), None)


def _history(path: Path, history: Sequence[Night]) -> Path:
    for each in history:
        gate.append(path, each)
    return path


def test_history_is_what_was_appended_in_order_of_date(tmp_path: Path) -> None:
    first, second, third = nights(3, CLAIMS)
    path = _history(tmp_path / "new" / "h.jsonl", [second, first])
    # An editor may have left the last line without its end.
    path.write_text(path.read_text().rstrip("\n"))
    gate.append(path, third)
    assert gate.read_history(path) == [first, second, third]
    assert len(path.read_text().splitlines()) == 3
    assert [each.name for each in path.parent.iterdir()] == ["h.jsonl"]
    assert gate.read_history(tmp_path / "none.jsonl") == []


def test_history_is_whole_if_writing_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nights(2, [C1])
    path = _history(tmp_path / "h.jsonl", [first])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gate.append(path, second)
    assert gate.read_history(path) == [first]
    gate.append(path, second)
    assert gate.read_history(path) == [first, second]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [*lines[:1], lines[1][:100]], "line 2: not a night: Invalid JSON"),
        (lambda lines: ["", *lines], "line 1: not a night: Invalid JSON"),
        (lambda lines: [lines[0].replace("date", "day"), lines[1]], "line 1: not a night: date"),
        (
            lambda lines: [lines[0], lines[1].replace('"version":2,', "")],
            r"line 2: not a night of version 2 of this file: .*; move the file away to begin",
        ),
        (lambda lines: [*lines, lines[0]], "line 3: the night of 2030-01-01 02:30:00 once more"),
    ],
)
def test_a_bad_line_of_the_history_is_named_and_the_file_left_as_it_is(
    tmp_path: Path, damage: Callable[[list[str]], list[str]], message: str
) -> None:
    path = _history(tmp_path / "h.jsonl", nights(2, [C1]))
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    damaged = path.read_bytes()
    with pytest.raises(HarnessError, match=message):
        gate.append(path, night(2, C1.night(made_up.rng(1))))
    assert path.read_bytes() == damaged


# The command.


def _gate(folder: Path, *more: str) -> int:
    arguments = [str(folder / "claims.json"), "--history", str(folder / "h.jsonl"), *more]
    return cli.main(["gate", *arguments])


def test_command_judges_keeps_and_refuses_a_night_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *steady, broken, mended = nights(9, [C1, C2], shifts={"C1": lambda i: -9.0 * (i == 7)})
    for each in steady:
        _write(tmp_path, each)
        assert _gate(tmp_path, "--append") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-3].split()[:3] == ["claim", "tier", "quantity"]
    assert out[-2].split()[:3] == ["C1", "replay", "hit_rate"]
    assert out[-2].split()[-3:] == ["6/6", "reproduced", "ok"]
    assert len(out) == 7 * 4

    _write(tmp_path, broken)
    assert _gate(tmp_path) == 1
    assert len(gate.read_history(tmp_path / "h.jsonl")) == 7
    assert _gate(tmp_path, "--append") == 1
    printed = capsys.readouterr()
    assert "ALARM: direction lost, out of tolerance" in printed.out
    assert "claims.json raises alarms:\n  C1 replay hit_rate: direction lost: -3.83" in printed.err
    assert "C2" not in printed.err
    # A broken night is kept, too.
    kept = (tmp_path / "h.jsonl").read_bytes()
    assert len(kept.splitlines()) == 8

    assert _gate(tmp_path, "--append") == 1
    printed = capsys.readouterr()
    assert "has the night of 2030-01-08 02:30:00 already" in printed.err
    assert printed.out == ""
    assert (tmp_path / "h.jsonl").read_bytes() == kept

    _write(tmp_path, mended)
    assert _gate(tmp_path, "--append") == 0


def test_command_wants_a_history_or_leave_to_begin_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path, night(0, C1.night(made_up.rng(1)), _without(C2.night(made_up.rng(1)))))
    assert _gate(tmp_path) == 1
    assert "h.jsonl: no such history; --append begins one" in capsys.readouterr().err
    assert _gate(tmp_path, "--append") == 0
    out = capsys.readouterr().out
    assert "not yet guarded: 0 of 5 nights" in out
    assert out.endswith("not run, as before: 1 claims\n")
