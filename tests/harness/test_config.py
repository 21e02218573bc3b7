import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import config, patching, policies
from harness.errors import HarnessError
from workloads.docqa import DocQA
from workloads.trace import Trace

_GOOD: dict[str, Any] = {
    "name": "test",
    "tiers": {"cpu": {"block_size": 32, "scale": 0.125}},
    "workloads": {"docqa-quality": {"kind": "docqa"}},
    "experiments": {
        "one": {
            "tier": "cpu",
            "workload": "docqa-quality",
            "policies": ["lru", "arc"],
            "cache_tokens": [50000, 100000],
            "seeds": [1, 2],
        }
    },
}


def _changed(path: str, value: object) -> dict[str, Any]:
    content = copy.deepcopy(_GOOD)
    *parents, last = path.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    section[last] = value
    return content


def test_cells_are_the_product_each_once_at_the_exact_size() -> None:
    content = _changed(
        "experiments.two", _GOOD["experiments"]["one"] | {"seeds": [2, 3], "policies": ["lru"]}
    )
    cells = config.parse(content, "test").cells
    assert len(cells) == 2 * 2 * 2 + 2  # the second experiment adds seed 3 under lru
    # 50,000 / 8 / 32 = 195.3 blocks
    assert {cell.cache_blocks for cell in cells.values()} == {195, 391}
    assert {cell.cache_tokens for cell in cells.values()} == {6240, 12512}
    assert all(name == cell.id for name, cell in cells.items())


@pytest.mark.parametrize(
    "name",
    [
        *("cpu", "smoke", "seeds", "policies", "saturation"),
        *("paper", "gpu-small", "fleet", "nightly", "versions"),
    ],
)
def test_shipped_configs_are_valid(root: Path, name: str) -> None:
    assert config.load(root / "config" / f"{name}.yaml").name == name


def test_version_of_the_engine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for series in (root / patching.PATCHES).glob("*/series"):
        assert config.parse(_changed("vllm", series.parent.name), "test").vllm == series.parent.name
    with pytest.raises(HarnessError, match=r"^test: vllm: no patches for vllm 9\.9 .* only for "):
        config.parse(_changed("vllm", "9.9"), "test")
    stock = _GOOD["experiments"]["one"] | {"engine": "vllm-stock", "policies": ["lru"]}
    content = _changed("experiments.one", stock) | {"vllm": "9.9"}
    with pytest.raises(HarnessError, match="vllm: engine vllm-stock is the installed package"):
        config.parse(content, "test")


def test_cpu_config_is_the_papers_experiment(root: Path) -> None:
    cpu = config.load(root / "config" / "cpu.yaml")
    workload = cpu.workloads["docqa-quality"]
    assert isinstance(workload, DocQA)
    assert (workload.documents, workload.window, workload.zipf_exponent) == (381, 512, 1.0)
    assert workload.length_mean == 5768
    assert workload.requests == 3072
    assert cpu.tiers["replay"].block_size == 16
    assert cpu.tiers["replay"].scale == 1
    for name in ("figure-3", "figure-3-original", "figure-4"):
        assert cpu.experiments[name].cache_tokens == tuple(range(50_000, 300_001, 50_000))
    seeds = config.load(root / "config" / "seeds.yaml")
    assert len(seeds.experiments["figure-3"].seeds) >= 5
    # What they share, they say alike.
    assert seeds.tiers == cpu.tiers
    shared = seeds.workloads.keys() & cpu.workloads.keys()
    assert len(shared) >= 3
    assert all(seeds.workloads[name] == cpu.workloads[name] for name in shared)
    policies = config.load(root / "config" / "policies.yaml")
    assert policies.tiers == cpu.tiers
    # All of Mooncake's requests, not the first half.
    of_seeds = seeds.workloads.keys() & policies.workloads.keys() - {"conversation-mooncake"}
    assert len(of_seeds) >= 6
    assert all(seeds.workloads[name] == policies.workloads[name] for name in of_seeds)
    paper = config.load(root / "config" / "paper.yaml")
    assert paper.workloads["docqa-quality"] == workload
    assert paper.tiers["gpu"].scale == 1
    assert paper.tiers["gpu"].block_size == 16
    nightly = config.load(root / "config" / "nightly.yaml")
    assert nightly.tiers == paper.tiers
    # The same cells, but one that is measured again.
    others = [cell for name, cell in nightly.cells.items() if paper.cells.get(name) != cell]
    assert all(cell.repeat for cell in others)
    bailian = cpu.workloads["conversation-bailian-a"]
    assert isinstance(bailian, Trace)
    assert (bailian.warm_up, bailian.output_tokens) == (20_000, 1)
    assert cpu.experiments["figure-5"].cache_tokens == (30_000, 50_000, 100_000, 200_000, 300_000)


