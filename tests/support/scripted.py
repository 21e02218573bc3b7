"""A server that answers each request with the very bytes that a script has for it."""

import gzip
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

# After the bytes, the connection is reset, closed or left open; after none of these it is kept.
Step = bytes | Literal["reset", "close", "hang"]

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_UNTIL_CLOSED = _HEAD + b"Connection: close\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(event: object) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


_LAST = _chunk(b"")
_DONE = b"data: [DONE]\n\n"
_TOKEN = _event({"choices": [{"index": 0, "text": "é"}]})
_ERROR = _event({"error": {"message": "Internal server error", "code": 500}})
_OLD_ERROR = _event({"object": "error", "message": "Internal server error", "code": 500})


def _usage(tokens: int, prompt: int = 40) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
    return _event(
        {"choices": [], "usage": usage | {"prompt_tokens_details": {"cached_tokens": 16}}}
    )


_WHOLE = _TOKEN + _TOKEN + _usage(2) + _DONE


_ZIPPED = gzip.compress(_WHOLE)


def _encoded(encoding: bytes) -> bytes:
    return _HEAD + b"Content-Encoding: " + encoding + b"\r\nTransfer-Encoding: chunked\r\n\r\n"


def _plain(status: bytes, content: bytes, head: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n\r\n" % len(content)
    return b"HTTP/1.1 " + status + b"\r\n" + head + length + content


# What a server may do, and the name that it has to be given.
CASES: dict[str, tuple[str, list[Step]]] = {
    "whole": ("ok", [_CHUNKED + _chunk(_WHOLE) + _LAST]),
    "byte by byte": ("ok", [_CHUNKED, *(_chunk(bytes([b])) for b in _WHOLE), _LAST]),
    "with CRLF": ("ok", [_CHUNKED + _chunk(_WHOLE.replace(b"\n", b"\r\n")) + _LAST]),
    "ended by closing": ("ok", [_UNTIL_CLOSED + _WHOLE, "close"]),
    "500": ("http-error", [_plain(b"500 Internal Server Error", b'{"error": {}}')]),
    "500 in no encoding": ("http-error", [_plain(b"500 Internal Server Error", b"\xff\xfe\n\x80")]),
    "404": ("http-error", [_plain(b"404 Not Found", b"")]),
    "redirected": ("http-error", [_plain(b"307 x", b"", b"Location: /v1/completions\r\n")]),
    "reset at once": ("reset", ["reset"]),
    "closed at once": ("reset", ["close"]),
    "closed in the head": ("reset", [_HEAD, "close"]),
    "closed after the head": ("reset", [_CHUNKED, "close"]),
    "closed within": ("reset", [_CHUNKED + _chunk(_TOKEN), "close"]),
    "closed before the end": ("reset", [_CHUNKED + _chunk(_WHOLE), "close"]),
    "reset within": ("reset", [_CHUNKED + _chunk(_TOKEN), "reset"]),
    "shorter than its length": (
        "reset",
        [_HEAD + b"Content-Length: 1000\r\n\r\n" + _TOKEN, "close"],
    ),
    "no HTTP": ("reset", [b"SSH-2.0-OpenSSH\r\n\r\n", "close"]),
    "no chunk": ("reset", [_CHUNKED + b"xyz\r\n", "close"]),
    "silent": ("stalled", ["hang"]),
    "silent in the head": ("stalled", [_HEAD, "hang"]),
    "silent after the head": ("stalled", [_CHUNKED, "hang"]),
    "silent within": ("stalled", [_CHUNKED + _chunk(_TOKEN), "hang"]),
    "silent before the end": ("stalled", [_CHUNKED + _chunk(_WHOLE), "hang"]),
    "cut": ("truncated", [_CHUNKED + _chunk(_TOKEN + _TOKEN[:20]) + _LAST]),
    "cut by closing": ("truncated", [_UNTIL_CLOSED + _TOKEN + _usage(1), "close"]),
    "as it is, and says so": ("ok", [_encoded(b"Identity") + _chunk(_WHOLE) + _LAST]),
    "gzip": ("encoded", [_encoded(b"gzip") + _chunk(_ZIPPED) + _LAST]),
    "gzip in name only": ("encoded", [_encoded(b"gzip") + _chunk(_WHOLE) + _LAST]),
    "br": ("encoded", [_encoded(b"br") + _chunk(_ZIPPED) + _LAST]),
    "unknown encoding": ("encoded", [_encoded(b"x-y") + _chunk(_WHOLE) + _LAST]),
    "500 in gzip": (
        "http-error",
        [_plain(b"500 x", _ZIPPED, b"Content-Encoding: gzip\r\n")],
    ),
    "no body": ("truncated", [_plain(b"200 OK", b"")]),
    "not JSON": ("malformed", [_CHUNKED + _chunk(b"data: {\n\n" + _WHOLE) + _LAST]),
    "odd usage": ("malformed", [_CHUNKED + _chunk(_TOKEN + _event({"usage": 1}) + _DONE) + _LAST]),
    "error event": ("stream-error", [_CHUNKED + _chunk(_TOKEN + _ERROR + _DONE) + _LAST]),
    "error event, left open": ("stream-error", [_CHUNKED + _chunk(_ERROR), "hang"]),
    "error of old": ("stream-error", [_CHUNKED + _chunk(_OLD_ERROR + _DONE) + _LAST]),
    "error of old after a token": (
        "stream-error",
        [_CHUNKED + _chunk(_TOKEN + _OLD_ERROR + _TOKEN + _usage(2) + _DONE) + _LAST],
    ),
    "error after the end": ("stream-error", [_CHUNKED + _chunk(_WHOLE + _OLD_ERROR) + _LAST]),
    "too few tokens": ("mismatch", [_CHUNKED + _chunk(_TOKEN + _usage(1) + _DONE) + _LAST]),
    "too many tokens": ("mismatch", [_CHUNKED + _chunk(_TOKEN + _usage(3) + _DONE) + _LAST]),
    "prompt cut short": (
        "mismatch",
        [_CHUNKED + _chunk(_TOKEN + _TOKEN + _usage(2, prompt=39) + _DONE) + _LAST],
    ),
    "prompt with one more": (
        "mismatch",
        [_CHUNKED + _chunk(_TOKEN + _TOKEN + _usage(2, prompt=41) + _DONE) + _LAST],
    ),
    "no token": ("no-token", [_CHUNKED + _chunk(_usage(0) + _DONE) + _LAST]),
    "no usage": ("no-usage", [_CHUNKED + _chunk(_TOKEN + _DONE) + _LAST]),
}


@dataclass
class Scripted:
    """A server that runs: how often each request came, and on how many connections."""

    url: str
    came: Counter[int] = field(default_factory=Counter)
    connections: int = 0

    def died(self) -> None:
        return None


@contextmanager
def scripted(script: Mapping[int, list[Step]]) -> Iterator[Scripted]:
    """Serve, in threads of this process; a request is told by its ``X-Request-Id``."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        listening.settimeout(0.1)
        server = Scripted(f"http://127.0.0.1:{listening.getsockname()[1]}")

        def accept() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    connection, _ = listening.accept()
                    server.connections += 1
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            connection.settimeout(60)
            with connection, connection.makefile("rb") as incoming, suppress(OSError):
                while head := _head(incoming):
                    request = int(re.findall(r"x-request-id: request-(\d+)", head)[0])
                    incoming.read(int(re.findall(r"content-length: (\d+)", head)[0]))
                    server.came[request] += 1
                    for step in script[request]:
                        if isinstance(step, bytes):
                            connection.sendall(step)
                            continue
                        if step == "hang":
                            ended.wait(60)
                        if step == "reset":
                            linger = struct.pack("ii", 1, 0)
                            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        return

        def _head(incoming: "socket.SocketIO") -> str:
            lines = []
            while (line := incoming.readline()) not in (b"", b"\r\n"):
                lines.append(line.decode().lower())
            return "".join(lines)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server
        finally:
            ended.set()
            thread.join()
