import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workloads import datasets, file, trace
from workloads.file import BlockWorkload, WorkloadError
from workloads.trace import Trace

_ID_TOKENS = {"mooncake": 512, "bailian": 16}

Line = dict[str, Any]
Build = Callable[..., BlockWorkload]


def _mooncake(ids: list[int], timestamp: float = 0, tokens: int | None = None) -> Line:
    return {
        "timestamp": timestamp,
        "input_length": 512 * len(ids) if tokens is None else tokens,
        "output_length": 7,
        "hash_ids": ids,
    }


def _bailian(
    ids: list[int], chat: int = 1, parent: int = -1, turn: int = 1, tokens: int | None = None
) -> Line:
    return {
        "chat_id": chat,
        "parent_chat_id": parent,
        "timestamp": 0.5,
        "input_length": 16 * len(ids) if tokens is None else tokens,
        "output_length": 0,
        "type": "text",
        "turn": turn,
        "hash_ids": ids,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


@pytest.fixture
def build(path: Path) -> Build:
    def build(lines: list[Line], block_size: int = 16, **params: Any) -> BlockWorkload:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        form = "bailian" if lines and "chat_id" in lines[0] else "mooncake"
        params = {"dataset": "d", "format": form} | params
        return trace.build("w", Trace(**params), 3, path, block_size)

    return build


def _blocks(workload: BlockWorkload) -> list[list[int]]:
    return [list(request.blocks()) for request in workload.requests]


def test_an_id_becomes_the_full_blocks_it_is_made_of(build: Build) -> None:
    lines = [_mooncake([0, 5], tokens=700), _mooncake([0, 6, 7], tokens=1030)]
    # 700 tokens are 5 full blocks of 128, 1030 are 8; the id 7 has 6 tokens and no full block.
    # Ids are numbered as they come: 0, 5, 6, 7 are 0, 1, 2, 3.
    assert [r.runs for r in build(lines, 128).requests] == [((0, 5),), ((0, 4), (8, 4))]
    assert [r.runs for r in build(lines, 512).requests] == [((0, 1),), ((0, 1), (2, 1))]


def _random_lines(rng: random.Random, form: str) -> list[Line]:
    """Make requests that each go on from somewhere inside an earlier one."""
    size = _ID_TOKENS[form]
    chains: list[list[int]] = [[]]
    new = 0
    lines = []
    for number in range(60):
        before = rng.choice(chains)
        ids = before[: rng.randint(0, len(before))]
        for _ in range(rng.randint(1, 5)):
            new += rng.choice((1, 1, 1, 4))
            ids.append(new)
        tokens = len(ids) * size - rng.choice((0, rng.randrange(size)))
        # What is not full is the last block of this request alone.
        chains.append(ids if tokens % size == 0 else ids[:-1])
        lines.append(
            _mooncake(ids, number, tokens)
            if form == "mooncake"
            else _bailian(ids, number, tokens=tokens)
        )
    return lines


@pytest.mark.parametrize("block_size", [1, 4, 16, 128, 512])
@pytest.mark.parametrize("seed", range(5))
def test_as_written_out_one_by_one(build: Build, seed: int, block_size: int) -> None:
    form = "bailian" if block_size <= 16 and seed % 2 else "mooncake"
    lines = _random_lines(random.Random(seed), form)
    per_id = _ID_TOKENS[form] // block_size
    workload = build(lines, block_size)
    # An id has one before it, so new ids are the same ids in order of appearance.
    order = list(dict.fromkeys(block for line in lines for block in line["hash_ids"]))
    for line in lines:
        line["hash_ids"] = [order.index(block) for block in line["hash_ids"]]
    for line, request, blocks in zip(lines, workload.requests, _blocks(workload), strict=True):
        every = [block * per_id + sub for block in line["hash_ids"] for sub in range(per_id)]
        assert blocks == every[: line["input_length"] // block_size]
        assert request.prompt_tokens == line["input_length"]


def test_workload_file_keeps_it(build: Build, path: Path) -> None:
    workload = build(_random_lines(random.Random(9), "bailian"), warm_up=2)
    file.write(path.with_name("w.jsonl"), workload)
    assert file.read(path.with_name("w.jsonl")) == workload
    header = workload.header
    assert (header.seed, header.block_size, header.requests, header.warm_up) == (3, 16, 60, 2)


@pytest.mark.parametrize("line", [_bailian, _mooncake])
def test_a_block_is_its_id_and_all_before_it(build: Build, line: Callable[..., Line]) -> None:
    lines = [line(ids) for ids in ([7, 8, 7], [8, 7], [7, 8, 9], [7, 7], [7, 8, 7])]
    numbers = [[0, 1, 2], [3, 4], [0, 1, 5], [0, 6], [0, 1, 2]]
    assert _blocks(build(lines, 16 if line is _bailian else 512)) == numbers


def test_times_are_in_milliseconds_from_the_first(build: Build) -> None:
    _, mooncake = build([_mooncake([0], 1000), _mooncake([0], 28001)]).requests
    assert (mooncake.arrival_ms, mooncake.session, mooncake.turn) == (27001, None, None)
    # 61.114 * 1000 would be 61114.00000000001.
    first, second = (_bailian([0]) | {"timestamp": time} for time in (0, 61.114))
    assert build([first, second]).requests[1].arrival_ms == 61114


def test_session_is_the_first_chat_it_goes_back_to(build: Build) -> None:
    chats = [(10, -1, 1), (11, 10, 2), (20, 99, 4), (12, 11, 3), (13, 10, 2), (21, 20, 5)]
    lines = [_bailian([i], chat, parent, turn) for i, (chat, parent, turn) in enumerate(chats)]
    requests = build(lines).requests
    assert [r.session for r in requests] == [0, 0, 1, 0, 0, 1]
    assert [r.turn for r in requests] == [1, 2, 4, 3, 2, 5]


def test_session_goes_through_a_request_that_is_left_out(build: Build) -> None:
    lines = [_bailian([1], 10), _bailian([1, 2, 3], 11, 10), _bailian([1], 12, 11)]
    requests = build(lines, length_max=16).requests
    assert [(r.session, r.turn) for r in requests] == [(0, 1), (0, 1)]


def test_leaves_out_the_long_and_what_is_after_the_first(build: Build) -> None:
    lines = [_mooncake([0, *range(i * 10, i * 10 + i)]) for i in range(1, 6)]
    workload = build(lines, length_max=512 * 4, requests=2, warm_up=1)
    assert [r.prompt_tokens for r in workload.requests] == [2 * 512, 3 * 512]
    assert [r.request for r in workload.requests] == [0, 1]
    assert workload.header.notes[1:] == ("requests left out, after the first 2: 3",)
    workload = build(lines, length_max=512 * 4)
    assert [r.prompt_tokens for r in workload.requests] == [2 * 512, 3 * 512, 4 * 512]
    assert workload.header.notes[1:] == ("requests left out, of over 2048 tokens: 2",)
    assert len(build(lines).header.notes) == 1


@pytest.mark.parametrize("limits", [{"warm_up": 2}, {"warm_up": 1, "requests": 1}])
def test_warm_up_that_leaves_nothing_is_refused(build: Build, limits: dict[str, int]) -> None:
    with pytest.raises(WorkloadError, match=r"warm-up leave none: lower `warm_up`"):
        build([_mooncake([0]), _mooncake([0])], **limits)
    with pytest.raises(WorkloadError, match="0 requests"):
        build([_mooncake([0])], length_max=1)


def test_output_tokens_are_set_or_of_the_trace(build: Build) -> None:
    lines = [_bailian([0]), _bailian([0]) | {"output_length": 40}]
    assert [r.output_tokens for r in build(lines).requests] == [1, 1]
    assert [r.output_tokens for r in build(lines, output_tokens=9).requests] == [9, 9]
    assert [r.output_tokens for r in build(lines, output_tokens="trace").requests] == [1, 40]


@pytest.mark.parametrize("block_size", [48, 1024])
def test_ids_must_be_whole_blocks(build: Build, block_size: int) -> None:
    with pytest.raises(WorkloadError, match="512 tokens are not a whole number of blocks of"):
        build([_mooncake([0])], block_size)


def test_bailian_may_lack_the_id_of_a_last_block_that_is_not_full(build: Build) -> None:
    for ids in ([4, 5], [4, 5, 6]):
        assert _blocks(build([_bailian(ids, tokens=44)])) == [[0, 1]]
    assert _blocks(build([_bailian([], tokens=3)])) == [[]]
    # Smaller blocks may be full that have no id.
    with pytest.raises(WorkloadError, match="line 1: no id for the last full block of 8 tokens"):
        build([_bailian([4, 5], tokens=44)], 8)
    assert len(_blocks(build([_bailian([4, 5], tokens=39)], 8))[0]) == 4


_GOOD = _mooncake([0, 1], timestamp=5)
_CHAT = _bailian([0, 1])


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (_GOOD, [_GOOD], "should be an object"),
        (_GOOD, 7, "should be an object"),
        (_GOOD, {k: v for k, v in _GOOD.items() if k != "hash_ids"}, "hash_ids: missing"),
        (_GOOD, _GOOD | {"hash_ids": [0, 1.5]}, r"hash_ids\.1: 1\.5 is no id"),
        (_GOOD, _GOOD | {"hash_ids": [0, True]}, r"hash_ids\.1: True is no id"),
        (_GOOD, _GOOD | {"hash_ids": [0, [1]]}, r"hash_ids\.1: \[1\] is no id"),
        (_GOOD, _GOOD | {"hash_ids": None}, "hash_ids: "),
        (_GOOD, _GOOD | {"input_length": 0}, "input_length: "),
        (_GOOD, _GOOD | {"input_length": -1024}, "input_length: "),
        (_GOOD, _GOOD | {"input_length": float("nan")}, "input_length: "),
        (_GOOD, _GOOD | {"input_length": 1024.5}, "input_length: 1024.5 where a whole number"),
        (_GOOD, _GOOD | {"input_length": True}, "input_length: "),
        (_GOOD, _GOOD | {"output_length": -1}, "output_length: "),
        (_GOOD, _GOOD | {"output_length": float("inf")}, "output_length: "),
        (_GOOD, _GOOD | {"timestamp": float("nan")}, "timestamp: "),
        (_GOOD, _GOOD | {"timestamp": float("inf")}, "timestamp: "),
        (_GOOD, _GOOD | {"timestamp": -1}, "timestamp: "),
        (_GOOD, _GOOD | {"timestamp": True}, "timestamp: "),
        (_GOOD, _GOOD | {"timestamp": "yesterday"}, r"timestamp: 'yesterday' is no time"),
        (_CHAT, _CHAT | {"parent_chat_id": -2}, "parent_chat_id: "),
        (_CHAT, _CHAT | {"chat_id": "x"}, "chat_id: "),
        (_GOOD, _GOOD | {"input_length": 1536}, "2 ids where 1536 tokens have 3"),
        (_GOOD, _GOOD | {"input_length": 512}, "2 ids where 512 tokens have 1"),
        (_CHAT, _CHAT | {"input_length": 48}, "2 ids where 48 tokens have 3"),
        (_CHAT, _CHAT | {"input_length": 16}, "2 ids where 16 tokens have 1"),
    ],
)
def test_bad_line_is_refused_with_number_and_reason(
    build: Build, path: Path, good: Line, bad: Any, reason: str
) -> None:
    build([good, good])
    with pytest.raises(WorkloadError, match=f"line 3: .*{reason}") as raised:
        build([good, good, bad])
    assert str(path) in str(raised.value)