def test_sequence_is_as_long_as_its_parts_and_names_what_is_missing(tmp_path: Path) -> None:
    phases = [{"part": "a", "requests": 10}, {"part": "b", "requests": 10}]
    parts: dict[str, Any] = {"a": {"kind": "docqa", "length_max": 60_000}, "b": {"kind": "docqa"}}
    given = {"kind": "sequence", "parts": parts, "phases": phases}
    with pytest.raises(HarnessError, match=r"50000 tokens are less than one request .*60000"):
        config.parse(_changed("workloads.docqa-quality", given), "test")
    parts["a"] = {"kind": "docqa", "corpus": "nowhere.jsonl"}
    with pytest.raises(HarnessError, match=r"parts\.a\.corpus: no such file or data set: nowhere"):
        config.parse(_changed("workloads.docqa-quality", given), "test")
    del parts["a"]["corpus"]
    parsed = config.parse(_changed("workloads.docqa-quality", given), "test")
    # Conversations cannot be scaled, so nothing is.
    assert {cell.scale for cell in parsed.cells.values()} == {1.0}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "experiments.one.policies",
            ["mru"],
            r"policies.0: Input should be 'lru', 'dbl', .*, 'alrfu' or 'arcleaf', not 'mru'",
        ),
        ("experiments.one.cache_tokens", [5000], r"5000 tokens are less than one request"),
        ("experiments.one.workload", "other", r"'other' is none of the workloads"),
        ("rivals", ["other"], r"rivals: 'other' is none of the workloads"),
        ("map", {"full_size": ["a"]}, r"map\.full_size: 'a' is none of the workloads"),
        ("experiments.one.engine", "vllm-stock", r"vllm-stock has no policy arc, only lru"),
        ("experiments.one.seeds", [], r"seeds: .* at least 1 item"),
        ("experiments", {}, r"at least one experiment"),
        ("experiments.one.engine", "replay", r"engine replay does not run in tier cpu"),
        ("experiments.one.engine", "sglang-replay", r"sglang-replay does not run in tier cpu"),
        ("experiments.one.policies", ["s3fifo", "LRU"], r"'alrfu' or 'arcleaf', not 'LRU'"),
        ("experiments.one.tier", "gpu", r"'gpu' is none of the tiers of this config \(cpu\)"),
        ("tiers.cpu.block_size", 16, r"tiers.cpu.block_size: 16: .* multiples of 32"),
        ("tiers.cpu.block_size", "x", r"tiers.cpu.block_size: .*not 'x'"),
        ("tiers.cpu", {}, r"tiers.cpu.block_size: missing"),
        ("tiers.tpu", {"block_size": 16}, r"tiers.tpu.*'replay', 'cpu' or 'gpu'"),
        ("engines", {}, r"engines: no such key; the keys are name, vllm, tiers"),
        ("experiment", {}, r"experiment: no such key; did you mean experiments\?"),
        ("tiers.cpu.thread", 1, r"tiers.cpu.thread: no such key; did you mean threads\?"),
        ("workloads.docqa-quality.corpse", "x", r"docqa-quality.corpse: .* mean corpus\?"),
        ("workloads.other", {"knd": "docqa"}, r"workloads.other.knd: .*mean kind\?"),
        ("workloads.other", {}, r"workloads.other.kind: missing; it is one of docqa, trace"),
        ("experiments.one.cache_tokens", 50000, r"cache_tokens: a list is due, as \[50000\]"),
        ("experiments.one.cache_tokens", [10**15], r"equal to 100000000, not 1000000000000000"),
        ("experiments.one.sweep", {"arc": {"T1": [1]}}, r"engine vllm takes no sweep: replay does"),
        ("experiments.one.sweep", {"arc": {"t1": [1]}}, r"sweep.arc.t1.*match pattern"),
        ("experiments.one.repeats", 10**9, r"repeats: .*less than or equal to 1000, not"),
        (
            "experiments.one.loads",
            [{"mode": "open-loop", "request_rate": float("inf")}],
            r"one.loads.0.request_rate: .* less than or equal to 100000, not inf$",
        ),
        (
            "experiments.one.loads",
            [{"mode": "open-loop", "request_rate": 1, "burstyness": 1}],
            r"valid config:\n  experiments.one.loads.0.burstyness: .* mean burstiness\?$",
        ),
        ("name", "No Spaces", r"name: .*not 'No Spaces'"),
        ("tiers.cpu.scale", 2, r"scale: .* less than or equal to 1, not 2"),
        ("workloads.docqa-quality.corpus", "none.jsonl", r"no such file or data set: none.jsonl"),
        ("workloads.docqa-quality.kind", "chat", r"'docqa', 'trace', 'sharegpt'"),
        ("experiments.one.loads", [{"mode": "later"}], r"loads.*'batch-http', 'fleet'"),
        (
            "experiments.one.loads",
            [{"mode": "open-loop", "arrivals": "gamma", "request_rate": 1}],
            r"arrivals gamma need burstiness",
        ),
        (
            "experiments.one.loads",
            [{"mode": "open-loop", "arrivals": "trace", "request_rate": 1}],
            r"arrivals trace take no request_rate",
        ),
        (
            "experiments.one.loads",
            [{"mode": "closed-loop", "users": 3, "think_time_mean": 1, "processes": 2}],
            r"users 3 is not a multiple of processes 2",
        ),
        ("workloads.No", {"kind": "docqa"}, r"workloads.No.*String should match"),
        (
            "workloads.other",
            {"kind": "trace", "dataset": "none", "format": "mooncake"},
            r"workloads.other.dataset: no such file or data set: none; .*mooncake",
        ),
        (
            "workloads.other",
            {"kind": "trace", "path": "a {log}.jsonl"},
            r"workloads.other.path: a {log}.jsonl: braces in a path mean something else",
        ),
        (
            "workloads.other",
            {"kind": "trace", "path": "mooncake"},
            r"workloads.other.path: no such file: mooncake, seen from /",
        ),
        (
            "workloads.other",
            {"kind": "trace", "dataset": "mooncake", "format": "csv"},
            r"workloads.other.format: no such format; the formats are bailian, mooncake,",
        ),
        (
            "workloads.other",
            {"kind": "trace", "dataset": "mooncake", "path": "x"},
            r"workloads.other: say either `dataset` or `path`$",
        ),
        (
            "tiers.cpu.model",
            "./none",
            r"tiers.cpu.model: ./none is not a model folder: it has no config.json",
        ),
    ],
)
def test_bad_value_names_key_value_and_what_is_allowed(
    path: str, value: object, message: str
) -> None:
    with pytest.raises(HarnessError, match=message):
        config.parse(_changed(path, value), "test.yaml")


