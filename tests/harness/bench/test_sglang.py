"""What is made of the times; that they are measured at all, tests/sglang/test_radix.py shows."""

from pathlib import Path

import pytest

from harness import cli, config
from harness.bench import sglang
from harness.engines import base

# CPU time a request of lru, of arc, and of lru on the compiled core.
_ROUNDS = [(100.0, 120.0, 80.0), (200.0, 220.0, 200.0), (100.0, 150.0, 50.0)]


def test_ratios_are_medians_over_rounds() -> None:
    found = sglang._ratios(_ROUNDS)
    assert [(result.value, result.target) for result in found] == [(1.2, 1.3), (1.5, None)]


def test_requests_are_the_papers() -> None:
    parsed = config.parse(sglang._CONFIG, "bench")
    sizes = {(spec.cache_tokens, spec.block_size) for spec in parsed.cells.values()}
    assert sizes == {(50_000, 16)}
    params = parsed.workloads["docqa-quality"].model_dump()
    assert (params["requests"], params["documents"], params["zipf_exponent"]) == (3072, 381, 1)


def test_without_the_environment_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(base, "_ROOT", tmp_path)
    output = tmp_path / "results" / "sglang.json"
    assert cli.main(["bench", "sglang", "--build", str(tmp_path), "--output", str(output)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "SGLang's environment, .venv-sglang, is not there; `make env-sglang`: "
        "its results are left out\n"
    )
    assert not output.exists()
