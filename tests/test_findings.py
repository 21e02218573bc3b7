"""What README says was found is what the shipped run found."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from figures import catalogue, saved, style
from figures import map as figure_map
from harness import config
from harness.analysis import claims, maps, noise, results, terminal


@pytest.fixture(scope="module")
def judged(root: Path) -> list[dict[str, Any]]:
    folder = root / "reference" / "cpu"
    found = results.read(folder / "config.yaml", folder)
    return claims.judge(found, noise.read(root / "reference" / "noise.csv"))


def test_readme_has_the_verdicts_of_the_shipped_run(
    root: Path, judged: list[dict[str, Any]]
) -> None:
    assert terminal.markdown(judged) in (root / "README.md").read_text("utf-8")


def test_artifact_has_the_shipped_verdicts_on_alrfu(root: Path) -> None:
    folder = root / "reference" / "policies"
    found = results.read(folder / "config.yaml", folder)
    assert found.config == config.load(root / "config" / "policies.yaml")
    text = (root / "ARTIFACT.md").read_text("utf-8")
    told = dict(re.findall(r"^\| (P\w+(?: to P4c)?) \|.*\| (.*) \|$", text, re.MULTILINE))
    told |= dict.fromkeys(("P4a", "P4b", "P4c"), told.pop("P4a to P4c"))
    judged = {
        claim["id"]: claim
        for claim in claims.judge(found, noise.read(root / "reference" / "noise.csv"))
        if claim["id"].startswith("P")
    }
    assert set(told) == set(judged)
    for name, claim in judged.items():
        assert told[name].endswith(claim["verdict"])
        if "points" in told[name] or "%" in told[name]:
            assert told[name].startswith(f"{claim['ours']:+.1f} ")


def test_readmes_map_is_of_the_shipped_run(root: Path) -> None:
    folder = root / "reference" / "map"
    found = results.read(folder / "config.yaml", folder)
    assert found.config == config.load(root / "config" / "map.yaml")
    figure = figure_map.draw(found, catalogue.entries(found.config)["map"])
    assert saved.read(root / "reference" / "map.png").caption == style.caption(figure)


def test_readme_says_where_arc_gains_on_the_shipped_map() -> None:
    made = maps.read(maps.SHIPPED)
    documents = maps.of(made, "documents", "reduced")
    small, large = documents["share"] < 0.1, documents["share"] > 0.2
    assert documents[small & (documents["given"] > 0.5)]["arc"].between(2, 11).all()
    assert documents[large]["arc"].between(-1, 1).all()
    chats = made[made["kind"] == "conversations"]
    assert chats["arc"].max() < 0.5
    assert -6 < chats["arc"].min() < -4.5
    assert chats["best"].max() < 0.5


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