def test_model_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"no config.json"):
        config.parse(_changed("tiers.cpu.model", str(tmp_path)), "test.yaml")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HarnessError, match=r"no tokenizer.json"):
        config.parse(_changed("tiers.cpu.model", str(tmp_path)), "test.yaml")


def test_gpu_tier_takes_the_papers_block_size() -> None:
    content = _changed("tiers", {"gpu": {"block_size": 16}})
    content["experiments"]["one"]["tier"] = "gpu"
    assert config.parse(content, "test").cells


def test_replay_groups_share_workload_and_seed() -> None:
    content = _changed("tiers.replay", {"block_size": 16})
    loads = [{"mode": "batch", "batch_size": size} for size in (1, 8)]
    replay = _GOOD["experiments"]["one"] | {"tier": "replay", "loads": loads}
    content["experiments"]["two"] = replay
    parsed = config.parse(content, "test")
    groups = {name: parsed.groups[name] for name in parsed.groups if name.startswith("replay-")}
    assert set(groups) == {"replay-docqa-quality-s1", "replay-docqa-quality-s2"}
    assert parsed.replayed == {("docqa-quality", seed): [3125, 6250] for seed in (1, 2)}
    assert all(len(cells) == 2 * 2 * 2 for cells in groups.values())
    replayed = [cell for cells in groups.values() for cell in cells.values()]
    assert {(cell.engine, cell.tier, cell.scale) for cell in replayed} == {("replay", "replay", 1)}
    # 50,000 / 16 blocks.
    assert {cell.cache_blocks for cell in replayed} == {3125, 6250}
    assert len(parsed.cells) == 8 + 16


def test_cells_that_take_turns_share_all_but_policy_repeat_and_an_open_loops_rate() -> None:
    loads = [
        *({"mode": "batch", "batch_size": size} for size in (1, 8)),
        *({"mode": "open-loop", "request_rate": rate} for rate in (9, 10)),
        *({"mode": "open-loop", "request_rate": rate, "turn_requests": 16} for rate in (9, 10)),
        {"mode": "open-loop", "request_rate": 9, "turn_requests": 8},
    ]
    content = _changed("tiers.cpu.take_turns", True)
    content["experiments"]["one"] |= {"loads": loads, "cache_tokens": [50000], "seeds": [1]}
    content["experiments"]["noise"] = content["experiments"]["one"] | {
        "policies": ["lru"],
        "loads": [loads[5]],
        "repeats": 2,
    }
    groups = config.parse(content, "test").groups
    assert {name: len(cells) for name, cells in groups.items()} == {
        "docqa-quality-batch1-6240-s1": 2,
        "docqa-quality-batch8-6240-s1": 2,
        "docqa-quality-open-loop-poisson-r9-6240-s1": 2,
        "docqa-quality-open-loop-poisson-r10-6240-s1": 2,
        "docqa-quality-open-loop-poisson-n16-6240-s1": 5,
        "docqa-quality-open-loop-poisson-n8-6240-s1": 2,
    }
    rates = groups["docqa-quality-open-loop-poisson-n16-6240-s1"]
    assert all(name == cell.id for name, cell in rates.items())


