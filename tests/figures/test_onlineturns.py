from pathlib import Path

import pandas as pd
import pytest
from support.drawn import caption, lines, text, title, whiskered, y_of
from support.results import CHAT, CLOSED_LOOP, experiment, measured, record

from figures import onlineturns, style
from figures.catalogue import FIGURES
from figures.onlineturns import groups
from harness.cell import CellSpec
from harness.errors import HarnessError
from harness.measure.records import RequestRecord

_ENTRY = FIGURES["online-turns"]


def _made(spec: CellSpec) -> list[RequestRecord]:
    """Make 10 conversations of 3 turns and 4 of 5; turns after the first hit, ARC's less."""
    cached = 30 if spec.policy == "arc" else 60
    rows: list[RequestRecord] = []
    for session in range(14):
        for turn in range(5 if session < 4 else 3):
            hit = cached if turn else 0
            changes = {"session": session, "turn": turn, "window": None, "cached_tokens": hit}
            ttft_ms = 200 + 10 * turn + session**2 - hit
            rows.append(record(len(rows), 100 * len(rows), ttft_ms, **changes))
    return rows


@pytest.mark.parametrize(
    ("counts", "firsts"),
    [
        # Turns 3 and 4 together are too few, so turn 2 takes them in.
        ([14, 14, 14, 4, 4], [0, 1, 2]),
        ([14, 14, 14, 5, 5], [0, 1, 2, 3]),
        ([14, 14, 14], [0, 1, 2]),
        # Turn 1 has too few of its own.
        ([14, 4, 14], [0, 1]),
        # Too few in all.
        ([3, 2], [0]),
        ([10], [0]),
        ([20] * 12, list(range(9))),
    ],
)
def test_late_turns_are_together_so_that_none_is_small(
    counts: list[int], firsts: list[int]
) -> None:
    turns = [turn for turn, count in enumerate(counts) for _ in range(count)]
    assert groups(pd.Series(turns)) == firsts


def test_median_ttft_and_hit_rate_by_turn(root: Path, tmp_path: Path) -> None:
    figure = onlineturns.draw(measured(root, tmp_path, _made, experiment(**CHAT)), _ENTRY)
    ttft, hit_rate = figure.axes
    # The last group: 14 of turn 2, 4 of turn 3, 4 of turn 4.
    assert [label.get_text() for label in ttft.get_xticklabels()] == [
        "0\nn=14",
        "1\nn=14",
        "2+\nn=22",
    ]
    lru, arc = (points.y for points in whiskered(ttft))
    # Between the squares of 6 and 7; their mean would be 58.5.
    assert lru[:2] == [242.5, 192.5]
    # A policy that loses is seen to.
    assert [slow - fast for slow, fast in zip(arc, lru, strict=True)] == [0, 30, 30]
    for policy, rate in (("lru", 0.6), ("arc", 0.3)):
        (line,) = lines(hit_rate, style.COLORS[policy])
        assert y_of(line) == [0, rate, rate]
    said = caption(figure)
    assert "Conversation: closed loop, 4 users who think for 0.5 s on average." in said
    assert "TTFT is from sending. 95 % intervals by the bootstrap over conversations" in said


def test_a_row_for_each_load(root: Path, tmp_path: Path) -> None:
    loads = [CLOSED_LOOP, CLOSED_LOOP | {"users": 8}]
    drawn_from = measured(root, tmp_path, _made, experiment(**CHAT | {"loads": loads}))
    figure = onlineturns.draw(drawn_from, _ENTRY)
    titles = [title(axes) for axes in figure.axes]
    assert [said.startswith("Conversation") for said in titles] == [True, False] * 2
    assert "4 users" in titles[0]
    assert "8 users" in titles[2]


def test_few_requests_are_drawn_as_one_group(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(
        root,
        tmp_path,
        lambda spec: _made(spec)[:6],
        experiment(**CHAT | {"cache_tokens": [4000]}),
        base="smoke",
    )
    figure = onlineturns.draw(drawn_from, _ENTRY)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0+\nn=6"]


def test_not_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, lambda _: "no network", experiment(**CHAT))
    figure = onlineturns.draw(drawn_from, _ENTRY)
    assert "not run: no network" in text(figure)


def test_repeats_may_have_fewer_turns(root: Path, tmp_path: Path) -> None:
    def made(spec: CellSpec) -> list[RequestRecord]:
        # Of the seed that is measured again.
        return [each for each in _made(spec) if spec.seed == 42 or each.turn == 0]

    chat = experiment(**CHAT)
    drawn_from = measured(
        root, tmp_path, made, chat | {"seeds": [41, 42]}, chat | {"seeds": [41], "repeats": 2}
    )
    _, hit_rate = onlineturns.draw(drawn_from, _ENTRY).axes
    assert [len(y_of(line)) for line in lines(hit_rate, style.COLORS["lru"])] == [1, 3]


def test_requests_that_are_no_turns_are_refused(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, lambda _: [record(0, 0, 20)], experiment(**CHAT))
    with pytest.raises(HarnessError, match="conversation-chat are not turns of conversations"):
        onlineturns.draw(drawn_from, _ENTRY)
