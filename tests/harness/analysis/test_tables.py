import json
from pathlib import Path

import pytest

from harness import cli
from harness.analysis import tables
from harness.cell import Batch, CellSpec
from harness.errors import HarnessError
from harness.measure import supervisor

# What other programs rely on.
_COLUMNS = (
    "tier,engine,policy,workload,mode,batch_size,request_rate,cache_tokens,seed,requests,hit_rate,"
    "hit_rate_per_block,ttft_mean_ms,ttft_p50_ms,ttft_p90_ms,ttft_p99_ms,ttft_kind,valid,"
    "invalid_reason,cell,repeat,engine_version,patches_sha256,model_sha256,machine,measured_at,"
    "git,folder,disturbed,unreachable"
)


def _cell(folder: Path, **changes: object) -> Path:
    summary = {
        "cell": folder.name,
        "tier": "cpu",
        "scale": 0.1,
        "engine": "vllm",
        "policy": "arc",
        "workload": "w",
        "mode": "batch",
        "batch_size": 1,
        "cache_tokens": 320,
        "seed": 1,
        "repeat": 0,
        "requests": 4,
        "hit_rate": 0.25,
        "hit_rate_per_block": 0.5,
        "mean_ttft_ms": 12.5,
        "median_ttft_ms": 12.0,
        "p90_ttft_ms": 13.0,
        "p99_ttft_ms": 14.0,
        "ttft_kind": "measured",
        "valid": True,
        "invalid_reason": "",
    }
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    # Only looked for.
    (folder / "requests.parquet").touch()
    return folder


def test_one_row_a_cell(tmp_path: Path) -> None:
    cells = [
        _cell(tmp_path / "b", policy="lru", valid=False, invalid_reason="too late"),
        _cell(tmp_path / "a"),
    ]
    tables.write_cells(cells, tmp_path / "cells.csv")
    assert (tmp_path / "cells.csv").read_text().splitlines()[0] == _COLUMNS
    table = tables.read_cells(tmp_path / "cells.csv")
    assert list(table["policy"]) == ["arc", "lru"]
    assert list(table["valid"]) == [True, False]
    assert table["ttft_mean_ms"][0] == 12.5
    assert table["request_rate"].isna().all()


def test_what_does_not_apply_is_empty_and_the_rest_stays_whole(tmp_path: Path) -> None:
    cells = [
        _cell(tmp_path / "batch"),
        _cell(tmp_path / "open", mode="open-loop", batch_size=None, request_rate=8.5),
        _cell(tmp_path / "closed", mode="closed-loop", batch_size=None, users=8),
    ]
    tables.write_cells(cells, tmp_path / "cells.csv")
    lines = (tmp_path / "cells.csv").read_text().splitlines()[1:]
    # From the batch size to the number of requests.
    assert [line.split(",")[5:10] for line in lines] == [
        ["1", "", "320", "1", "4"],
        ["", "", "320", "1", "4"],
        ["", "8.5", "320", "1", "4"],
    ]
    table = tables.read_cells(tmp_path / "cells.csv")
    assert list(table["cell"]) == ["batch", "closed", "open"]
    assert list(table["batch_size"] == 1) == [True, False, False]


def test_ttft_is_from_when_a_request_was_due_in_an_open_loop_only(tmp_path: Path) -> None:
    due = {
        "mean_ttft_scheduled_ms": 112.5,
        "median_ttft_scheduled_ms": 112.0,
        "p90_ttft_scheduled_ms": 113.0,
        "p99_ttft_scheduled_ms": 114.0,
    }
    cells = [
        _cell(tmp_path / "open", mode="open-loop", batch_size=None, **due),
        _cell(tmp_path / "closed", mode="closed-loop", batch_size=None, **dict.fromkeys(due)),
        _cell(tmp_path / "http", mode="batch-http", **due),
    ]
    tables.write_cells(cells, tmp_path / "cells.csv")
    table = tables.read_cells(tmp_path / "cells.csv").set_index("cell")
    columns = ["ttft_mean_ms", "ttft_p50_ms", "ttft_p90_ms", "ttft_p99_ms"]
    assert list(table.loc["open", columns]) == [112.5, 112.0, 113.0, 114.0]
    assert list(table.loc["closed", columns]) == [12.5, 12.0, 13.0, 14.0]
    assert list(table.loc["http", columns]) == [12.5, 12.0, 13.0, 14.0]


def test_disturbed_cell_stays_valid_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = "waiting for a core took 18 % of its time, steal 3 %"
    given = [_cell(tmp_path / "a", disturbed=lost), _cell(tmp_path / "b", disturbed="")]
    output = tmp_path / "cells.csv"
    assert cli.main(["table", *map(str, given), "--output", str(output)]) == 0
    assert capsys.readouterr().err == f"warning: cell a was disturbed: {lost}\n"
    table = tables.read_cells(output).set_index("cell")
    assert table["valid"].all()
    assert table["disturbed"]["a"] == lost
    assert table["disturbed"].isna()["b"]


def test_table_from_before_the_last_columns_is_read(tmp_path: Path) -> None:
    tables.write_cells([_cell(tmp_path / "a", unreachable=0.25)], tmp_path / "cells.csv")
    now = tables.read_cells(tmp_path / "cells.csv")
    assert list(now["unreachable"]) == [0.25]
    now.drop(columns=["unreachable"]).to_csv(tmp_path / "before.csv", index=False)
    before = tables.read_cells(tmp_path / "before.csv")
    assert list(before) == list(now)
    assert before["unreachable"].isna().all()
    now.drop(columns=["folder"]).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(HarnessError, match="columns"):
        tables.read_cells(tmp_path / "other.csv")


