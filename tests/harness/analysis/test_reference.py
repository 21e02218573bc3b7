from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.results import due, experiment, measured, open_loop, record

from harness.analysis import claims, noise, reference, results
from harness.analysis.results import Results
from harness.cell import CellSpec
from harness.errors import HarnessError
from harness.measure.records import RequestRecord


def _made(spec: CellSpec) -> list[RequestRecord]:
    cached = 40 if spec.policy == "arc" else 30
    return [due(i, 100 * i, 60 + i % 7, cached_tokens=cached + i % 3) for i in range(100)]


@pytest.fixture
def ran(root: Path, tmp_path: Path) -> Results:
    loads = [open_loop(8), open_loop(9)]
    grid = experiment(policies=["lru", "dbl", "arc"], loads=loads)
    found = measured(
        root, tmp_path / "ran", _made, grid, grid | {"policies": ["lru"], "repeats": 2}
    )
    found.policies.to_csv(found.folder / "policies.csv", index=False)
    (found.folder / "policies.md").write_text("# Policies\n")
    (tmp_path / "ran.yaml").write_text(yaml.safe_dump(found.config.model_dump(mode="json")))
    return found


def test_claims_of_what_is_kept_are_those_of_the_run(ran: Results, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "old").touch()
    reference.write(tmp_path / "ran.yaml", ran.folder, kept)
    found = results.read(kept / "config.yaml", kept)
    judged = claims.judge(found, noise.read(None))
    assert judged == claims.judge(ran, noise.read(None))
    assert any(row["verdict"] != "not run" for row in judged)
    pd.testing.assert_frame_equal(found.cells, ran.cells)
    # Nothing that was there, none of policies that nothing compares, no engine's logs.
    files = {path.name for path in kept.rglob("*") if path.is_file()}
    assert files == {
        *("config.yaml", "cells.csv", "policies.csv", "policies.md"),
        *("requests.parquet", "telemetry.parquet"),
    }
    assert not list(kept.glob("cells/**/*dbl"))


def test_cell_without_the_policys_state_is_named(ran: Results, tmp_path: Path) -> None:
    path = next(ran.folder.glob("cells/**/*arc/telemetry.parquet"))
    pd.read_parquet(path).drop(columns="p").to_parquet(path)
    with pytest.raises(HarnessError, match=r"telemetry\.parquet: has no p"):
        reference.write(tmp_path / "ran.yaml", ran.folder, tmp_path / "kept")


def test_what_is_missing_is_named_and_nothing_is_replaced(ran: Results, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    next(ran.folder.glob("cells/**/*arc/requests.parquet")).unlink()
    with pytest.raises(HarnessError, match=r"requests\.parquet: not readable"):
        reference.write(tmp_path / "ran.yaml", ran.folder, kept)
    assert not list(kept.iterdir())


def test_of_a_map_its_tables_are_kept(ran: Results, tmp_path: Path) -> None:
    content = yaml.safe_load((tmp_path / "ran.yaml").read_text()) | {"map": {}}
    (tmp_path / "ran.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(HarnessError, match=r"map\.csv: not readable"):
        reference.write(tmp_path / "ran.yaml", ran.folder, tmp_path / "kept")
    (ran.folder / "map.csv").write_text("kind\n")
    reference.write(tmp_path / "ran.yaml", ran.folder, tmp_path / "kept")
    files = {path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert files == {"config.yaml", "cells.csv", "policies.csv", "policies.md", "map.csv"}


def test_of_replays_only_what_is_read_is_kept(root: Path, tmp_path: Path) -> None:
    policies = ["lru", "arc", "alrfu", "slru"]
    names = ("docqa-quality", "conversation-sharegpt", "docqa-sharegpt-docqa")
    grids = [
        experiment(tier="replay", workload=name, policies=policies, cache_tokens=[100_000])
        for name in names
    ]

    def made(spec: CellSpec) -> list[RequestRecord]:
        is_chat = spec.workload != "docqa-quality"
        return [record(i, i, 1, session=i % 3 if is_chat and i > 5 else None) for i in range(9)]

    ran = measured(root, tmp_path / "ran", made, *grids, base="policies")
    ran.policies.to_csv(ran.folder / "policies.csv", index=False)
    (ran.folder / "policies.md").write_text("# Policies\n")
    (tmp_path / "ran.yaml").write_text(yaml.safe_dump(ran.config.model_dump(mode="json")))
    for path in ran.folder.glob("cells/*/*/telemetry.parquet"):
        state = {"request": [0], "t1": [1.0], "p": [1.0], "half_life": [4.0], "unreachable": [0.0]}
        pd.DataFrame(state).to_parquet(path)
    reference.write(tmp_path / "ran.yaml", ran.folder, tmp_path / "kept")
    kept = {
        (path.parent.name.partition("-batch1")[0], path.parent.name.rpartition("-")[2], path.stem)
        for path in (tmp_path / "kept" / "cells").rglob("*.parquet")
    }
    assert kept == {
        # Whose requests are of conversations, at least some.
        *((name, policy, "requests") for name in names[1:] for policy in policies[:3]),
        *((name, "arc", "telemetry") for name in names),
        ("docqa-sharegpt-docqa", "alrfu", "telemetry"),
    }
    found = results.read(tmp_path / "ran.yaml", ran.folder)
    of_kept = results.read(tmp_path / "kept" / "config.yaml", tmp_path / "kept")
    judged = claims.judge(of_kept, noise.read(None))
    assert judged == claims.judge(found, noise.read(None))
    assert any(row["verdict"] != "not run" for row in judged)
    half_life = next((tmp_path / "kept").glob("cells/*/*alrfu/telemetry.parquet"))
    assert list(pd.read_parquet(half_life)) == ["request", "half_life"]
