"""The formats of text: what prompt, time, session and answer each record has."""

from typing import Any

import pytest

from workloads.formats.asked import Asked, BadRecord, Text, TokenIds, Unusable
from workloads.formats.registry import FORMATS


def _read(name: str, record: dict[str, Any]) -> list[Asked]:
    assert next(form.name for form in FORMATS.values() if form.fits(record)) == name
    return list(FORMATS[name].read(record))


def _prompts(name: str, record: dict[str, Any]) -> list[str]:
    texts = []
    for asked in _read(name, record):
        assert isinstance(asked.prompt, Text)
        texts.append("".join(asked.prompt.parts))
    return texts


def _said(*messages: tuple[str, str]) -> str:
    whole = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages)
    return f"{whole}<|im_start|>assistant\n"


_CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
_ASKED = _said(("system", "Be brief."), ("user", "hi"))


@pytest.mark.parametrize(
    "record",
    [
        {"messages": _CHAT},
        {"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages": _CHAT}},
        {"request": {"model": "m", "messages": _CHAT}, "response": None},
        {"request_body": '{"messages": [{"role": "system", "content": "Be brief."}, '
         '{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}'},
        {"payload": {"body": {"messages": _CHAT}}},
        {"session_id": "s", "input": _CHAT, "pre_gap": 1.5},
        {"instructions": "Be brief.", "input": _CHAT[1:]},
    ],
)  # fmt: skip
def test_messages_wherever_they_are(record: dict[str, Any]) -> None:
    assert _prompts("requests", record) == [_ASKED]


def test_what_a_chat_says_besides() -> None:
    record = {
        "timestamp": "2026-01-01T00:00:00Z",
        "session_id": "s",
        "delay": 20,
        "body": {"messages": [*_CHAT, {"role": "assistant", "content": "Hi!"}]},
        "response": {"body": {"usage": {"completion_tokens": 9}}},
    }
    (asked,) = _read("requests", record)
    assert asked.prompt == _read("requests", {"messages": _CHAT})[0].prompt
    assert asked.time == 1_767_225_600_000
    assert (asked.session, asked.delay, asked.output_tokens) == ("s", 20, 9)
    assert asked.reply == "Hi!<|im_end|>\n"
    (asked,) = _read("requests", {"input": _CHAT, "pre_gap": 1.5, "output_length": 4})
    assert (asked.delay, asked.output_tokens) == (1500, 4)


def test_tools_and_calls_and_images_are_of_the_prompt() -> None:
    def prompt(**changes: Any) -> str:
        call = {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}
        image = {"type": "image_url", "image_url": {"url": changes.pop("url", "data:1")}}
        last = {"role": "user", "content": [image]}
        record = {"messages": [*_CHAT, call, last], "tools": [{"name": "f"}]}
        return _prompts("requests", record | changes)[0]

    assert prompt() == prompt()
    assert len({prompt(), prompt(url="data:2"), prompt(tools=[{"name": "g"}])}) == 3


@pytest.mark.parametrize(
    ("record", "prompts"),
    [
        ({"prompt": "Why?", "output_tokens": 10}, ["Why?"]),
        ({"text_input": "Hello", "timestamp": 1}, ["Hello"]),
        ({"text": "Hello"}, ["Hello"]),
        ({"system_prompt": "S ", "question": "Q"}, ["S Q"]),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
        ({"body": {"prompt": "Say it."}}, ["Say it."]),
        ({"timestamp": 17e14, "input": "in", "output": "out", "session_id": "a"}, ["in"]),
    ],
)
def test_prompts_under_all_their_names(record: dict[str, Any], prompts: list[str]) -> None:
    assert _prompts("requests", record) == prompts


def test_prompts_as_ids_of_tokens() -> None:
    (asked,) = _read("requests", {"prompt": [1, 2, 3], "max_tokens": 99})
    assert asked.prompt == TokenIds((1, 2, 3))
    assert asked.output_tokens is None
    first, second = _read("requests", {"prompt": [[1], [2, 3]]})
    assert (first.prompt, second.prompt) == (TokenIds((1,)), TokenIds((2, 3)))


