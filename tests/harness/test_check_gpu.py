"""Checks of a machine with a GPU, on one without: ``nvidia-smi`` is played."""

import re
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import fake_nvidia

from harness import check_gpu, cli
from harness.cell import CellSpec
from harness.engines.base import Kind

_H100, _L4 = 81_559, 23_034
_DOCQA = {"tier": "gpu", "workload": "docqa", "policies": ["lru"], "cache_tokens": [25_000, 50_000]}


def _config(folder: Path, **tier: Any) -> Path:
    content = {
        "name": "mine",
        "tiers": {"gpu": {"block_size": 32, "scale": 0.05} | tier},
        "workloads": {"docqa": {"kind": "docqa", "documents": 30, "requests": 80, "window": 40}},
        "experiments": {"one": _DOCQA, "more": _DOCQA | {"policies": ["lru", "arc"]}},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment as if it were that for CUDA, without the checks that take seconds."""
    monkeypatch.setattr(Kind, "lacks", lambda *_: None)
    monkeypatch.setattr(check_gpu, "_cuda", lambda: "13.0")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    fast = {
        name: check
        for name, check in check_gpu._CHECKS.items()
        if name not in ("patched tree", "option", "short cells")
    }
    monkeypatch.setattr(check_gpu, "_CHECKS", fast)


def _run(path: Path, folder: Path, **options: Any) -> dict[str, check_gpu.Row]:
    rows = check_gpu.run(path, build=folder / "build", say=print, **options)
    return {row.check: row for row in rows}


def test_fit_machine(
    root: Path, tmp_path: Path, cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia.install(tmp_path, monkeypatch, "NVIDIA H100 80GB HBM3")
    rows = _run(root / "config" / "paper.yaml", tmp_path)
    assert {row.outcome for row in rows.values()} == {"ok"}
    # The paper's setting: 300,000 tokens of 160 KiB, 14.8 billion parameters of 2 bytes.
    assert rows["memory"].said == (
        "77.3 GiB: 45.8 for 300,000 tokens of cache, 27.5 for weights, 4 for all else; of 79.6 "
        "that is a gpu_memory_utilization of 0.97"
    )


def test_small_config_fits_a_small_card(
    root: Path, tmp_path: Path, cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia.install(tmp_path, monkeypatch, "NVIDIA L4", mib=_L4)
    assert _run(root / "config" / "gpu-small.yaml", tmp_path)["memory"].outcome == "ok"
    memory = _run(root / "config" / "nightly.yaml", tmp_path)["memory"]
    assert memory.outcome == "failed"
    assert "the card has 22.5 GiB" in memory.said


def test_without_a_gpu_what_needs_one_is_not_checked_and_fails_nothing(
    tmp_path: Path, cuda: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _config(tmp_path)
    assert cli.main(["check-gpu", str(path)]) == 0
    assert "not checked here: memory, GPU, driver, idle\n" in capsys.readouterr().out


def test_card_can_be_named_where_there_is_none(root: Path, tmp_path: Path, cuda: None) -> None:
    paper = root / "config" / "paper.yaml"
    assert _run(paper, tmp_path)["memory"].outcome == "not checked"
    assert _run(paper, tmp_path, card_gib=79.6)["memory"].outcome == "ok"
    assert _run(paper, tmp_path, card_gib=40)["memory"].outcome == "failed"


@pytest.mark.parametrize(
    ("fake", "check", "said"),
    [
        ({"driver": "535.104.05"}, "driver", "driver 535.104.05 is older than 580, which CUDA 13"),
        ({"processes": ["71, 512, python"]}, "idle", "works python (process 71, 512 MiB)"),
        ({"names": ["a", "b"]}, "GPU", "2 GPUs (a, b)"),
    ],
)
def test_what_is_wrong_with_the_gpu_is_said(
    fake: dict[str, Any],
    check: str,
    said: str,
    tmp_path: Path,
    cuda: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = fake.pop("names", ["a"])
    fake_nvidia.install(tmp_path, monkeypatch, *names, **fake)
    assert cli.main(["check-gpu", str(_config(tmp_path))]) == 1
    out, error = capsys.readouterr()
    (line,) = (line for line in out.splitlines() if said in line)
    assert line.split()[:2] == [check, "failed"]
    assert error.endswith(f"is not fit for {tmp_path / 'mine.yaml'}: {check}\n")


def test_model_has_to_be_here_or_to_be_had(
    tmp_path: Path, tiny_model: Path, cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _run(_config(tmp_path, model=str(tiny_model)), tmp_path, card_gib=24)
    assert [rows[name].outcome for name in ("model", "memory", "disk")] == ["ok"] * 3
    # Layers, heads, their size and bytes, and half of them again: 2,500 tokens are nothing.
    assert rows["memory"].said.startswith("4.0 GiB: 0.0 for 2,496 tokens of cache, 0.0 for weights")

    shutil.copytree(tiny_model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    rows = _run(_config(tmp_path, model=str(tmp_path / "bare")), tmp_path)
    assert "a model's folder without weights" in rows["model"].said

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    rows = _run(_config(tmp_path, model="owner/other"), tmp_path)
    assert rows["model"].outcome == "failed"
    assert "(no network): download it where there is a network" in rows["model"].said
    assert rows["memory"].said.startswith("model owner/other: its KV cache is not known here")


def test_full_disk_is_said(tmp_path: Path, cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 20 << 30))
    disk = _run(_config(tmp_path, model="Qwen/Qwen3-14B", dtype="bfloat16"), tmp_path)["disk"]
    assert disk.outcome == "failed"
    assert "has 20.0 GiB free, and 29.5 are needed" in disk.said


def test_environment_for_cpus_is_not_fit(tmp_path: Path) -> None:
    rows = _run(_config(tmp_path), tmp_path)
    assert rows["environment"].outcome == "failed"
    assert rows["environment"].said.endswith("`make env-cuda`")
    assert rows["patched tree"] == check_gpu.Row(
        "patched tree", "not checked", "needs: environment"
    )


def test_config_without_cells_on_a_gpu_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check-gpu", str(root / "config" / "cpu.yaml")]) == 1
    assert "no cell is of tier gpu" in capsys.readouterr().err


def test_short_cells_are_one_a_mode_and_policy(root: Path) -> None:
    from harness import config

    short = check_gpu._short(config.load(root / "config" / "paper.yaml"))
    assert {spec.workload for spec in short.cells.values()} == {"docqa-quality"}
    assert [(spec.tier, spec.load.mode, spec.policy) for spec in short.cells.values()] == [
        (tier, mode, policy)
        for tier, mode in (
            ("gpu", "batch"),
            ("gpu", "batch-http"),
            ("gpu", "open-loop"),
            ("replay", "batch"),
        )
        for policy in ("lru", "arc")
    ]
    assert short.tiers["gpu"].requests == 64


@pytest.mark.engine
def test_short_cells_run_and_hit_what_they_do_replayed(
    tmp_path: Path, engine_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU: the code is the same."""
    installed = [path for path in sys.path if path != str(engine_tree)]
    monkeypatch.setattr(sys, "path", installed)
    monkeypatch.setattr(Kind, "lacks", lambda *_: None)
    monkeypatch.setattr(check_gpu, "_cuda", lambda: "13.0")
    fake_nvidia.install(tmp_path, monkeypatch, "none")
    measure = check_gpu.supervisor.run

    def on_cpus(specs: dict[str, CellSpec], **options: Any) -> None:
        tier = {"gpu": "cpu", "replay": "replay"}
        measure(
            {
                name: spec.model_copy(update={"tier": tier[spec.tier]})
                for name, spec in specs.items()
            },
            **options,
        )

    monkeypatch.setattr(check_gpu.supervisor, "run", on_cpus)
    # An engine takes as long to start as all the rest.
    monkeypatch.setattr(check_gpu, "_POLICIES", ("arc",))
    rows = _run(_config(tmp_path), tmp_path)
    assert re.search(r"\d+ patches fit vLLM", rows["patched tree"].said)
    assert rows["option"].said == "`vllm serve` takes --prefix-cache-eviction-policy arc, lru"
    # What a card would hold of the model that is made by a rule is not asked.
    assert rows["memory"].outcome == "not checked"
    assert rows["short cells"].outcome == "ok", rows["short cells"].said
    assert rows["short cells"].said.startswith("batch arc hit rate 0.")
