"""What README says was found is what the shipped run found."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.analysis import claims, noise, results, terminal


@pytest.fixture(scope="module")
def judged(root: Path) -> list[dict[str, Any]]:
    folder = root / "reference" / "cpu"
    found = results.read(folder / "config.yaml", folder)
    return claims.judge(found, noise.read(root / "reference" / "noise.csv"))


def test_readme_has_the_verdicts_of_the_shipped_run(
    root: Path, judged: list[dict[str, Any]]
) -> None:
    assert terminal.markdown(judged) in (root / "README.md").read_text("utf-8")


def test_three_runs_say_the_same_of_the_papers_claims(
    root: Path, judged: list[dict[str, Any]]
) -> None:
    paths = sorted((root / "reference" / "claims").iterdir())
    assert len(paths) == 3
    shipped = _verdicts(judged)
    assert {verdict for (name, *_), verdict in shipped.items() if name in ("C1", "C2", "C5")} == {
        "reproduced"
    }
    for path in paths:
        # Earlier runs also had claims that the default config has no cells for any more.
        found = _verdicts(json.loads(path.read_text("utf-8")))
        assert {key: found[key] for key in shipped} == shipped, path.name


def _verdicts(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], str]:
    return {
        (row["id"], row["tier"], row["quantity"]): row["verdict"]
        for row in rows
        if row["source"] == "paper" and row["verdict"] != "not run"
    }
