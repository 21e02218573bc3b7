import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from workloads import datasets, quality
from workloads.file import WorkloadError

_NAME = "QuALITY.v1.0.1.htmlstripped."


def _line(article_id: str, writer: str, *questions: str, **change: Any) -> str:
    """Return one writer's questions, with the keys of the published files."""
    return json.dumps(
        {
            "article_id": article_id,
            "set_unique_id": f"{article_id}_{writer}",
            "batch_num": "23",
            "writer_id": writer,
            "source": "Gutenberg",
            "title": "A Title",
            "year": "1952",
            "author": "An Author",
            "topic": "Science fiction",
            "article": f"The article {article_id}.\n\nIts\u2028end.",
            "questions": [
                {
                    "question": question,
                    "question_unique_id": f"{article_id}_{writer}_{i}",
                    "options": ["a", "b", "c", "d"],
                    "writer_label": 1,
                    "gold_label": 1,
                    "validation": [{"untimed_annotator_id": "0001", "untimed_answer": 1}],
                    "speed_validation": [{"speed_annotator_id": "0002", "speed_answer": 2}],
                    "difficult": 0,
                }
                for i, question in enumerate(questions)
            ],
            "url": "https://example.org",
            "license": "Public domain",
        }
        | change,
        ensure_ascii=False,
    )


def _zip(folder: Path, **splits: str) -> Path:
    """Write a zip as it is published: the files with HTML are in it too."""
    path = folder / "QuALITY.v1.0.1.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for split, lines in splits.items():
            content.writestr(f"QuALITY.v1.0.1.{split}", "<p>not read</p>")
            content.writestr(f"{_NAME}{split}", lines)
    return path


def test_each_article_once_with_the_questions_of_all_its_writers(tmp_path: Path) -> None:
    path = _zip(
        tmp_path,
        test=_line("30000", "3", "E?"),
        train="\n".join([_line("20000", "1", "A?", "B?"), _line("20000", "2", "C?")]) + "\n",
        dev="\n".join([_line("10000", "1", "D?"), _line("10000", "2")]) + "\n",
    )
    entries = quality.read(path)
    assert [(entry.id, entry.questions) for entry in entries] == [
        ("20000", ("A?", "B?", "C?")),
        ("10000", ("D?",)),
        ("30000", ("E?",)),
    ]
    assert entries[0].document == "The article 20000.\n\nIts\u2028end."


@pytest.mark.parametrize(
    ("dev", "reason"),
    [
        ("{", f"{_NAME}dev, line 2: .*JSON"),
        (_line("2", "1", "B?", article=""), f"{_NAME}dev, line 2: article: "),
        (_line("2", "1", "B?", questions=[{}]), "line 2: questions.0.question: Field required"),
        (_line("", "1", "B?"), "line 2: article_id: "),
        (_line("2", "1"), "no question about article 2"),
    ],
)
def test_a_bad_line_is_refused_with_file_number_and_reason(
    tmp_path: Path, dev: str, reason: str
) -> None:
    good = _line("1", "1", "A?")
    path = _zip(tmp_path, train=good, dev=f"{good}\n{dev}\n", test=good)
    with pytest.raises(WorkloadError, match=f"{path}.*{reason}"):
        quality.read(path)


def test_a_zip_without_a_split_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path, train=_line("1", "1", "A?"), dev=_line("2", "1", "A?"))
    with pytest.raises(WorkloadError, match=f"not QuALITY v1.0.1: .*{_NAME}test"):
        quality.read(path)


def test_a_damaged_or_missing_zip_is_refused(tmp_path: Path) -> None:
    line = _line("1", "1", "A?")
    path = _zip(tmp_path, train=line, dev=line, test=line)
    whole = path.read_bytes()
    middle = whole.index(b"htmlstripped") + 60
    for damaged in (whole[:-30], b"<html>", whole[:middle] + b"\0\0\0\0" + whole[middle + 4 :]):
        path.write_bytes(damaged)
        with pytest.raises(WorkloadError, match="cannot be read"):
            quality.read(path)
    path.unlink()
    with pytest.raises(WorkloadError, match="no such file"):
        quality.read(path)


def test_the_real_articles() -> None:
    path = datasets.find("quality")
    if path is None:
        pytest.skip(f"QuALITY is not in {datasets.data_folder()}")
    entries = quality.read(path)
    assert len(entries) == len({entry.document for entry in entries}) == 381
