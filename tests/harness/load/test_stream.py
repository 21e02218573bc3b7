import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.load.stream import CompletionStream, RequestError, Usage

_USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def _line(event: object) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}"


def _token(text: str) -> str:
    return _line({"choices": [{"index": 0, "text": text}]})


def _counted(text: str, tokens: int, finish_reason: str | None = None) -> str:
    """Return an event as vLLM's with `continuous_usage_stats`."""
    usage = {"prompt_tokens": 7, "total_tokens": 7 + tokens, "completion_tokens": tokens}
    choice = {"index": 0, "text": text, "finish_reason": finish_reason}
    return _line({"choices": [choice], "usage": usage})


def _usage(**other: Any) -> str:
    return _line({"choices": [], "usage": _USAGE | other})


_DONE = "data: [DONE]"
_WHOLE = [_token("é"), _token("漢"), _token("🙂"), _usage(), _DONE]


def _wire(lines: list[str], end: str = "\n") -> bytes:
    return "".join(line + end + end for line in lines).encode()


def _stream() -> CompletionStream:
    return CompletionStream(prompt_tokens=7, output_tokens=3)


def _read(pieces: list[bytes]) -> tuple[CompletionStream, Usage]:
    """Feed pieces, one a nanosecond from 1 on."""
    stream = _stream()
    for received_ns, piece in enumerate(pieces, start=1):
        stream.feed(piece, received_ns)
    return stream, stream.finish()


def _fault(*lines: str) -> str:
    with pytest.raises(RequestError) as fault:
        _read([_wire(list(lines))])
    assert "\n" not in str(fault.value)
    return fault.value.status


