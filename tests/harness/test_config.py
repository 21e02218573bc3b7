import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import config
from harness.errors import HarnessError

_GOOD: dict[str, Any] = {
    "name": "test",
    "tier": "cpu",
    "engine": {"block_size": 32},
    "workloads": {"docqa-quality": {"kind": "docqa", "scale": 0.125}},
    "experiments": {
        "one": {
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


@pytest.mark.parametrize("name", ["cpu", "smoke"])
def test_shipped_configs_are_valid(root: Path, name: str) -> None:
    assert config.load(root / "config" / f"{name}.yaml").name == name


def test_cpu_config_is_the_papers_experiment(root: Path) -> None:
    cpu = config.load(root / "config" / "cpu.yaml")
    workload = cpu.workloads["docqa-quality"]
    assert (workload.documents, workload.window, workload.zipf_exponent) == (381, 512, 1.0)
    assert workload.length_mean == 5768
    assert cpu.experiments["figure-3"].cache_tokens == tuple(range(50_000, 300_001, 50_000))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "experiments.one.policies",
            ["mru"],
            r"policies.0: Input should be 'lru', 'dbl', 'arc', 'slru' or 's3fifo', not 'mru'",
        ),
        ("experiments.one.cache_tokens", [5000], r"5000 tokens are less than one request"),
        ("experiments.one.workload", "other", r"'other' is none of the workloads"),
        ("experiments.one.engine", "vllm-stock", r"vllm-stock has no policies"),
        ("experiments.one.seeds", [], r"seeds: .* at least 1 item"),
        ("experiments", {}, r"at least one experiment"),
        ("engine.block_size", 16, r"engine.block_size: 16: .* multiples of 32"),
        ("engine.block_size", "x", r"engine.block_size: .*not 'x'"),
        ("engine", {}, r"engine.block_size: missing"),
        ("engines", {}, r"engines: Extra inputs are not permitted"),
        ("name", "No Spaces", r"name: .*not 'No Spaces'"),
        ("workloads.docqa-quality.scale", 2, r"scale: .* less than or equal to 1, not 2"),
        ("workloads.docqa-quality.corpus", "none.jsonl", r"no such file: none.jsonl"),
        (
            "model",
            {"source": "./none"},
            r"model.source: ./none is not a model folder: it has no config.json",
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
        config.parse(_changed("model", {"source": str(tmp_path)}), "test.yaml")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HarnessError, match=r"no tokenizer.json"):
        config.parse(_changed("model", {"source": str(tmp_path)}), "test.yaml")


def test_gpu_tier_takes_the_papers_block_size() -> None:
    content = _changed("engine.block_size", 16) | {"tier": "gpu"}
    assert config.parse(content, "test").cells


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
