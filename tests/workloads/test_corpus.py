import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from workloads import corpus, datasets
from workloads.corpus import Entry, LengthLaw
from workloads.file import WorkloadError


def _lines(*entries: dict[str, Any]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


_A = {"id": "a", "document": "x y z", "questions": ["Who?", "What?"]}


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz"])
def test_reads_plain_and_gzip(tmp_path: Path, name: str) -> None:
    content = _lines(_A, _A | {"id": "b", "split": "extra keys are fine"}).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert [entry.id for entry in corpus.read(tmp_path / name)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_lines(_A, {"id": "b", "document": "x"}), "line 2: questions: Field required"),
        (_lines(_A, _A | {"id": "b", "questions": []}), "line 2: questions"),
        (_lines(_A) + "{", "line 2: .*JSON"),
        (_lines(_A, _A), "2 documents with 1 different ids"),
        ("", "an empty file"),
    ],
)
def test_bad_line_is_refused_with_number_and_reason(
    tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(WorkloadError, match=reason):
        corpus.read(tmp_path / "c.jsonl")


@pytest.mark.parametrize("ids", [(0, 1), ("0", "1")])
def test_documents_may_be_counted(tmp_path: Path, ids: tuple[Any, Any]) -> None:
    content = _lines(*(_A | {"id": name} for name in ids))
    (tmp_path / "c.jsonl").write_text("\ufeff" + content.replace("\n", "\r\n") + "\n", newline="")
    assert [entry.id for entry in corpus.read(tmp_path / "c.jsonl")] == ["0", "1"]


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(_lines(_A).encode() * 999)[:-20])
    with pytest.raises(WorkloadError, match="cut off or damaged"):
        corpus.read(tmp_path / "c.jsonl.gz")


def test_resize_cuts_pieces_that_share_nothing(word_tokenizer: Any) -> None:
    entries = [
        Entry(id=name, document=" ".join(f"{name}{i}" for i in range(100)), questions=("Q?",))
        for name in "abc"
    ]
    law = LengthLaw(mean=30, sd=3, shortest=20, longest=40)
    pieces = corpus.resize(entries, 8, law, word_tokenizer, random.Random(0))
    words = [word for piece in pieces for word in piece.document.split()]
    assert len(words) == len(set(words))
    assert sum(len(p.document.split()) for p in pieces) / 8 == pytest.approx(30, abs=1)
    with pytest.raises(WorkloadError, match=r"text for .* documents .* not 20"):
        corpus.resize(entries, 20, law, word_tokenizer, random.Random(0))


def test_shrink_keeps_the_front_of_each_document(word_tokenizer: Any) -> None:
    entries = [
        Entry(id=name, document=" ".join(f"{name}{i}" for i in range(length)), questions=("Q?",))
        for name, length in (("a", 100), ("b", 33))
    ]
    assert corpus.shrink(entries, 2, 1.0, word_tokenizer) == entries
    assert corpus.shrink(entries, 1, 1.0, word_tokenizer) == entries[:1]
    for whole, part in zip(entries, corpus.shrink(entries, 2, 0.1, word_tokenizer), strict=True):
        assert whole.document.startswith(part.document + " ")
        assert len(part.document.split()) == round(0.1 * len(whole.document.split()))
        assert part.questions == whole.questions
    with pytest.raises(WorkloadError, match="has 2 documents, not 3"):
        corpus.shrink(entries, 3, 1.0, word_tokenizer)


def test_qmsum_fills_quality(tiny_model: Path) -> None:
    from harness import model

    path = datasets.find("qmsum")
    if path is None:
        pytest.skip("the QMSum corpus is not in the data folder")
    tokenizer = model.load_tokenizer(str(tiny_model))
    law = LengthLaw(mean=721, sd=162, shortest=250, longest=1187)
    pieces = corpus.resize(corpus.read(path), 381, law, tokenizer, random.Random(0))
    lengths = [len(tokenizer.encode(piece.document)) for piece in pieces]
    assert sum(lengths) / len(lengths) == pytest.approx(721, rel=0.02)
