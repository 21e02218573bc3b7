"""Cells on the real CPU engine, through the command that the DAG runs."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.bench import Bench

from workloads import file
from workloads.file import TextWorkload

pytestmark = pytest.mark.engine


def _cached(folder: Path) -> list[int]:
    return list(pd.read_parquet(folder / "requests.parquet")["cached_tokens"])


def _summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_patched_lru_is_naive_vllm_hit_for_hit(bench: Bench) -> None:
    stock, patched = bench.measure("vllm-stock", "lru"), bench.measure("vllm", "lru")
    assert _cached(stock) == _cached(patched)
    assert sum(_cached(stock)) > 0
    for folder, is_patched in ((stock, False), (patched, True)):
        provenance = json.loads((folder / "provenance.json").read_text())
        assert (provenance["engine"]["patches_sha256"] is not None) == is_patched
        assert (str(bench.tree) in provenance["engine"]["imported_from"]) == is_patched


def test_same_cell_twice_hits_the_same(bench: Bench) -> None:
    assert _cached(bench.measure("vllm", "arc")) == _cached(bench.measure("vllm", "arc", repeat=1))


@pytest.mark.parametrize("policy", ["lru", "arc"])
def test_cell_is_whole_and_valid(bench: Bench, policy: str) -> None:
    folder = bench.measure("vllm", policy)
    assert {path.name for path in folder.iterdir()} == {
        "requests.parquet",
        "telemetry.parquet",
        "turns.parquet",
        "summary.json",
        "provenance.json",
        "engine.log",
        "metrics.prom",
    }
    summary, requests = _summary(folder), pd.read_parquet(folder / "requests.parquet")
    assert summary["valid"], summary["invalid_reason"]
    assert len(requests) == summary["requests"] == 80
    assert requests["cached_tokens"].sum() == summary["hit_tokens"]
    assert summary["hit_rate"] == summary["hit_tokens"] / requests["prompt_tokens"].sum()
    assert (requests["cached_tokens"] % 32 == 0).all()
    assert (requests["cached_tokens"] <= 32 * requests["cached_blocks"]).all()
    assert (requests["cached_blocks"] <= requests["queried_blocks"]).all()
    assert (requests["sent_ns"] < requests["first_token_ns"]).all()
    turns = pd.read_parquet(folder / "turns.parquet")
    assert list(turns["first_request"]) == list(requests["request"][::1])
    assert (turns["run_delay_ns"] >= 0).all()
    assert 0 <= summary["run_delay_share"] < 1
    # The engine stamps arrivals with the wall clock, so a little slack where the two meet.
    assert (requests["first_token_ns"] < requests["end_ns"] + 1_000_000).all()
    assert f"Prefix cache eviction policy: {policy}" in (folder / "engine.log").read_text()


def test_cells_take_turns(bench: Bench) -> None:
    cells = (("lru", 0), ("arc", 0), ("arc", 1))
    folders = [bench.measure("vllm", policy, repeat=repeat) for policy, repeat in cells]
    spans = [
        (row.sent_ns, row.end_ns, folder.name)
        for folder in folders
        for row in pd.read_parquet(folder / "requests.parquet").itertuples()
    ]
    ordered = sorted(spans)
    # None while another's is under way, each of the three in each round.
    assert all(end < sent for (_, end, _), (sent, _, _) in pairwise(ordered))
    for start in range(0, len(ordered), 3):
        assert len({name for _, _, name in ordered[start : start + 3]}) == 3
    provenance = json.loads((folders[0] / "provenance.json").read_text())
    assert {folder.name for folder in folders[1:]} < set(provenance["beside"])
    assert folders[0].name not in provenance["beside"]


def test_arc_telemetry_keeps_the_bounds(bench: Bench) -> None:
    folder = bench.measure("vllm", "arc")
    state = pd.read_parquet(folder / "telemetry.parquet")
    blocks = _summary(folder)["cache_blocks"]
    assert len(state) == 80
    assert ((state["t1"] + state["t2"]) <= blocks).all()
    assert ((state["t1"] + state["b1"]) <= blocks).all()
    assert (state[["t1", "t2", "b1", "b2"]].sum(axis=1) <= 2 * blocks).all()
    assert state["p"].between(0, blocks).all()
    assert state["p"].max() > 0
    assert state["evictions"].is_monotonic_increasing
    # Once the cache is full, only the partial last block of a prompt is without a hash.
    assert (state["t1"] + state["t2"]).iloc[-1] >= blocks - 1
    lru = pd.read_parquet(bench.measure("vllm", "lru") / "telemetry.parquet")
    assert list(lru.columns) == ["request"]


def test_cache_smaller_than_a_request_is_refused(bench: Bench) -> None:
    given = file.read(bench.workload_of_alone)
    assert isinstance(given, TextWorkload)
    longer = tuple(replace(r, prompt_tokens=9999) for r in given.requests)
    file.write(bench.folder / "long.jsonl", replace(given, requests=longer))
    run = bench.run(bench.alone, bench.folder / "refused", bench.folder / "long.jsonl")
    assert run.returncode == 1
    assert "a cache of 1248 tokens cannot hold request 0" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (bench.folder / "refused").exists()


def test_engine_that_dies_at_start_shows_its_log(bench: Bench, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (broken / name).symlink_to(bench.model / name)
    (broken / "config.json").write_text('{"architectures": ["NoSuchModel"], "model_type": "qwen3"}')
    healthy, bench.model = bench.model, broken
    try:
        run = bench.run(bench.alone, tmp_path / "cells" / "c", bench.workload_of_alone)
    finally:
        bench.model = healthy
    assert run.returncode == 1
    assert "the engine died with exit code 1" in run.stderr
    assert "NoSuchModel" in run.stderr
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["c.failed.log"]
