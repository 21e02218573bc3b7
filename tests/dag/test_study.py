"""A study of one's own traffic, run as the README says it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.browser import chromium, opened

from harness import study
from harness.engines.registry import ENGINES
from harness.errors import HarnessError
from harness.policies import POLICIES
from workloads.file import WorkloadError

_EXAMPLE = "tests/example.jsonl"


@pytest.fixture
def folder(checkout: Path, root: Path) -> Path:
    (checkout / "tests").mkdir()
    for name in (_EXAMPLE, "Makefile", "README.md"):
        shutil.copy(root / name, checkout / name)
    return checkout


def _make(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        # The environment is this one.
        ["make", "--assume-old=env", f"PYTHON={sys.executable}", *arguments],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.engine
def test_study_of_the_readme_is_one_page_and_one_table(folder: Path) -> None:
    (command,) = re.findall(
        rf"^make (study TRACE={_EXAMPLE}.*)$", (folder / "README.md").read_text(), re.M
    )
    run = _make(folder, *command.split())
    assert run.returncode == 0, run.stderr
    said = run.stdout.splitlines()
    assert f"{_EXAMPLE}: 64 requests in 24 sessions over 116 s, " in run.stdout
    results = folder / "results" / "study-example"
    table = pd.read_csv(results / "study.csv")
    engine = table[table["kind"] == "engine"]
    for_use = {policy for policy in ENGINES["replay"].policies if not POLICIES[policy].is_ablation}
    assert set(engine["policy"]) == for_use
    assert set(table["policy"]) > {"optimum", "infinite"}
    # In the cache that holds all, no policy evicts anything.
    largest = table[table["cache_tokens"] == table["cache_tokens"].max()]
    assert largest["hit_rate"].nunique() == 1
    # The log was read before, and is not read again.
    assert "rule replay:" in run.stderr
    assert "rule workload:" not in run.stderr
    # Within a job it is said how far it is.
    assert re.search(r"replay-example-s42: (arc|lru), ", run.stderr)

    answer = next(line for line in said if line.startswith("At "))
    page = (results / "report.html").read_text()
    assert answer in page
    assert "not run" not in page
    with chromium() as browser, opened(browser, results / "report.html", 1280) as (tab, wrong):
        assert tab.evaluate("document.querySelector('section').id") == "study"
        widths = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
        names = {path.stem for path in (results / "figures").glob("*.png")}
        assert names > {"hitrate-example", "why-example", "where-example"}
        assert len(widths) == len(names)
        assert all(widths)
        assert wrong == []

    again = _make(folder, *command.split())
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stderr
    # Another question needs no other cell.
    asked = _make(folder, *command.split(), "TTFT=1000:80,15000:900", "MODEL=Qwen3-8B")
    assert asked.returncode == 0, asked.stderr
    assert "rule replay" not in asked.stderr
    assert "your two points" in (results / "report.html").read_text()


def test_what_is_wrong_is_one_message_before_anything_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "_workload", lambda *_: pytest.fail("began"))
    log = root / _EXAMPLE
    with pytest.raises(WorkloadError, match="no-log: no such file: name a log"):
        study.run(Path("no-log"))
    with pytest.raises(WorkloadError, match="tests: is a folder: name a log"):
        study.run(log.parent)
    with pytest.raises(HarnessError, match="model gpt: its KV cache is not known here"):
        study.run(log, model="gpt")
    with pytest.raises(HarnessError, match="not two points"):
        study.run(log, ttft="1:2")
    other = tmp_path / "results" / "study-example"
    other.mkdir(parents=True)
    own = {"kind": "trace", "path": str(tmp_path / "example.jsonl")}
    content = study._content(own, "example", "m", 16)
    (tmp_path / "example.jsonl").write_text("{}")
    (other / "config.yaml").write_text(yaml.safe_dump(content | study._grid("example", [16_000])))
    with pytest.raises(HarnessError, match=r"is the study of another log, .*example\.jsonl"):
        study.run(log)
    assert not (tmp_path / "build").exists()


def test_log_that_is_none_is_one_message_of_the_log(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log.csv"
    for content, message in (
        ("", "an empty file"),
        ("\n \n", "an empty file"),
        ("\x00\x01", "line 1: not JSON"),
        ('{"foo": 1}\n', "line 1: a record with foo is in no format that is known"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n0,4808,10\n", "times and lengths alone"),
    ):
        log.write_text(content)
        with pytest.raises((HarnessError, WorkloadError)) as raised:
            study.run(log)
        assert str(raised.value).startswith(str(log))
        assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == [log]
    (tmp_path / "results").touch()
    with pytest.raises(HarnessError, match=r"config\.yaml: cannot be written: Not a directory"):
        study._write(Path("results/study-log/config.yaml"), {})


def test_study_of_the_same_log_may_leave_out_more(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    own = {"kind": "trace", "path": "mine.jsonl"}
    path.write_text(yaml.safe_dump(study._content(own, "mine", "m", 16)))
    study._check_same_trace(path, "mine.jsonl")
    with pytest.raises(HarnessError, match="is the study of another log"):
        study._check_same_trace(path, "yours.jsonl")


def test_make_hands_over_names_as_they_are(folder: Path) -> None:
    name = 'a "log" of `mine`, it\'s.jsonl'
    run = _make(folder, "study", f"TRACE={name}", "SKIP_BAD=1", "FORMAT=requests")
    assert f"error: {name}: no such file" in run.stderr
    assert "not found" not in run.stderr


@pytest.mark.parametrize(
    ("cache", "tokens"),
    [(None, 3200), ("5000", 4992), ("1,700", 1696), ("0.0305 GiB", 4992), ("31.232MiB", 4992)],
)
def test_cache_is_in_tokens_or_gib(cache: str | None, tokens: int) -> None:
    sizes = [1600, 3200, 6400]
    found = _Found(block_size=16, longest_tokens=1600)
    kv_cache = study.kvcache.Size("m", 0.0305 * 2**30 / 5000)
    assert study._chosen(cache, kv_cache, found, sizes, pytest.fail) == tokens  # type: ignore[arg-type]


def test_gigabytes_are_of_powers_of_1000() -> None:
    found, kv_cache = _Found(block_size=16, longest_tokens=16), study.kvcache.Size("m", 1e6)
    sizes = [16, 10**9]
    for cache, tokens in (("40GB", 40_000), ("40gib", 42_944), ("1TB", 1_000_000)):
        assert study._chosen(cache, kv_cache, found, sizes, pytest.fail) == tokens  # type: ignore[arg-type]


def test_cache_beyond_what_is_replayed_is_said_to_be() -> None:
    said: list[object] = []
    found = _Found(block_size=16, longest_tokens=1600)
    kv_cache = study.kvcache.MODELS["Qwen3-8B"]
    assert study._chosen("1e9", kv_cache, found, [1600, 6400], said.append) == 6400  # type: ignore[arg-type]
    assert "1,000,000,000 tokens of Qwen3-8B, more than the 6,400" in str(said)


class _Found:
    def __init__(self, block_size: int, longest_tokens: int) -> None:
        self.block_size, self.longest_tokens = block_size, longest_tokens


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        *((cache, "neither a number of tokens") for cache in ("many", "", "-5", "40,5", "1.2.3GB")),
        ("100", r"less than the largest request needs, 1,600 tokens \(0.22 GiB of Qwen3-8B\)"),
        ("0", "less than the largest request needs"),
    ],
)
def test_cache_that_is_none_or_too_small_is_refused(cache: str, message: str) -> None:
    found = _Found(block_size=16, longest_tokens=1600)
    with pytest.raises(HarnessError, match=message):
        study._chosen(cache, study.kvcache.MODELS["Qwen3-8B"], found, [1600], print)  # type: ignore[arg-type]