def test_bad_line_is_refused_even_if_it_would_be_left_out(build: Build) -> None:
    with pytest.raises(WorkloadError, match="line 3"):
        build([_GOOD, _GOOD, _GOOD | {"input_length": 0}], requests=1)


def test_keys_that_are_not_known_are_allowed(build: Build) -> None:
    assert build([_GOOD | {"user": "x"}]) == build([_GOOD])


def test_every_truncation_within_a_line_is_refused(path: Path) -> None:
    content = "".join(json.dumps(line) + "\n" for line in (_GOOD, _mooncake([0, 1, 2], 6)))
    params = Trace(dataset="d", format="mooncake")
    first = content.index("\n") + 1
    for length in range(first + 1, len(content) - 1):
        path.write_text(content[:length])
        with pytest.raises(WorkloadError, match=r"line 2: not JSON"):
            trace.build("w", params, 0, path, 16)


def test_a_file_that_is_no_trace_is_refused(path: Path) -> None:
    params = Trace(dataset="d", format="mooncake")
    for content, reason in (
        (None, "no such file"),
        (b"", "an empty file"),
        (b"\n", "an empty file"),
        (json.dumps(_GOOD).encode() + b"\n\xff\n", "line 2: not UTF-8"),
        (json.dumps(_GOOD | {"user": "é"}, ensure_ascii=False).encode("latin-1"), "not UTF-8"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(WorkloadError, match=reason):
            trace.build("w", params, 0, path, 16)
    with pytest.raises(WorkloadError, match="is a folder"):
        trace.build("w", params, 0, path.parent, 16)


@pytest.mark.parametrize("kind", ["int", "text", "hash"])
@pytest.mark.parametrize("id_tokens", [16, 48, 64, 128])
def test_tokens_an_id_are_found_out_from_the_lengths(
    build: Build, id_tokens: int, kind: str
) -> None:
    lines = _random_lines(random.Random(id_tokens), "mooncake")
    names = {"int": int, "text": lambda i: f"{i:x}" * 9, "hash": lambda i: 2**63 + 977 * i}
    for line in lines:
        partial = -line["input_length"] % 512
        line["input_length"] = len(line["hash_ids"]) * id_tokens - partial * id_tokens // 512
    plain = build(lines, id_tokens, id_tokens=id_tokens)
    for line in lines:
        line["hash_ids"] = [names[kind](i) for i in line["hash_ids"]]  # type: ignore[operator]
    found = build(lines, id_tokens)
    assert found.requests == plain.requests
    assert found.header.notes[1:] == (f"ids of {id_tokens} tokens, as the log or its lengths say",)


def test_ids_as_large_as_hashes_become_small(build: Build) -> None:
    workload = build([_mooncake([2**64 - 1, 2**63, 5]), _mooncake([2**64 - 1, 7])])
    assert max(sum(run) for r in workload.requests for run in r.runs) == 4 * 32


def test_bad_records_are_left_out_and_counted(build: Build) -> None:
    lines = [_mooncake([0]), {}, _mooncake([0, 1], tokens=9), _mooncake([0])]
    workload = build(lines, skip_bad=2)
    assert len(workload.requests) == 2
    assert workload.header.notes[1].startswith("bad records left out: 2, the first at line 2: ")
    with pytest.raises(WorkloadError, match=r"line 3: .* \(bad record 2; skip_bad allows 1\)"):
        build(lines, skip_bad=1)
    with pytest.raises(WorkloadError, match="no request in it can be used; bad records left out"):
        build(lines[1:3], skip_bad=2, id_tokens=512)


def test_a_log_is_recognised_and_sorted(path: Path) -> None:
    lines = [_mooncake([i], timestamp=time) for i, time in enumerate((30, 10, 20))]
    path.write_text("\ufeff" + json.dumps(lines, indent=1))
    workload = trace.build("w", Trace(path=str(path)), 0, path, 512)
    assert [r.arrival_ms for r in workload.requests] == [0, 10, 20]
    assert _blocks(workload) == [[1], [2], [0]]
    assert workload.header.notes[1] == "the log was recognised: mooncake"
    assert "not in the order of time" in workload.header.notes[2]


def test_times_of_another_log(path: Path, tmp_path: Path) -> None:
    path.write_text("".join(json.dumps(_mooncake([i])) + "\n" for i in range(3)))
    other = tmp_path / "times.csv"
    rows = "".join(f"{5 + i * i},m,1,1,2,x\n" for i in (0, 2, 1))
    other.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + rows
    )
    params = Trace(path=str(path), times=str(other))
    requests = trace.build("w", params, 0, path, 512).requests
    assert [r.arrival_ms for r in requests] == [0, 1000, 4000]
    path.write_text(path.read_text() * 2)
    with pytest.raises(WorkloadError, match=r"times.csv: 3 times, for 6 requests: lower"):
        trace.build("w", params, 0, path, 512)
    with pytest.raises(WorkloadError, match=r"no workload for a cache\. Name it as `times` of"):
        trace.build("w", Trace(path=str(other)), 0, other, 512)


def test_text_is_cut_into_the_engines_blocks(path: Path, word_tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "a b c d e f"}]
    path.write_text(
        "".join(json.dumps({"messages": messages, "output_length": 5}) + "\n" for _ in "ab")
    )
    params = Trace(path=str(path), output_tokens="trace")
    workload = trace.build("w", params, 0, path, 2, lambda: word_tokenizer)
    assert [r.output_tokens for r in workload.requests] == [5, 5]
    tokens = workload.requests[0].prompt_tokens
    assert _blocks(workload) == [list(range(tokens // 2))] * 2
    with pytest.raises(WorkloadError, match="needs the tokenizer of a model"):
        trace.build("w", params, 0, path, 2)


def test_made_up_times_are_of_the_seed(path: Path, word_tokenizer: Any) -> None:
    said = [{"from": who, "value": "x"} for who in ("human", "gpt", "human")]
    path.write_text(json.dumps([{"conversations": said}] * 9))

    def times(seed: int) -> list[float | None]:
        params = Trace(path=str(path))
        workload = trace.build("w", params, seed, path, 2, lambda: word_tokenizer)
        assert any("the seed decides them" in note for note in workload.header.notes)
        assert not any("changes nothing" in note for note in workload.header.notes)
        return [r.arrival_ms for r in workload.requests]

    assert times(1) == times(1) != times(2)


def test_real_mooncake() -> None:
    path = datasets.find("mooncake")
    if path is None:
        pytest.skip(f"mooncake is not in {datasets.data_folder()}")
    params = Trace(dataset="mooncake", format="mooncake", length_max=50_000)
    workload = trace.build("w", params, 0, path, 16)
    assert len(workload.requests) == 12_031 - 407
    assert workload.header.notes[1:] == ("requests left out, of over 50000 tokens: 407",)
    assert workload.requests[-1].arrival_ms == 3_536_999
    with path.open() as file:
        lines = [line for line in map(json.loads, file) if line["input_length"] <= 50_000]
    for line, request in list(zip(lines, workload.requests, strict=True))[::50]:
        every = [block * 32 + sub for block in line["hash_ids"] for sub in range(32)]
        assert list(request.blocks()) == every[: line["input_length"] // 16]
    # All begin with the same system prompt; nothing else is known of it.
    assert {request.runs[0][0] for request in workload.requests} == {0}
