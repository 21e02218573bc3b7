"""The aiohttp client: one streamed completion at a time, and what became of it."""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import aiohttp

from harness.load.stream import CompletionStream, RequestError, Status, Usage

COMPLETIONS = "/v1/completions"
# A server that sends nothing for so long has stopped sending.
SILENCE_SECONDS = 120.0
CONNECT_SECONDS = 10.0
# Less than the five seconds after which vLLM closes an idle connection, so that no request meets
# one that is being closed.
KEEP_ALIVE_SECONDS = 2.0
_PLAIN = "identity"


@dataclass(frozen=True)
class Outcome:
    """What became of one request. Times in ns on the monotonic clock; None: it never came to that.

    ``sent_ns`` is when the request was handed to the HTTP client, so what a new connection takes
    counts. ``first_byte_ns`` is the first byte of the body. ``error`` is one line on a fault.
    """

    status: Status
    error: str | None = None
    sent_ns: int | None = None
    first_byte_ns: int | None = None
    first_token_ns: int | None = None
    end_ns: int | None = None
    usage: Usage | None = None

    def moved(self, by_ns: int) -> "Outcome":
        """Return the same with its times moved."""
        times: dict[str, Any] = {
            name: None if (time_ns := getattr(self, name)) is None else time_ns + by_ns
            for name in ("sent_ns", "first_byte_ns", "first_token_ns", "end_ns")
        }
        return replace(self, **times)


def record(request: int, outcome: Outcome) -> dict[str, Any]:
    """Return what became of a request as one process of a client tells another, in JSON."""
    return {"request": request, **asdict(outcome)}


def from_record(row: dict[str, Any]) -> tuple[int, Outcome]:
    """Return the number of a request and what became of it, from ``record``."""
    usage = row["usage"] and Usage(**row["usage"])
    fields = {name: value for name, value in row.items() if name != "request"}
    return row["request"], Outcome(**fields | {"usage": usage})


@dataclass(frozen=True)
class ClientLoad:
    """What sending the requests cost the client: CPU seconds, wall seconds, processes."""

    cpu_seconds: float
    seconds: float
    processes: int = 1

    @property
    def cores(self) -> float:
        """Share of a core that each process took."""
        return self.cpu_seconds / self.seconds / self.processes if self.seconds else 0.0

    @property
    def summary(self) -> dict[str, Any]:
        """What a summary says of it."""
        return {
            "client_cpu_seconds": self.cpu_seconds,
            "client_processes": self.processes,
            "client_cores": self.cores,
        }


@dataclass(frozen=True)
class Body:
    """What a request sends, and what an answer to it has to have: so many tokens of each."""

    content: bytes
    prompt_tokens: int
    output_tokens: int


def body(model: str, prompt: Sequence[int], output_tokens: int) -> Body:
    """Return a streamed completion that generates exactly so many tokens, in JSON.

    Args:
        model: The name that the server serves it under.
        prompt: Token ids.
        output_tokens: How many to generate.

    """
    content = json.dumps(
        {
            "model": model,
            "prompt": list(prompt),
            "max_tokens": output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            # With each event, the tokens so far: its text does not say whether it has one.
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
        separators=(",", ":"),
    )
    return Body(content.encode(), len(prompt), output_tokens)


def headers(request: int) -> dict[str, str]:
    """Return the headers of a request, which name it to the server."""
    return {
        "Content-Type": "application/json",
        "X-Request-Id": f"request-{request}",
        # What compresses holds tokens back.
        "Accept-Encoding": _PLAIN,
    }


def check_encodings(encodings: Iterable[str]) -> None:
    """Check that an answer came as it was asked for: as it is.

    Args:
        encodings: The values of its headers ``Content-Encoding``.

    Raises:
        RequestError: if it is compressed.

    """
    for encoding in encodings:
        if encoding.strip().lower() != _PLAIN:
            raise RequestError(
                "encoded",
                f"the answer is in {encoding}, which holds tokens back, though asked for as it is",
            )


class Client:
    """A client of one server; made by ``connect``."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def complete(self, request: int, asked: Body) -> Outcome:
        """Send one request and read the answer to its end; never raises for what a server does.

        Args:
            request: Its number.
            asked: What to send.

        """
        stream = CompletionStream(asked.prompt_tokens, asked.output_tokens)
        usage: Usage | None = None
        status: Status = "ok"
        error: str | None = None
        sent_ns = time.monotonic_ns()
        try:
            async with self._session.post(
                COMPLETIONS, data=asked.content, headers=headers(request), allow_redirects=False
            ) as response:
                if response.status != 200:
                    said = (await response.read()).decode(errors="replace")[:200]
                    raise RequestError("http-error", f"HTTP {response.status}: {said}")
                check_encodings(response.headers.getall("Content-Encoding", ()))
                async for data in response.content.iter_any():
                    stream.feed(data, time.monotonic_ns())
            usage = stream.finish()
        except RequestError as fault:
            status, error = fault.status, str(fault)
        except TimeoutError as timeout:
            status, error = "stalled", f"nothing came for too long: {timeout}"
        except aiohttp.ClientConnectorError as refused:
            status, error = "refused", str(refused)
        except (aiohttp.ClientError, OSError) as lost:
            status, error = "reset", f"{type(lost).__name__}: {lost}"
        return Outcome(
            status=status,
            error=error and " ".join(error.split()),
            sent_ns=sent_ns,
            first_byte_ns=stream.first_byte_ns,
            first_token_ns=stream.first_token_ns,
            end_ns=time.monotonic_ns(),
            usage=usage,
        )


@contextlib.asynccontextmanager
async def connect(url: str, silence_seconds: float = SILENCE_SECONDS) -> AsyncIterator[Client]:
    """Give a client of the server at a base URL; as many connections as there are streams."""
    async with aiohttp.ClientSession(
        base_url=url,
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=silence_seconds
        ),
        # A proxy is for the outside world.
        trust_env=False,
        # As Locust's client: what is compressed is refused, not read.
        auto_decompress=False,
    ) as session:
        yield Client(session)
