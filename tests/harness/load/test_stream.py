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


def _usage(**other: Any) -> str:
    return _line({"choices": [], "usage": _USAGE | other})


_DONE = "data: [DONE]"
_WHOLE = [_token("é"), _token("漢"), _token("🙂"), _usage(), _DONE]


def _wire(lines: list[str], end: str = "\n") -> bytes:
    return "".join(line + end + end for line in lines).encode()


def _read(pieces: list[bytes]) -> tuple[CompletionStream, Usage]:
    """Feed pieces, one a nanosecond from 1 on."""
    stream = CompletionStream()
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
    stream = CompletionStream()
    stream.feed(data[: length if length >= 0 else whole + length], 1)
    with pytest.raises(RequestError, match=r"ended before \[DONE\]") as fault:
        stream.finish()
    assert fault.value.status == "truncated"


def test_error_event_is_a_stream_error() -> None:
    error = _line({"error": {"message": "Internal server error", "code": 500}})
    assert _fault(_token("a"), error, _DONE) == "stream-error"
    stream = CompletionStream()
    with pytest.raises(RequestError, match="Internal server error"):
        stream.feed(_wire([error]), 1)


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
    lines = [
        _line({"choices": [{"text": "a"}], "usage": _USAGE | {"completion_tokens": count}})
        for count in (1, 2)
    ]
    assert _read([_wire([*lines, _usage(), _DONE])])[1].output_tokens == 3


def test_token_without_text_is_the_first() -> None:
    """A token may end inside a character; of it there is nothing to show yet."""
    stream, _ = _read([_wire([_token("")]), _wire([_token("é"), _usage(), _DONE])])
    assert stream.first_token_ns == 1