def test_sweep_is_a_policy_more_for_each_value_of_a_constant() -> None:
    content = _changed("tiers", {"replay": {"block_size": 16}})
    content["experiments"]["one"] |= {
        "tier": "replay",
        "policies": ["lru", "alrfu"],
        "cache_tokens": [50000],
        "seeds": [1],
        "sweep": {"alrfu": {"MAX_GHOSTS": [0, 0.123456789, 1e16], "HALF_LIVES": [[0, 8]]}},
    }
    found = config.parse(content, "test")
    assert found.swept == ["docqa-quality"]
    of_alrfu = [cell.policy for cell in found.cells.values()][1:]
    assert list(map(policies.split, of_alrfu)) == [
        ("alrfu", None, ()),
        ("alrfu", "MAX_GHOSTS", (0,)),
        ("alrfu", "MAX_GHOSTS", (0.123456789,)),
        ("alrfu", "MAX_GHOSTS", (1e16,)),
        ("alrfu", "HALF_LIVES", (0, 8)),
    ]
    assert of_alrfu[-1] == "alrfu:HALF_LIVES=0+8"


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no such config"):
        config.load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(HarnessError, match="not YAML"):
        config.load(broken)
    broken.write_text(yaml.safe_dump([1]))
    with pytest.raises(HarnessError, match="not a valid config"):
        config.load(broken)


@pytest.mark.parametrize("typo", ["polices", "policie"])
def test_a_typo_in_a_key_that_is_needed_is_one_problem(typo: str) -> None:
    content = copy.deepcopy(_GOOD)
    content["experiments"]["one"][typo] = content["experiments"]["one"].pop("policies")
    with pytest.raises(HarnessError) as raised:
        config.parse(content, "test.yaml")
    assert str(raised.value) == (
        "test.yaml: not a valid config:\n"
        f"  experiments.one.{typo}: no such key; did you mean policies?"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": 1}', "other.path: .*log, line 1: a record with a is in no format"),
        ("Timestamp,Request tokens\n1,2", "other.path: .*nothing can be said of what requests"),
        ("", "other.path: .*log: an empty file"),
    ],
)
def test_a_log_that_is_no_workload_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "log").write_text(content)
    with pytest.raises(HarnessError, match=reason):
        config.parse(
            _changed("workloads.other", {"kind": "trace", "path": str(tmp_path / "log")}), "test"
        )


def test_real_requests_are_as_long_as_they_are() -> None:
    content = _changed(
        "workloads.docqa-quality", {"kind": "trace", "dataset": "mooncake", "format": "mooncake"}
    )
    assert {cell.scale for cell in config.parse(content, "test").cells.values()} == {1}


def test_replay_has_no_server() -> None:
    content = _changed("tiers.replay", {"block_size": 16})
    content["experiments"]["one"] |= {
        "tier": "replay",
        "loads": [{"mode": "open-loop", "request_rate": 1}],
    }
    with pytest.raises(HarnessError, match="its only modes are batch and fleet"):
        config.parse(content, "test")


def test_fleet_is_of_tier_replay_and_its_cells_are_named_by_it() -> None:
    load = {"mode": "fleet", "engines": 4, "router": "session"}
    content = _changed("experiments.one.loads", [load])
    with pytest.raises(HarnessError, match="a fleet is of tier replay"):
        config.parse(content, "test")
    content["tiers"]["replay"] = {"block_size": 16}
    content["experiments"]["one"]["tier"] = "replay"
    parsed = config.parse(content, "test")
    assert all("-fleet1-session-x4-" in name for name in parsed.cells)
    # Bounds are of one engine.
    assert parsed.replayed == {}


@pytest.mark.parametrize(
    ("load", "name"),
    [
        ({"mode": "closed-loop", "users": 4, "think_time_mean": 1}, "closed-loop-u4-t1-"),
        ({"mode": "open-loop", "request_rate": 9}, "open-loop-poisson-r9-"),
    ],
)
def test_cells_that_would_share_a_name_are_refused(load: dict[str, Any], name: str) -> None:
    """How many processes send is not part of it, since it shall make no difference."""
    loads = [load | {"processes": processes} for processes in (1, 2)]
    with pytest.raises(
        HarnessError, match=f"two different cells would be called docqa-quality-{name}"
    ):
        config.parse(_changed("experiments.one.loads", loads), "test")
