"""A streamed completion, read from bytes however they were cut; no I/O, so every client can use it.

OpenAI-compatible servers send server-sent events, each one line ``data: <JSON>`` and an empty line;
``data: [DONE]`` is the last. (WHATWG HTML, "Server-sent events", allows more: comments, which are
skipped, and other fields, which mean nothing here.)
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

# What can become of a request; docs of each in harness/load/README.md. Those after the first are
# faults, counted under these names.
Status = Literal[
    "ok",
    "dropped",
    "refused",
    "http-error",
    "reset",
    "stalled",
    "encoded",
    "truncated",
    "malformed",
    "stream-error",
    "no-token",
    "no-usage",
    "mismatch",
]


class RequestError(Exception):
    """What went wrong with one request: its status, and one line on it."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.status: Status = status


@dataclass(frozen=True)
class Usage:
    """The server's own count of a request's tokens."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class CompletionStream:
    """One response, fed chunk by chunk.

    Times are the caller's: ns on the monotonic clock when a chunk was received.

    Args:
        prompt_tokens: That were sent.
        output_tokens: That were asked for.

    """

    def __init__(self, prompt_tokens: int, output_tokens: int) -> None:
        self._asked = prompt_tokens, output_tokens
        self.first_byte_ns: int | None = None
        self.first_token_ns: int | None = None
        self.chunks = 0
        self.is_done = False
        self._rest = b""
        self._usage: dict[str, Any] | None = None

    def feed(self, data: bytes, received_ns: int) -> None:
        """Take the next bytes.

        Raises:
            RequestError: if the server reports an error or sends what is not such a stream.

        """
        if not data:
            return
        self.chunks += 1
        if self.first_byte_ns is None:
            self.first_byte_ns = received_ns
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), received_ns)

    def _event(self, data: bytes, received_ns: int) -> None:
        if data == b"[DONE]":
            self.is_done = True
            return
        try:
            event = json.loads(data)
            choices, usage = event.get("choices"), event.get("usage")
        except (ValueError, AttributeError, RecursionError):
            raise RequestError("malformed", f"not an event in JSON: {data[:80]!r}") from None
        # As OpenAI's API says it, and as vLLM did before.
        if event.get("error") is not None or event.get("object") == "error":
            said = str(event.get("error") or event)[:200]
            raise RequestError("stream-error", f"the server reports {said}")
        try:
            if self.first_token_ns is None and _has_token(choices, usage):
                self.first_token_ns = received_ns
        except (AttributeError, KeyError, TypeError):
            raise RequestError("malformed", f"not an event of a stream: {data[:80]!r}") from None
        if usage:
            self._usage = usage

    def finish(self) -> Usage:
        """Return the usage, after the last byte.

        Raises:
            RequestError: if the stream is cut off, has no token, does not say what was cached, or
                is not of as many tokens as were sent and asked for.

        """
        if not self.is_done:
            raise RequestError(
                "truncated", f"the stream ended before [DONE], with {self._rest[-40:]!r}"
            )
        if self._usage is None:
            raise RequestError("no-usage", "the server sent no usage: it ignores stream_options")
        try:
            details = self._usage.get("prompt_tokens_details")
            if not details or details.get("cached_tokens") is None:
                raise RequestError(
                    "no-usage",
                    "no cached tokens in the usage: start it --enable-prompt-tokens-details",
                )
            usage = Usage(
                prompt_tokens=int(self._usage["prompt_tokens"]),
                cached_tokens=int(details["cached_tokens"]),
                output_tokens=int(self._usage["completion_tokens"]),
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            said = str(self._usage)[:80]
            raise RequestError("malformed", f"not the usage of a completion: {said}") from None
        if self.first_token_ns is None or not usage.output_tokens:
            raise RequestError("no-token", "the response has no token")
        if (usage.prompt_tokens, usage.output_tokens) != self._asked:
            raise RequestError(
                "mismatch",
                f"{usage.prompt_tokens} prompt and {usage.output_tokens} output tokens, not "
                f"{self._asked[0]} and {self._asked[1]}",
            )
        return usage


def _has_token(choices: Any, usage: Any) -> bool:
    """Say whether an event carries a token, by the tokens that it says there are by then.

    Its text does not tell: a token that ends inside a character, or is a special one, has none, and
    an event without text may have no token. Where a server does not count along, text does, or that
    the completion ends at its length, which it does with a token.
    """
    if not choices:
        return False
    if usage:
        return bool(usage["completion_tokens"] > 0)
    return bool(choices[0].get("text")) or choices[0].get("finish_reason") == "length"
