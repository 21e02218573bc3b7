import dataclasses
import sys
from pathlib import Path

import pytest

from harness import patching
from harness.cell import Tier
from harness.engines import base, registry
from harness.engines.registry import ENGINES
from harness.policies import POLICIES


def test_every_engine_has_what_a_cell_needs() -> None:
    for name, kind in ENGINES.items():
        assert kind.name == name
        assert kind.policies[0] == "lru"
        assert set(kind.policies) <= POLICIES.keys()
        assert kind.offline or kind.server
        assert (kind.tiers == ("replay",)) == (kind.server is None)


def test_patched_engine_of_a_package_in_a_tier() -> None:
    assert registry.patched("vllm", "cpu").name == "vllm"
    assert registry.patched("vllm", "replay").name == "replay"
    assert registry.patched("sglang", "replay").name == "sglang-replay"


def test_interpreter_is_the_environments_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ENGINES["vllm"].python == sys.executable
    assert ENGINES["vllm"].is_installed
    sglang = ENGINES["sglang"]
    assert Path(sglang.python) == root / ".venv-sglang" / "bin" / "python"
    monkeypatch.setattr(base, "_ROOT", tmp_path)
    assert str(sglang.lacks("cpu")).endswith("`make env-sglang`")


@pytest.mark.parametrize(
    ("build", "lacking"),
    [
        ("+cpu", {"gpu": "build for CUDA, and the one for CPUs is installed; `make env-cuda`"}),
        (
            "",
            {
                "cpu": "build for CPUs, and another one is installed; "
                "`python3.11 env/bootstrap.py --target cpu`"
            },
        ),
    ],
)
def test_build_that_is_not_a_tiers_is_named(
    build: str, lacking: dict[Tier, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = patching.find_package("vllm")
    found = dataclasses.replace(package, build=build)
    monkeypatch.setattr(patching, "find_package", lambda _: found)
    tiers: tuple[Tier, ...] = ("cpu", "gpu")
    for tier in tiers:
        for name in ("vllm", "vllm-stock"):
            said = ENGINES[name].lacks(tier)
            assert said == (
                f"tier {tier} needs vLLM's {lacking[tier]}" if tier in lacking else None
            )
    assert ENGINES["replay"].lacks("replay") is None
