import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import maps as made_up
from support.results import measured, record

from harness import config
from harness.analysis import study
from harness.analysis.results import Results
from harness.cell import CellSpec
from harness.config import Config
from harness.measure.records import RequestRecord

_N = 400
_STUDY = {
    "cache_tokens": 32_000,
    "model": "a model",
    "kv_bytes_per_token": 2**30 / 1000,
    "base_ms": 10,
    "ms_per_token": 1,
    "ttft_from": "a line",
}
_TRAFFIC = made_up.traffic()
# Cached tokens of fifty requests, by policy and cache size; of the next fifty, half of it.
_HITS = {
    ("lru", 16_000): 20,
    ("lru", 32_000): 40,
    ("lru", 128_000): 80,
    ("arc", 16_000): 30,
    ("arc", 32_000): 60,
    ("arc", 128_000): 80,
}


def _results(
    root: Path, folder: Path, hits: dict[tuple[str, int], int] = _HITS, **changes: Any
) -> Results:
    def made(spec: CellSpec) -> list[RequestRecord]:
        cached = hits[spec.policy, spec.cache_tokens]
        return [
            record(i, i, 1, cached_tokens=cached // (1 + i // 50 % 2), first_token_ns=None)
            for i in range(_N)
        ]

    experiment = {
        "tier": "replay",
        "workload": "docqa-quality",
        "policies": sorted({policy for policy, _ in hits}),
        "cache_tokens": sorted({size for _, size in hits}),
    }
    found = measured(root, folder, made, experiment)
    described = found.config.model_dump() | {"study": _STUDY | changes}
    bounds = pd.DataFrame(
        [["docqa-quality", 32_000, "bound", "optimum", 0.7]],
        columns=["workload", "cache_tokens", "kind", "policy", "hit_rate"],
    )
    return Results(Config.model_validate(described), folder, found.cells, bounds)


def test_says_which_policy_what_it_gains_and_what_lru_would_need(
    root: Path, tmp_path: Path
) -> None:
    found, table = study.answer(_results(root, tmp_path), _TRAFFIC)
    assert found.policy == "arc"
    at, gain, needs = found.sentences
    # 60 and 30 of 100 tokens; LRU 40 and 20.
    assert at.startswith("At 32,000 tokens (32 GiB of KV cache for a model), ARC hits 45.0 % [")
    assert "next is LRU with 30.0 %; the offline optimum would hit 70.0 %." in at
    assert "it gains +15.0 points [" in gain
    # 10 + 55 ms for 10 + 70 ms.
    assert "mean TTFT by \N{MINUS SIGN}18.8 % [" in gain
    assert "from 80 to 65 ms" in gain
    # Halfway between 40 at 32k and 80 at 128k, on a logarithmic scale: 64k.
    assert "LRU would need 64,000 tokens [" in needs
    assert "2.00 times the cache (32 GiB more)" in needs
    row = table.set_index(["policy", "cache_tokens"]).loc["arc", 32_000]
    assert row["points_over_lru"] == pytest.approx(15)
    assert row["points_over_lru_low"] < 15 < row["points_over_lru_high"]
    assert row["lru_tokens"] == pytest.approx(64_000)


def test_gain_that_may_be_none_and_a_cache_beyond_what_was_replayed_are_said(
    root: Path, tmp_path: Path
) -> None:
    hits = {("lru", 16_000): 20, ("lru", 32_000): 40, ("arc", 16_000): 20, ("arc", 32_000): 50}
    found, table = study.answer(_results(root, tmp_path, hits), _TRAFFIC)
    assert "more than 32,000 tokens, the largest size replayed" in found.sentences[2]
    assert math.isinf(table.set_index(["policy", "cache_tokens"])["lru_tokens"]["arc", 32_000])


def test_lru_may_be_the_answer(root: Path, tmp_path: Path) -> None:
    hits = {("lru", 32_000): 40, ("arc", 32_000): 30}
    found, _ = study.answer(_results(root, tmp_path, hits), _TRAFFIC)
    assert found.policy == "lru"
    assert "LRU hits 30.0 %" in found.sentences[0]
    assert "ARC, changes the hit rate by \N{MINUS SIGN}7.5 points" in found.sentences[1]
    assert len(found.sentences) == 3


def test_policies_that_hit_the_same_are_none_to_change_for(root: Path, tmp_path: Path) -> None:
    hits = {("lru", 32_000): 40, ("arc", 32_000): 40, ("slru", 32_000): 40}
    found, _ = study.answer(_results(root, tmp_path, hits), _TRAFFIC)
    assert found.policy == "lru"
    assert "of all prompt tokens, as do all 3 policies; the offline optimum" in found.sentences[0]
    assert found.sentences[1].startswith("So no other policy gains anything over LRU here")
    hits[("slru", 32_000)] = 30
    found, _ = study.answer(_results(root, tmp_path / "other", hits), _TRAFFIC)
    assert found.policy == "lru"
    assert "the most of 3 policies; next is ARC" in found.sentences[0]


def test_says_where_on_the_map_it_is_if_there_is_one(root: Path, tmp_path: Path) -> None:
    found, _ = study.answer(_results(root, tmp_path), _TRAFFIC, made_up.table())
    assert len(found.sentences) == 4
    assert found.sentences[3].startswith("On the map of documents, where this cache is 0.25 of")


def test_why_no_policy_can_differ_is_said_in_place_of_the_map(root: Path, tmp_path: Path) -> None:
    hits = {("lru", 32_000): 0, ("arc", 32_000): 0}
    results = _results(root, tmp_path, hits)
    for changes, why in (
        ({"seen_before": 0.0}, "No block of the prompts was asked for twice: "),
        ({"working_set_tokens": 32_000}, "It holds all that was asked for: "),
    ):
        traffic = _TRAFFIC.model_copy(update=changes)
        found, _ = study.answer(results, traffic, made_up.table())
        assert found.sentences[1].startswith(why)
        assert len(found.sentences) == 3


def test_log_of_few_requests_is_said_to_say_little(root: Path, tmp_path: Path) -> None:
    results = _results(root, tmp_path)
    one, many = (_TRAFFIC.model_copy(update={"requests": number}) for number in (1, 20))
    assert study.answer(results, one)[0].remarks[0].startswith("The log has 1 request, too few")
    assert study.answer(results, many)[0].remarks[0].startswith("In brackets: ")


def test_interval_that_goes_below_lrus_smallest_cache_says_so(root: Path, tmp_path: Path) -> None:
    results = _results(root, tmp_path)
    _, table = study.answer(results, _TRAFFIC)
    rows = table[table["cache_tokens"] == 32_000].set_index("policy").to_dict("index")
    own = {policy: {str(key): value for key, value in rows[policy].items()} for policy in rows}
    own["arc"]["lru_tokens_low"] = 0.0
    assert results.config.study is not None
    _, needs = study._worth(results.config.study, own, "arc", [16_000, 128_000])
    assert "would need 64,000 tokens [under 16,000 to " in needs


def test_what_is_written_is_read(root: Path, tmp_path: Path) -> None:
    found, table = study.answer(_results(root, tmp_path), _TRAFFIC)
    study.write(found, table, tmp_path / "study.json", tmp_path / "study.csv")
    assert study.read(tmp_path / "study.json") == found
    rows = study.read_table(tmp_path / "study.csv")
    assert len(rows) == 7
    assert {row["kind"] for row in rows} == {"engine", "bound"}


def test_study_is_of_one_workload(root: Path) -> None:
    cpu = config.load(root / "config" / "cpu.yaml")
    with pytest.raises(ValueError, match="study: is of one workload"):
        Config.model_validate(cpu.model_dump() | {"study": _STUDY})
