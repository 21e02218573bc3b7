from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.analysis import policies
from harness.analysis.rivals import KINDS
from harness.errors import HarnessError
from workloads.docqa import DocQA
from workloads.file import BlockRequest, BlockWorkload, Header


def _cells(rows: list[dict[str, Any]]) -> pd.DataFrame:
    always: dict[str, Any] = {"tier": "replay", "engine": "replay", "workload": "w"}
    always |= {"mode": "batch", "batch_size": 1, "cache_tokens": 1600, "unreachable": None}
    return pd.DataFrame(
        [always | {"valid": True, "hit_rate_per_block": row["hit_rate"]} | row for row in rows]
    )


_BOUNDS = pd.DataFrame(
    [
        ("w", seed, 1600, "optimum", "bound", hit_rate, hit_rate)
        for seed, hit_rate in ((1, 0.5), (2, 0.6))
    ],
    columns=policies._BOUND_COLUMNS,
)


def test_gain_is_paired_by_seed_and_measured_against_the_optimum() -> None:
    cells = _cells(
        [
            {"policy": "lru", "seed": 1, "hit_rate": 0.2},
            {"policy": "lru", "seed": 2, "hit_rate": 0.4},
            {"policy": "arc", "seed": 1, "hit_rate": 0.3},
            {"policy": "arc", "seed": 2, "hit_rate": 0.5},
            {"policy": "slru", "seed": 2, "hit_rate": 0.35},
            {"policy": "dbl", "seed": 1, "hit_rate": 0.9, "valid": False},
            {"policy": "arc", "seed": 1, "hit_rate": 0.9, "batch_size": 8},
            {"policy": "arc", "seed": 1, "hit_rate": 0.9, "tier": "cpu"},
        ]
    )
    table = policies.compare(cells, [_BOUNDS]).set_index("policy")
    assert list(table.index) == ["optimum", "arc", "slru", "lru"]
    arc = table.loc["arc"]
    assert arc["seeds"] == 2
    assert arc["hit_rate"] == pytest.approx(0.4)
    assert arc["points_over_lru"] == pytest.approx(10)
    # Both seeds gain the same: paired, there is no spread.
    assert arc["points_ci95"] == pytest.approx(0, abs=1e-9)
    # 10 of (30 + 20) / 2 points.
    assert arc["gap_closed"] == pytest.approx(0.4)
    assert table.loc["slru", "points_over_lru"] == pytest.approx(-5)
    assert table.loc["slru", "gap_closed"] == pytest.approx(-0.25)
    assert table.loc["optimum", "gap_closed"] == pytest.approx(1)
    assert table.loc["lru", "points_over_lru"] == 0


def test_gain_needs_no_bounds() -> None:
    rates = {"lru": 0.2, "arc": 0.3}
    cells = _cells([{"policy": name, "seed": 1, "hit_rate": rate} for name, rate in rates.items()])
    arc = policies.compare(cells, []).set_index("policy").loc["arc"]
    assert arc["points_over_lru"] == pytest.approx(10)
    assert pd.isna(arc["gap_closed"])


def test_workload_without_data_leaves_the_others_numbers(tmp_path: Path) -> None:
    cells = _cells([{"policy": name, "seed": 1, "hit_rate": 0.2} for name in ("lru", "arc")])
    nothing = tmp_path / "bounds.csv"
    header = Header(
        content="blocks", name="v", seed=1, block_size=16, requests=0, params={}, missing="x"
    )
    policies.write_bounds(
        BlockWorkload(header, ()), None, [100], rivals=False, path=nothing, report=print
    )
    table = policies.compare(cells, [policies.read_bounds(nothing), _BOUNDS[:1]])
    assert table.set_index("policy").loc["arc", "lru_tokens"] == 1600


def test_nothing_to_compare_is_an_empty_table(tmp_path: Path) -> None:
    cells = _cells([{"policy": "lru", "seed": 1, "hit_rate": 0.2, "valid": False}])
    table = policies.compare(cells, [])
    assert table.empty
    policies.write(table, tmp_path / "p.csv", tmp_path / "p.md")
    assert (tmp_path / "p.csv").read_text().startswith("workload,cache_tokens,kind,policy,seeds")