@st.composite
def _streams(draw: st.DrawFn) -> tuple[list[bytes], int]:
    """Draw a whole stream in pieces, and the number of its bytes up to the first token's line."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    noise = st.sampled_from([": a comment é", "event: x", "id: 7", "retry: 10", ":", "dat", ""])
    lines: list[str] = []
    first = -1
    before = draw(st.sampled_from([[], [_line({"choices": []})]]))
    for line in [*before, *_WHOLE]:
        lines += draw(st.lists(noise, max_size=2))
        lines.append(line)
        if first < 0 and line == _WHOLE[0]:
            first = len((end.join(lines) + end).encode())
        lines.append("")
    data = (end.join(lines) + end).encode()
    cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=len(data) - 1)))
    return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)], first


@given(_streams())
@example(([bytes([byte]) for byte in _wire(_WHOLE)], len(_WHOLE[0].encode()) + 1))
@example(([_wire(_WHOLE)], len(_WHOLE[0].encode()) + 1))
def test_any_cut_gives_the_same(drawn: tuple[list[bytes], int]) -> None:
    pieces, first = drawn
    stream, usage = _read(pieces)
    assert usage == Usage(prompt_tokens=7, cached_tokens=4, output_tokens=3)
    assert stream.is_done
    assert stream.chunks == len(pieces)
    assert stream.first_byte_ns == 1
    # The piece with the last byte of the first line that has a choice.
    received = 0
    for number, piece in enumerate(pieces, start=1):
        received += len(piece)
        if received >= first:
            assert stream.first_token_ns == number
            break


@given(st.lists(st.binary()))
@example([b"data: 5\n"])
@example([b"data: []\n"])
@example([b'data: {"choices": ["\xff"]}\n'])
@example([b'data: {"usage": 5}\ndata: [DONE]\n'])
@example([b'data: {"usage": {"prompt_tokens_details": 5}}\ndata: [DONE]\n'])
@example([b'data: {"usage": {"prompt_tokens_details": {"cached_tokens": 1}}}\ndata: [DONE]\n'])
@example([b"data: " + b"[" * 100_000 + b"\n"])
def test_whatever_a_server_sends_is_a_fault_with_a_name(pieces: list[bytes]) -> None:
    with pytest.raises(RequestError):
        _read(pieces)


@pytest.mark.parametrize(
    "text",
    ["", "[[[", '{"choices": [', "5", "[1]", "null", "[DONE"],
)
def test_malformed(text: str) -> None:
    assert _fault(_token("a"), f"data: {text}", _DONE) == "malformed"


def test_usage_of_another_form_is_malformed() -> None:
    assert _fault(_token("a"), _line({"choices": [], "usage": [1]}), _DONE) == "malformed"
    without = {"prompt_tokens_details": {"cached_tokens": 4}}
    assert _fault(_token("a"), _line({"choices": [], "usage": without}), _DONE) == "malformed"


@pytest.mark.parametrize("length", [0, 1, -1, -2, -3, -14, -16])
def test_truncated_wherever_it_is_cut(length: int) -> None:
    data = _wire(_WHOLE)
    whole = len(data) - len(b"\n")
    stream = _stream()
    stream.feed(data[: length if length >= 0 else whole + length], 1)
    with pytest.raises(RequestError, match=r"ended before \[DONE\]") as fault:
        stream.finish()
    assert fault.value.status == "truncated"


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "Internal server error", "code": 500}},
        {"error": "Internal server error"},
        {"object": "error", "message": "Internal server error", "code": 500},
        {"object": "error", "message": "Internal server error", "choices": [{"text": "a"}]},
    ],
)
def test_error_event_is_a_stream_error(event: dict[str, Any]) -> None:
    error = _line(event)
    for place in range(len(_WHOLE) + 1):
        assert _fault(*_WHOLE[:place], error, *_WHOLE[place:]) == "stream-error"
    with pytest.raises(RequestError, match="Internal server error"):
        _stream().feed(_wire([error]), 1)


def test_no_error_is_none() -> None:
    nothing = {"object": "text_completion", "error": None, "choices": [{"text": "a"}]}
    assert _read([_wire([_line(nothing), *_WHOLE])])[0].first_token_ns == 1


def test_no_token() -> None:
    assert _fault(_usage(completion_tokens=0), _DONE) == "no-token"
    assert _fault(_usage(), _DONE) == "no-token"
    # As an engine answers that ends at once: an event, and in it nothing.
    assert _fault(_token(""), _usage(completion_tokens=0), _DONE) == "no-token"


@pytest.mark.parametrize(
    ("lines", "advice"),
    [
        ([], "stream_options"),
        ([_usage(prompt_tokens_details=None)], "--enable-prompt-tokens-details"),
        ([_usage(prompt_tokens_details={})], "--enable-prompt-tokens-details"),
        ([_usage(prompt_tokens_details={"cached_tokens": None})], "--enable-prompt-tokens-details"),
    ],
)
def test_no_usage_says_what_to_do(lines: list[str], advice: str) -> None:
    assert _fault(_token("a"), *lines, _DONE) == "no-usage"
    with pytest.raises(RequestError, match=advice):
        _read([_wire([_token("a"), *lines, _DONE])])


def test_usage_with_every_event_is_the_last() -> None:
    """As vLLM does with `continuous_usage_stats`."""
    lines = [_counted("a", 1), _counted("b", 2), _counted("c", 3, "length")]
    stream, usage = _read([_wire([*lines, _usage(), _DONE])])
    assert usage == Usage(prompt_tokens=7, cached_tokens=4, output_tokens=3)
    assert stream.first_token_ns == 1


def _first_token(*lines: str) -> int | None:
    """Return the number of the line that is taken for the first token, from 1 on."""
    return _read([_wire([line]) for line in (*lines, _usage(), _DONE)])[0].first_token_ns


def test_token_without_text_is_the_first_where_tokens_are_counted() -> None:
    """A token may end inside a character, or be a special one; of it there is nothing to show."""
    assert _first_token(_counted("", 1), _counted("é", 3)) == 1
    assert _first_token(_counted("", 3, "length")) == 1


def test_event_without_a_token_is_not_the_first() -> None:
    assert _first_token(_counted("", 0), _counted("", 1), _counted("é", 3)) == 2
    # Whatever it says, the server has not generated it.
    assert _first_token(_counted("echo", 0), _counted("a", 3)) == 2
    assert _fault(_counted("", 0, "stop"), _usage(completion_tokens=0), _DONE) == "no-token"
    assert _fault(_counted("", 0, "stop"), _usage(), _DONE) == "no-token"


def test_where_tokens_are_not_counted_text_is_a_token() -> None:
    role = _line({"choices": [{"index": 0, "text": None}]})
    assert _first_token(_token(""), role, _token("é"), _token("a")) == 3
    assert _first_token(_line({"choices": [{"text": "a"}], "usage": None})) == 1
    # All of a completion that was cut at its length has a token, with or without text.
    last = {"index": 0, "text": "", "finish_reason": "length"}
    assert _first_token(_token(""), _line({"choices": [last]})) == 2
    stopped = _line({"choices": [last | {"finish_reason": "stop"}]})
    assert _fault(stopped, _usage(completion_tokens=0), _DONE) == "no-token"


@pytest.mark.parametrize(
    "event",
    [
        {"choices": ["a"]},
        {"choices": {"text": "a"}},
        {"choices": 5},
        {"choices": [{"text": "a"}], "usage": {"prompt_tokens": 7}},
        {"choices": [{"text": "a"}], "usage": {"completion_tokens": "1"}},
        {"choices": [{"text": "a"}], "usage": 5},
    ],
)
def test_choices_of_another_form_are_malformed(event: dict[str, Any]) -> None:
    assert _fault(_line(event), *_WHOLE) == "malformed"


@pytest.mark.parametrize(
    "other", [{"completion_tokens": 2}, {"completion_tokens": 4}, {"prompt_tokens": 6}]
)
def test_what_came_is_held_against_what_was_asked(other: dict[str, int]) -> None:
    lines = [_token("a"), _usage(**other), _DONE]
    assert _fault(*lines) == "mismatch"
    said = _USAGE | other
    found = f"{said['prompt_tokens']} prompt and {said['completion_tokens']} output tokens, not"
    with pytest.raises(RequestError, match=f"^{found} 7 and 3$"):
        _read([_wire(lines)])