def test_missing_cell_and_other_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="not a measured cell"):
        tables.write_cells([tmp_path], tmp_path / "cells.csv")
    with pytest.raises(HarnessError, match="no table of cells"):
        tables.read_cells(tmp_path / "cells.csv")
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    with pytest.raises(HarnessError, match="columns"):
        tables.read_cells(tmp_path / "cells.csv")


def test_replayed_cells_get_a_prediction_where_the_paper_has_points(tmp_path: Path) -> None:
    timeless = {"tier": "replay", "scale": 1, "ttft_kind": None, "mean_ttft_ms": None}
    (tmp_path / "group").mkdir()
    _cell(tmp_path / "group" / "a", workload="docqa-quality", policy="a", **timeless)
    _cell(tmp_path / "group" / "b", workload="docqa-quality", policy="b", batch_size=8, **timeless)
    _cell(tmp_path / "group" / "c", workload="other", policy="c", **timeless)
    tables.write_cells([tmp_path / "group"], tmp_path / "cells.csv")
    table = tables.read_cells(tmp_path / "cells.csv").set_index("policy")
    assert table["ttft_kind"]["a"] == "predicted"
    # The line through the paper's LRU points: .227 has 447 ms and .343 has 384 ms.
    assert 384 < table["ttft_mean_ms"]["a"] < 447
    assert table["ttft_mean_ms"][["b", "c"]].isna().all()
    assert table["ttft_p50_ms"]["a"] == 12.0


def test_cell_that_was_not_run_is_a_row_that_says_so(tmp_path: Path) -> None:
    spec = CellSpec(
        tier="replay",
        engine="replay",
        policy="arc",
        workload="w",
        load=Batch(batch_size=1),
        cache_blocks=10,
        block_size=16,
        seed=1,
        model="m",
        dtype="float32",
    )
    supervisor.write_not_run({spec.id: spec}, "no network", tmp_path / "group")
    tables.write_cells([tmp_path / "group"], tmp_path / "cells.csv")
    (row,) = tables.read_cells(tmp_path / "cells.csv").to_dict("records")
    assert row["invalid_reason"] == "not run: no network"
    assert not row["valid"]
    assert (row["policy"], row["cache_tokens"], row["requests"]) == ("arc", 160, 0)


def test_cell_of_another_version_is_refused(tmp_path: Path) -> None:
    cell = _cell(tmp_path / "old")
    (cell / "provenance.json").write_text(json.dumps({"engine": {}, "hardware": {"cpu": "x"}}))
    with pytest.raises(HarnessError, match=r"old: its provenance has no 'cores': .*Remove"):
        tables.write_cells([cell], tmp_path / "cells.csv")
    assert not (tmp_path / "cells.csv").exists()


def test_compiled_files_of_another_version_are_said_with_the_version(tmp_path: Path) -> None:
    for name, binaries in (("a", None), ("b", "1.0")):
        provenance = {
            "engine": {"version": "2.0.0", "binaries": binaries, "patches_sha256": "x"},
            "hardware": {"cpu": "x", "cores": 2, "gpus": []},
            "clock": {"wall_ns": 0},
            "model": {"sha256": "x"},
            "git": None,
        }
        (_cell(tmp_path / name) / "provenance.json").write_text(json.dumps(provenance))
    tables.write_cells([tmp_path / "a", tmp_path / "b"], tmp_path / "cells.csv")
    table = tables.read_cells(tmp_path / "cells.csv")
    assert list(table["engine_version"]) == ["2.0.0", "2.0.0 with 1.0's binaries"]


def _of(cell: Path, sha256: str) -> Path:
    provenance = {
        "engine": {"version": "2.0.0", "patches_sha256": "x"},
        "hardware": {"cpu": "x", "cores": 2, "gpus": []},
        "clock": {"wall_ns": 0},
        "model": {"sha256": "x"},
        "workload": {"sha256": sha256},
        "git": None,
    }
    (cell / "provenance.json").write_text(json.dumps(provenance))
    return cell


def test_cells_that_got_other_requests_are_refused(tmp_path: Path) -> None:
    cells = [
        _of(_cell(tmp_path / "a"), "1"),
        _of(_cell(tmp_path / "b", seed=2), "2"),
        _of(_cell(tmp_path / "c", tier="replay"), "3"),
    ]
    tables.write_cells(cells, tmp_path / "cells.csv")
    with pytest.raises(HarnessError, match=r"d and .*a got different requests: .* w, seed 1"):
        tables.write_cells([*cells, _of(_cell(tmp_path / "d"), "4")], tmp_path / "cells.csv")


def test_damaged_cell_is_named_with_what_to_do(tmp_path: Path) -> None:
    cell = _cell(tmp_path / "a")
    (cell / "requests.parquet").unlink()
    with pytest.raises(HarnessError, match=r"a: not a whole cell: it has no requests.*Remove"):
        tables.write_cells([cell], tmp_path / "cells.csv")
    for content in ("{}", "[]", '{"tier": "cpu"}'):
        (cell / "summary.json").write_text(content)
        with pytest.raises(HarnessError, match=r"a: not a whole cell: its summary.json has no "):
            tables.write_cells([cell], tmp_path / "cells.csv")


def test_empty_table_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").touch()
    with pytest.raises(HarnessError, match=r"cells\.csv: no table of cells: .*Remove it and run"):
        tables.read_cells(tmp_path / "cells.csv")
