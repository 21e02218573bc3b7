from typing import Any

import pytest

from harness.analysis import verdicts


def _row(number: int, tier: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"C{number}",
        "claim": "ARC raises the hit rate over LRU",
        "unit": "points",
        "tier": tier,
        "figure": "fig3",
        "ours": 5.25,
        "ci95": [5.0, 5.4],
        "verdict": "reproduced",
        "reason": f"What is said of C{number}.",
        "points": [{"paper": 10.8, "ours": 10.2}, {"paper": 1.3, "ours": -1.6}],
        **changes,
    }


def test_a_claim_has_its_values_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts.show([_row(1, "replay")])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "+1.3 to +10.8 points mean +5.2 points [+5.0, +5.4]; -1.6 to +10.2 points" in said
    assert "C1 replay: What is said of C1." in said


def test_claims_not_run_for_one_reason_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    nothing: dict[str, Any] = {"ours": None, "ci95": None, "points": [], "verdict": "not run"}
    no_tier = nothing | {"reason": "Config cpu has no tier gpu."}
    no_data = nothing | {"reason": "No data."}
    rows = [_row(number, "gpu", **no_tier) for number in (1, 2, 2)]
    verdicts.show([*rows, _row(4, "replay", **no_data)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "Not run: C1 gpu, C2 gpu. Config cpu has no tier gpu.",
        "Not run: C4 replay. No data.",
    ]
