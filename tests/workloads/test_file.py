import json
from pathlib import Path
from typing import Any

import pytest

from workloads import file
from workloads.file import (
    BlockRequest,
    BlockWorkload,
    Header,
    TextRequest,
    TextWorkload,
    WorkloadError,
)


def _request(number: int, document: str = "a") -> TextRequest:
    return TextRequest(
        request=number,
        window=0,
        prompt_tokens=3 + number,
        output_tokens=1,
        parts=(document, "why"),
    )


@pytest.fixture
def workload() -> TextWorkload:
    requests = (_request(0), _request(1, "b"), _request(2))
    header = Header(
        content="text",
        name="w",
        seed=1,
        texts=3,
        requests=3,
        params={"n": 1},
        notes=("a note",),
        document_tokens=(2, 3),
    )
    # A line separator inside a text is no end of line.
    return TextWorkload(header, requests, {"a": "one\u2028two", "b": "three\nfour", "why": " Why?"})


@pytest.fixture
def path(tmp_path: Path, workload: TextWorkload) -> Path:
    file.write(tmp_path / "w.jsonl", workload)
    return tmp_path / "w.jsonl"


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    requests = (
        BlockRequest(
            request=0,
            session=1,
            turn=0,
            arrival_ms=0.5,
            prompt_tokens=70,
            output_tokens=2,
            runs=((0, 3), (7, 1)),
        ),
        BlockRequest(request=1, prompt_tokens=15, output_tokens=1, runs=()),
    )
    header = Header(
        content="blocks", name="w", seed=1, block_size=16, requests=2, warm_up=1, params={}
    )
    file.write(tmp_path / "b.jsonl", BlockWorkload(header, requests))
    return tmp_path / "b.jsonl"


def test_reads_what_it_wrote(path: Path, workload: TextWorkload) -> None:
    assert file.read(path) == workload
    assert list(path.parent.iterdir()) == [path]


def test_reads_blocks_that_it_wrote(blocks: Path) -> None:
    workload = file.read(blocks)
    assert isinstance(workload, BlockWorkload)
    first, second = workload.requests
    assert (first.num_blocks, list(first.blocks())) == (4, [0, 1, 2, 7])
    assert (second.num_blocks, list(second.blocks())) == (0, [])
    assert (first.session, first.turn, first.arrival_ms) == (1, 0, 0.5)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path, workload: TextWorkload) -> None:
    (tmp_path / "build").touch()
    with pytest.raises(WorkloadError, match=r"w\.jsonl: cannot be written: File exists"):
        file.write(tmp_path / "build" / "w.jsonl", workload)


def test_prompt_is_its_parts(workload: TextWorkload) -> None:
    assert workload.prompt(workload.requests[1]) == "three\nfour Why?"
    assert file.longest(workload.requests).request == 2


def test_workload_without_data_says_why(tmp_path: Path) -> None:
    header = Header(content="blocks", name="w", seed=1, requests=0, params={}, block_size=16)
    header = header.model_copy(update={"missing": "no network"})
    file.write(tmp_path / "w.jsonl", BlockWorkload(header, ()))
    assert file.read(tmp_path / "w.jsonl").header.missing == "no network"


def _edit(path: Path, number: int, **changes: object) -> None:
    lines = path.read_text().split("\n")
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | changes)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("number", "changes", "reason"),
    [
        (1, {"format": "other"}, "line 1: not a header: format"),
        (1, {"version": 1}, "line 1: not a header: version"),
        (1, {"content": "pictures"}, "line 1: not a header: content"),
        (3, {"text": "a"}, "line 3: text 'a' a second time"),
        (3, {"content": ""}, "line 3: not a text: content"),
        (5, {"parts": ["a", "z"]}, "line 5: no text 'z' in this file"),
        (5, {"parts": []}, "line 5: not a request: parts"),
        (6, {"prompt_tokens": -1}, "line 6: not a request: prompt_tokens"),
        (6, {"prompt_tokens": "7"}, "line 6: not a request: prompt_tokens"),
        (6, {"surprise": 1}, "line 6: not a request: surprise"),
        (7, {"request": 7}, "line 7: request 7 where 2 is due"),
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
    with pytest.raises(WorkloadError, match=r"8 lines, but its header promises 7"):
        file.read(path)


@pytest.mark.parametrize(
    ("number", "changes", "reason"),
    [
        (1, {"block_size": None}, "line 1: not a header: block_size: missing"),
        (2, {"runs": [[0, 3]]}, "line 2: 3 blocks where 70 tokens have 4 full ones"),
        (2, {"runs": [[0, 3], [7, 0]]}, "line 2: not a request: runs.1.1"),
        (2, {"runs": [[-1, 4]]}, "line 2: not a request: runs.0.0"),
        (2, {"arrival_ms": float("nan")}, "line 2: not a request: arrival_ms"),
        (3, {"request": 0}, "line 3: request 0 where 1 is due"),
    ],
)
def test_bad_line_of_blocks_is_refused(
    blocks: Path, number: int, changes: dict[str, Any], reason: str
) -> None:
    _edit(blocks, number, **changes)
    with pytest.raises(WorkloadError, match=reason):
        file.read(blocks)
