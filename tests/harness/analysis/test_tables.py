import json
from pathlib import Path

import pytest

from harness.analysis import tables
from harness.errors import HarnessError

# What other programs rely on.
_COLUMNS = (
    "tier,engine,policy,workload,mode,batch_size,request_rate,cache_tokens,seed,requests,hit_rate,"
    "hit_rate_per_block,ttft_mean_ms,ttft_p50_ms,ttft_p90_ms,ttft_p99_ms,ttft_kind,valid,"
    "invalid_reason"
)


def _cell(folder: Path, **changes: object) -> Path:
    summary = {
        "tier": "cpu",
        "engine": "vllm",
        "policy": "arc",
        "workload": "w",
        "mode": "batch",
        "batch_size": 1,
        "cache_tokens": 320,
        "seed": 1,
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


def test_missing_cell_and_other_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="not a measured cell"):
        tables.write_cells([tmp_path], tmp_path / "cells.csv")
    with pytest.raises(HarnessError, match="no table of cells"):
        tables.read_cells(tmp_path / "cells.csv")
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    with pytest.raises(HarnessError, match="columns"):
        tables.read_cells(tmp_path / "cells.csv")
