"""What the runner makes of the outcomes of its three runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def compare(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.syspath_prepend(root / "tests" / "upstream")
    import run

    return run.compare


def test_what_all_runs_agree_on_is_no_difference(compare: Callable[..., Any]) -> None:
    same = {"a": "passed", "b": "failed", "c": "skipped"}
    assert compare(same, same, same, {}) == ([], [])


@pytest.mark.parametrize("outcome", ["failed", "error", "skipped", None])
def test_the_patched_engine_must_pass_what_the_stock_one_does(
    compare: Callable[..., Any], outcome: str | None
) -> None:
    lru = {"a": outcome} if outcome else {}
    differences, problems = compare({"a": "passed"}, lru, {"a": "passed"}, {})
    assert [difference.test for difference in differences] == ["a"]
    assert len(problems) == 1
    assert "on the patched one" in problems[0]


def test_a_reason_excuses_arc_but_not_the_patched_engine(compare: Callable[..., Any]) -> None:
    stock = {"a": "passed", "b": "passed"}
    lru, arc = {"a": "passed", "b": "failed"}, {"a": "failed", "b": "failed"}
    differences, problems = compare(stock, lru, arc, {"a": "LRU's order", "b": "LRU's order"})
    assert [(d.test, d.outcomes, d.reason) for d in differences] == [
        ("a", ("passed", "passed", "failed"), "LRU's order"),
        ("b", ("passed", "failed", "failed"), "LRU's order"),
    ]
    assert len(problems) == 1
    assert problems[0].startswith("b ")


def test_a_difference_with_arc_needs_a_reason(compare: Callable[..., Any]) -> None:
    passed = {"a": "passed"}
    _, problems = compare(passed, passed, {"a": "failed"}, {})
    assert len(problems) == 1
    assert "with arc" in problems[0]


def test_a_reason_may_be_of_another_version(compare: Callable[..., Any]) -> None:
    assert compare({}, {}, {}, {"a": "LRU's order"})[1] == []


@pytest.mark.parametrize("outcome", ["passed", "failed"])
def test_a_reason_for_no_difference_is_a_problem(compare: Callable[..., Any], outcome: str) -> None:
    same = {"a": outcome}
    _, problems = compare(same, same, same, {"a": "LRU's order"})
    assert len(problems) == 1
    assert "take it out" in problems[0]
