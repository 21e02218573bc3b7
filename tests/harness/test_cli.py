import json
from pathlib import Path

import pytest

from harness import cli


def test_check_lists_cells(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(root / "config" / "smoke.yaml")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 37


def test_schema_describes_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == {
        "name",
        "tiers",
        "workloads",
        "experiments",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "none.yaml"], "none.yaml: no such config"),
        (["patch", "build", "none", "tree"], "none: not a patch series"),
        (["patch", "export", "none", "checkout"], "checkout is not there"),
        (["table", "none", "--output", "t.csv"], "none: not a measured cell"),
    ],
)
def test_refusal_is_one_line_and_exit_code_1(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _cell(root: Path, cell: str, workload: Path, *more: str) -> list[str]:
    return [
        *("cell", str(root / "config" / "smoke.yaml"), cell, "--model", "m"),
        *("--workload", str(workload), "--output", "out", *more),
    ]


_LRU = "docqa-quality-batch1-1248-s42-vllm-lru"


def test_cell_is_refused_before_an_engine_starts(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(_cell(root, "other", tmp_path / "w.jsonl")) == 1
    assert "has no cell 'other'" in capsys.readouterr().err
    assert cli.main(_cell(root, _LRU, tmp_path / "w.jsonl")) == 1
    assert "no such workload file" in capsys.readouterr().err

    from workloads import file
    from workloads.file import Header, TextRequest, TextWorkload

    request = TextRequest(request=0, prompt_tokens=5, output_tokens=1, parts=("a",))
    header = Header(content="text", name="w", seed=1, texts=1, requests=1, params={})
    file.write(tmp_path / "w.jsonl", TextWorkload(header, (request,), {"a": "b"}))
    assert cli.main(_cell(root, _LRU, tmp_path / "w.jsonl")) == 1
    assert "engine vllm needs --engine-tree" in capsys.readouterr().err
    stock = _LRU.replace("vllm-lru", "vllm-stock-lru")
    (tmp_path / "manifest.json").write_text('{"patches_sha256": "x"}')
    assert cli.main(_cell(root, stock, tmp_path / "w.jsonl", "--engine-tree", ".")) == 1
    assert "takes no --engine-tree" in capsys.readouterr().err
