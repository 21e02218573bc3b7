from typing import Any

import pytest

from harness.analysis import terminal


def _row(number: int, tier: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"C{number}",
        "claim": "ARC raises the hit rate over LRU",
        "unit": "points",
        "tier": tier,
        "figure": "fig3",
        "paper": 5.5,
        "ours": 5.25,
        "ci95": [5.0, 5.4],
        "share": 0.95,
        "share_ci95": [0.91, 0.98],
        "power": 0.987,
        "wrong_half": 0.012,
        "wrong_none": 0.0,
        "verdict": "reproduced",
        "reason": f"What is said of C{number}.",
        "points": [{"paper": 10.8, "ours": 10.2}, {"paper": 1.3, "ours": -1.6}],
        **changes,
    }


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("paper", "ours", "ci95", "share", "share_ci95", "power")),
    "points": [],
    "verdict": "not run",
}


def _said(capsys: pytest.CaptureFixture[str], *rows: dict[str, Any]) -> str:
    terminal.show(rows)
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_claim_has_its_values_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    said = _said(capsys, _row(1, "replay"))
    assert "+5.5 points +5.2 points [+5.0, +5.4]; -1.6 to +10.2" in said
    assert "0.95 [0.91, 0.98] 99 / 1 / 0 reproduced replay fig3" in said
    assert "C1 replay: What is said of C1." in said


def test_what_is_exact_has_no_interval_and_what_is_not_there_is_empty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = _said(capsys, _row(1, "replay", ci95=None, share_ci95=None, points=[{"ours": 5.25}]))
    assert "+5.5 points +5.2 points 0.95 99 / 1 / 0 reproduced" in said
    sizeless = {"paper": None, "share": None, "share_ci95": None, "power": None}
    said = _said(capsys, _row(1, "cpu", **sizeless, verdict="undecided"))
    assert "-1.6 to +10.2 undecided cpu" in said.replace(" points undecided", " undecided")


def test_claims_not_run_for_one_reason_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    no_tier = _NOTHING | {"reason": "Config cpu has no tier gpu."}
    no_data = _NOTHING | {"reason": "No data."}
    rows = [_row(number, "gpu", **no_tier) for number in (1, 2, 2)]
    terminal.show([*rows, _row(4, "replay", **no_data)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "Not run: C1 gpu, C2 gpu. Config cpu has no tier gpu.",
        "Not run: C4 replay. No data.",
    ]


def test_markdown_has_what_was_judged() -> None:
    not_run = _row(4, "gpu", **_NOTHING, reason="Config cpu has no tier gpu.")
    exact = _row(2, "replay", share_ci95=None)
    assert terminal.markdown([_row(1, "cpu"), exact, not_run]).splitlines()[2:] == [
        "| C1: ARC raises the hit rate over LRU | `cpu` | +5.5 points | +5.2 points | "
        "0.95 [0.91, 0.98] | **reproduced** |",
        "| C2: ARC raises the hit rate over LRU | `replay` | +5.5 points | +5.2 points | "
        "0.95 | **reproduced** |",
    ]