@pytest.mark.parametrize(
    ("who", "what", "two"),
    [
        ("from", "value", ("human", "gpt")),
        ("role", "content", ("user", "assistant")),
        ("from", "text", ("Human", "chatgpt")),
    ],
)
@pytest.mark.parametrize("key", ["conversations", "conversation", "items"])
def test_each_turn_of_a_conversation_is_a_request(
    key: str, who: str, what: str, two: tuple[str, str]
) -> None:
    def record(*said: str | None, first: int = 0) -> dict[str, Any]:
        return {key: [{who: two[(first + i) % 2], what: text} for i, text in enumerate(said)]}

    one, other = _read("conversations", record("a", "b", "c"))
    assert one.session == other.session is not None
    assert (one.turn, other.turn) == (0, 1)
    assert (one.reply, other.reply) == ("b<|im_end|>\n", None)
    prompts = [_said(("user", "a")), _said(("user", "a"), ("assistant", "b"), ("user", "c"))]
    assert _prompts("conversations", record("a", "b", "c")) == prompts
    # An answer to what is not there, and what comes after a message that is empty.
    assert _prompts("conversations", record("x", "a", "b", "c", first=1)) == prompts
    assert _prompts("conversations", record("a", None, "c")) == prompts[:1]
    assert _prompts("conversations", record("a", "b", " ")) == prompts[:1]
    for nothing in (record(), record(None, "b"), record("b", first=1)):
        with pytest.raises(Unusable, match="in which a user says nothing"):
            _read("conversations", nothing)


def test_times_of_conversations() -> None:
    said = [{"role": role, "content": "x"} for role in ("system", "user", "assistant", "user")]
    (first, second) = _read("conversations", {"tstamp": 1.7e9, "conversation": said})
    assert (first.time, second.time) == (1.7e12, None)
    # Those of messages, where they have them: that of the answer, where the question has none.
    own = [said[0], said[1], said[2] | {"timestamp": "1970-01-02"}, said[3] | {"timestamp": 5}]
    (first, second) = _read("conversations", {"timestamp": 1.7e9, "conversation": own})
    assert (first.time, second.time) == (86_400_000, 5)


def test_turns_have_those_before_them() -> None:
    record = {
        "session_id": "a",
        "turns": [{"text": "x", "timestamp": 7}, {"text": "y", "delay": 9}],
    }
    first, second = _read("turns", record)
    assert (first.time, first.delay, second.time, second.delay) == (7, None, None, 9)
    assert (first.session, second.session, second.turn) == ("a", "a", 1)
    one, other = _prompts("turns", record)
    assert other.startswith(one)


def test_each_question_about_a_document_is_a_request() -> None:
    record = {"id": 0, "document": "D. ", "questions": ["A?", "B?"]}
    assert _prompts("documents", record) == ["D. A?", "D. B?"]


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("requests", {"messages": 7}, "messages: 7 where a list of messages is due"),
        ("requests", {"messages": [7]}, "messages.0: 7 where a message is due"),
        ("requests", {"messages": [{"content": "x"}]}, "messages.0.role: None where a name"),
        ("requests", {"messages": [{"role": "user"}]}, "messages.0.content: missing"),
        ("requests", {"messages": [{"role": "user", "content": 7}]}, "0.content: 7 where text"),
        ("requests", {"prompt": {"a": 1}}, "prompt: {'a': 1} where text or token ids are due"),
        ("requests", {"prompt": [1, -1]}, "prompt: .* where token ids are due"),
        ("requests", {"model": "m"}, "prompt: missing; the record has model"),
        ("turns", {"turns": [{"delay": 1}]}, "turns.0.text: None where text is due"),
        ("documents", {"document": "x"}, "questions: None where a list of texts is due"),
        ("conversations", {"id": 1}, "conversations: None where a list of messages is due"),
        ("lengths", {"Timestamp": "1"}, "Request tokens: missing; the record has Timestamp"),
    ],
)
def test_what_is_bad_is_named(name: str, record: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        list(FORMATS[name].read(record))
