import sys
from pathlib import Path

from harness.engines import registry
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


def test_interpreter_is_the_environments_own(root: Path) -> None:
    assert ENGINES["vllm"].python == sys.executable
    assert ENGINES["vllm"].is_installed
    sglang = ENGINES["sglang"]
    assert Path(sglang.python) == root / ".venv-sglang" / "bin" / "python"
    assert sglang.missing.endswith("`make env-sglang`")
