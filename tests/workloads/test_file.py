import json
from pathlib import Path

import pytest

from workloads import file
from workloads.file import Header, Request, Workload, WorkloadError


def _request(number: int, document: str = "a") -> Request:
    return Request(
        request=number,
        window=0,
        document=document,
        question="Why?",
        prompt_tokens=3 + number,
        output_tokens=1,
    )


@pytest.fixture
def workload() -> Workload:
    requests = (_request(0), _request(1, "b"), _request(2))
    header = Header(name="w", seed=1, tokenizer="x", documents=2, requests=3, params={"n": 1})
    # A line separator inside a text is no end of line.
    return Workload(header, {"a": "one\u2028two", "b": "three\nfour"}, requests)


@pytest.fixture
def path(tmp_path: Path, workload: Workload) -> Path:
    file.write(tmp_path / "w.jsonl", workload)
    return tmp_path / "w.jsonl"


def test_reads_what_it_wrote(path: Path, workload: Workload) -> None:
    assert file.read(path) == workload
    assert list(path.parent.iterdir()) == [path]


def test_prompt_is_document_space_question(workload: Workload) -> None:
    assert workload.prompt(workload.requests[1]) == "three\nfour Why?"
    assert workload.longest.request == 2


def _edit(path: Path, number: int, **changes: object) -> None:
    lines = path.read_text().split("\n")
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | changes)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("number", "changes", "reason"),
    [
        (1, {"format": "other"}, "line 1: not a header: format"),
        (1, {"version": 2}, "line 1: not a header: version"),
        (3, {"document": "a"}, "line 3: document 'a' a second time"),
        (3, {"text": ""}, "line 3: not a document: text"),
        (4, {"document": "z"}, "line 4: no document 'z' in this file"),
        (5, {"prompt_tokens": -1}, "line 5: not a request: prompt_tokens"),
        (5, {"prompt_tokens": "7"}, "line 5: not a request: prompt_tokens"),
        (5, {"surprise": 1}, "line 5: not a request: surprise"),
        (6, {"request": 7}, "line 6: request 7 where 2 is due"),
    ],
)
def test_bad_line_is_refused_with_number_and_reason(
    path: Path, number: int, changes: dict[str, object], reason: str
) -> None:
    _edit(path, number, **changes)
    with pytest.raises(WorkloadError, match=reason) as raised:
        file.read(path)
    assert str(path) in str(raised.value)


def test_every_truncation_is_refused(path: Path) -> None:
    content = path.read_bytes()
    # All but the last line end, without which the last line is still whole.
    for length in range(len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(WorkloadError):
            file.read(path)


def test_missing_and_appended_files_are_refused(path: Path) -> None:
    with pytest.raises(WorkloadError, match="no such workload file"):
        file.read(path.with_name("none.jsonl"))
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(WorkloadError, match=r"7 lines, but its header promises 6"):
        file.read(path)
