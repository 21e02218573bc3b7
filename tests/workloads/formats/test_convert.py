import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workloads.file import BlockWorkload, WorkloadError
from workloads.formats import convert as converting
from workloads.formats.convert import convert
from workloads.formats.cutting import Cutter
from workloads.formats.registry import recognise
from workloads.formats.source import records
from workloads.trace import Trace, build

_KEY = b"k" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def _conversations(count: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    words = ["secret", "words", "of", "people"]

    def said(i: int) -> dict[str, str]:
        text = " ".join(rng.choices(words, k=rng.randint(1, 30)))
        return {"role": ("user", "assistant")[i % 2], "content": text}

    return [
        {
            "conversation_id": f"name{i}",
            "tstamp": 1.7e9 + 10 * i,
            "conversation": [said(turn) for turn in range(5)],
        }
        for i in range(count)
    ]


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _convert(
    path: Path, target: Path, tokenizer: Any, key: bytes = _KEY, **given: Any
) -> list[str]:
    def cutter() -> Cutter:
        return Cutter(tokenizer, 4, key)

    return convert(path, target, recognise(path), cutter, key, **given)


def _built(path: Path, tokenizer: Any, **params: Any) -> BlockWorkload:
    params = {"output_tokens": "trace"} | params
    return build("w", Trace(path=str(path), **params), 0, path, 4, lambda: tokenizer)


@pytest.mark.parametrize("name", ["new.jsonl", "new.jsonl.gz", "new.jsonl.zst"])
def test_what_is_converted_is_the_same_workload(
    path: Path, tmp_path: Path, word_tokenizer: Any, name: str
) -> None:
    _write(path, _conversations(20))
    target = tmp_path / "new folder" / name
    assert _convert(path, target, word_tokenizer) == ["60 requests in ids of 4 tokens"]
    old, new = _built(path, word_tokenizer), _built(target, None)
    for one, other in zip(old.requests, new.requests, strict=True):
        assert one.arrival_ms == pytest.approx(other.arrival_ms, abs=0.01)
        assert one == replace(other, arrival_ms=one.arrival_ms)
    text = b"".join(json.dumps(record).encode() for _, record in records(target))
    for told in (b"secret", b"people", b"name", b"1700000000", b"user"):
        assert told not in text
    assert [*target.parent.iterdir()] == [target]


def _ids(line: bytes) -> list[int]:
    found: list[int] = json.loads(line)["hash_ids"]
    return found


def test_same_key_makes_the_same_file_and_another_shares_no_id(
    path: Path, tmp_path: Path, word_tokenizer: Any
) -> None:
    _write(path, _conversations(3))
    targets = [tmp_path / f"{name}.gz" for name in "abc"]
    for target, key in zip(targets, (_KEY, _KEY, b"x" * 32), strict=True):
        _convert(path, target, word_tokenizer, key)
    assert targets[0].read_bytes() == targets[1].read_bytes()
    one, _, other = (
        {i for line in gzip.decompress(target.read_bytes()).splitlines() for i in _ids(line)}
        for target in targets
    )
    assert one
    assert not one & other


def test_ids_are_hashed_too(path: Path, tmp_path: Path) -> None:
    line = {"timestamp": 5, "input_length": 70, "output_length": 3}
    _write(path, [line | {"hash_ids": ids} for ids in ([1, 2, 3], [1, 2, 4], [2, 1, 3])])
    _convert(path, tmp_path / "new", None)
    old, new = (_built(p, None, id_tokens=32) for p in (path, tmp_path / "new"))
    assert old.requests == new.requests
    lines = [json.loads(line) for line in (tmp_path / "new").read_text().splitlines()]
    assert [line["hash_ids"][0] for line in lines[:2]] == [lines[0]["hash_ids"][0]] * 2
    assert {line["block_size"] for line in lines} == {32}
    assert lines[0]["timestamp"] == 0
    assert all(i > 100 for line in lines for i in line["hash_ids"])


def test_progress_is_reported(
    path: Path, tmp_path: Path, word_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "_PROGRESS_SECONDS", 0)
    _write(path, _conversations(2))
    said: list[str] = []
    _convert(path, tmp_path / "new", word_tokenizer, report=said.append)
    assert said[-1] == "log.jsonl: 6 of 6 requests"


def test_bad_records_are_found_before_anything_is_tokenized(path: Path, tmp_path: Path) -> None:
    _write(path, [*_conversations(2), {"conversation": 7}])
    with pytest.raises(WorkloadError, match="line 3: conversation: 7"):
        _convert(path, tmp_path / "new", None)
    assert [*tmp_path.iterdir()] == [path]


def test_nothing_is_left_of_a_failure(path: Path, tmp_path: Path, word_tokenizer: Any) -> None:
    _write(path, _conversations(2))

    class Breaks:
        start = ()

        def encode_all(self, texts: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _convert(path, tmp_path / "new", Breaks())
    assert [*tmp_path.iterdir()] == [path]
    with pytest.raises(WorkloadError, match="is the log itself"):
        _convert(path, path, word_tokenizer)
    with pytest.raises(WorkloadError, match="cannot be written"):
        _convert(path, path / "below", word_tokenizer)


def test_bad_records_that_are_left_out_are_said(
    path: Path, tmp_path: Path, word_tokenizer: Any
) -> None:
    _write(path, [*_conversations(2), {"conversation": 7}, {"conversation": []}])
    notes = _convert(path, tmp_path / "new", word_tokenizer, skip_bad=1)
    assert [note.split(":")[0] for note in notes] == [
        "6 requests in ids of 4 tokens",
        "conversations in which a user says nothing left out",
        "bad records left out",
    ]


def test_lengths_alone_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,374,44\n")
    with pytest.raises(WorkloadError, match="nothing can be said of what requests have in common"):
        _convert(path, tmp_path / "new", None)
