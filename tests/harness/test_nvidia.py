from pathlib import Path

import pytest
from support import fake_nvidia

from harness import nvidia


def test_tells_of_the_gpus_that_are_to_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia.install(tmp_path, monkeypatch, "NVIDIA H100 80GB HBM3", "NVIDIA L4, and more")
    first, second = nvidia.gpus()
    assert first == nvidia.GPU("NVIDIA H100 80GB HBM3", 81_559 << 20, "580.65.06")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert nvidia.gpus() == [second]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0")
    assert nvidia.gpus() == [first]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert nvidia.gpus() == []


def test_tells_of_what_works_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia.install(tmp_path, monkeypatch, "a", processes=["71, 512, python, -c"])
    assert nvidia.processes() == ["python, -c (process 71, 512 MiB)"]


def test_tells_of_nothing_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia.gpus() == nvidia.processes() == []
    fake_nvidia.install(tmp_path, monkeypatch, code=9)
    assert nvidia.gpus() == nvidia.processes() == []