def test_tables_are_written_for_people_and_programs(tmp_path: Path) -> None:
    cells = _cells(
        [
            {"policy": policy, "seed": seed, "hit_rate": hit_rate, "unreachable": seed / 10 * lost}
            for policy, hit_rate, lost in (("lru", 0.2, 0), ("arc", 0.3, 1))
            for seed in (1, 2)
        ]
    )
    table = policies.compare(cells, [_BOUNDS])
    policies.write(table, tmp_path / "p.csv", tmp_path / "p.md")
    assert pd.read_csv(tmp_path / "p.csv")["policy"].tolist() == ["optimum", "arc", "lru"]
    text = (tmp_path / "p.md").read_text()
    assert "## w" in text
    assert (
        "| 1,600 | arc | engine | 2 | 0.300 \u00b1 0.000 | 0.300 | 10.0 \u00b1 0.0 | 29% "
        "| beyond 1,600 | 15.0% |" in text
    )
    assert (
        "| lru | engine | 2 | 0.200 \u00b1 0.000 | 0.200 | 0.0 \u00b1 0.0 | 0% |  | 0.0% |" in text
    )


def test_cache_that_lru_would_need_is_of_the_same_seed(tmp_path: Path) -> None:
    sizes = (1600, 6400)
    cells = _cells(
        [
            {"policy": "lru", "seed": seed, "hit_rate": hit_rate, "cache_tokens": size}
            for seed, rates in ((1, (0.2, 0.6)), (2, (0.4, 0.8)))
            for size, hit_rate in zip(sizes, rates, strict=True)
        ]
        + [
            {"policy": "arc", "seed": 1, "hit_rate": 0.4},
            {"policy": "arc", "seed": 2, "hit_rate": 0.6},
            {"policy": "slru", "seed": 2, "hit_rate": 0.3},
        ]
    )
    table = policies.compare(cells, [])
    at = table[table["cache_tokens"] == 1600].set_index("policy")
    # With each seed's own LRU, half of the way to four times the cache.
    assert at.loc["arc", "lru_tokens"] == 3200
    assert at.loc["slru", "lru_tokens"] == 0
    policies.write(table, tmp_path / "p.csv", tmp_path / "p.md")
    assert pd.read_csv(tmp_path / "p.csv")["lru_tokens"].tolist() == table["lru_tokens"].tolist()
    text = (tmp_path / "p.md").read_text()
    # 1,600 tokens of 163,840 bytes.
    assert "| 3,200 (+100%, +0.2 GiB) |" in text
    assert "| below 1,600 |" in text
    assert "Qwen3-14B's KV cache (163,840 bytes a token)" in text


def _workload() -> BlockWorkload:
    # Three documents of 100 blocks, asked for in turn; the first one every other time.
    requests = tuple(
        BlockRequest(
            request=i,
            window=0,
            prompt_tokens=1610,
            output_tokens=1,
            runs=((100 * (0 if i % 2 else i // 2 % 3), 100),),
        )
        for i in range(60)
    )
    header = Header(
        content="blocks",
        name="w",
        seed=1,
        block_size=16,
        requests=60,
        params={},
        document_tokens=(1600, 1600, 1600),
    )
    return BlockWorkload(header, requests)


def test_bounds_are_a_row_each_and_in_order(tmp_path: Path) -> None:
    params = DocQA(documents=3, requests=60, window=60)
    path = tmp_path / "b" / "w.csv"
    lines: list[str] = []
    policies.write_bounds(
        _workload(), params, [150, 250], rivals=True, path=path, report=lines.append
    )
    table = policies.read_bounds(path)
    assert len(table) == len(lines) == 2 * (3 + len(KINDS))
    of_blocks = table["kind"].isin(("bound", "blocks"))
    by_policy = table[of_blocks & (table["cache_tokens"] == 2400)].set_index("policy")["hit_rate"]
    assert by_policy["infinite"] > by_policy["optimum"]
    # Not the optimum: a rival holds nothing for the running request.
    assert by_policy["infinite"] > by_policy["lru"]
    assert by_policy["known-popularity"] < by_policy["infinite"]
    assert set(table["kind"]) == {"bound", *KINDS.values()}
    policies.write_bounds(_workload(), None, [150], rivals=False, path=path, report=lines.append)
    assert list(policies.read_bounds(path)["policy"]) == ["infinite", "optimum"]


def test_workload_without_data_has_no_bounds(tmp_path: Path) -> None:
    header = _workload().header.model_copy(update={"requests": 0, "missing": "no network"})
    path = tmp_path / "w.csv"
    policies.write_bounds(
        BlockWorkload(header, ()), None, [150], rivals=True, path=path, report=print
    )
    assert policies.read_bounds(path).empty


def test_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no table of bounds"):
        policies.read_bounds(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(HarnessError, match="columns"):
        policies.read_bounds(tmp_path / "a.csv")
