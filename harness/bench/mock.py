"""A server with vLLM's OpenAI API and no model, which does as told and writes down what it did.

It proves a client that measures. Every answer's times, tokens and faults follow from a
``Behaviour``; its own account of each request, a ``Truth``, is on the clock of every process here.

Its cache has a known rule: blocks of ``block_size`` tokens that are never evicted, found by
contiguous prefix, and in it from the moment that a request is looked up. A token is a word, or an
id of a prompt of ids.

One process serves, or several that share the port, each with a cache and numbers of its own, for
more traffic than one has the time for.

Run as ``python -m harness.bench.mock BEHAVIOUR_JSON --truth FILE``; from Python, ``running``.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

import psutil
import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from harness.errors import HarnessError
from harness.load import collector
from harness.load.alarm import Alarm
from harness.processes import kill_with_parent

MODEL = "mock"
DIED = 3
Outcome = Literal[
    "ok", "died", "error", "reset", "truncate", "empty", "hang", "stream_error", "closed", "refused"
]
# Where several are due, the first.
_FAULTS: tuple[Outcome, ...] = ("error", "reset", "truncate", "empty", "hang", "stream_error")
# After these, the connection carries nothing more.
_CUT = ("died", "reset", "hang")
_WORDS = (" the", " cache", " of", " é", " 漢", "字", " 🙂", ' "', "\n", " block")
_START_SECONDS = 30
_HOST = "127.0.0.1"
_LISTENING = "listening on "
_LARGEST_BODY = 1 << 26
_BACKLOG = 4096
_PIECE_BYTES = 12
# As vLLM writes JSON. Made once, since it is used for each token.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Behaviour(BaseModel):
    """What the server does. Requests are numbered from 1 in order of arrival.

    Attributes:
        seed: Of all that is drawn; with the request's number it decides all of its times and text.
        ttft_ms: Mean time from the start of a request to its first token.
        ttft_sigma: Of the lognormal it is drawn from; 0: always the mean.
        itl_ms: Mean time from one token to the next.
        itl_sigma: As ``ttft_sigma``.
        output_tokens: Where the request names no number.
        block_size: Tokens in a block of the prefix cache.
        miscount: Tokens that each request adds to the hit counter in excess of its cached ones.
        restart_after: When so many requests were looked up, counters and cache start anew.
        split: What one write holds: an event; the first token, then pairs of events; or pieces
            cut anywhere.
        workers: Requests served at a time, others wait their turn; None: any number. One that
            hangs keeps its worker.
        together: Until so many requests have come, none is served; of each process.
        stall_at_s: When, from the first request's arrival, the server stands still.
        stall_s: How long.
        slow_start_s: Until then, from the start, ``/health`` says 503.
        never_healthy: It always does.
        die_after: The request in whose stream the process exits with code 3, after a token.
        error_every: Every so many requests, one is answered with HTTP 500, neither queued nor
            looked up.
        reset_every: ... its connection reset after the first token.
        truncate_every: ... its stream ended within the line after the first token's.
        empty_every: ... its stream whole, but without a token.
        hang_every: ... its stream left open after the first token.
        stream_error_every: ... its first token followed by an error as an event.

    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    ttft_ms: NonNegativeFloat = 0
    ttft_sigma: NonNegativeFloat = 0
    itl_ms: NonNegativeFloat = 0
    itl_sigma: NonNegativeFloat = 0
    output_tokens: PositiveInt = 16
    block_size: PositiveInt = 16
    miscount: NonNegativeInt = 0
    restart_after: PositiveInt | None = None
    split: Literal["event", "coalesced", "bytes"] = "event"
    workers: PositiveInt | None = None
    together: PositiveInt | None = None
    stall_at_s: NonNegativeFloat = 0
    stall_s: NonNegativeFloat = 0
    slow_start_s: NonNegativeFloat = 0
    never_healthy: bool = False
    die_after: PositiveInt | None = None
    error_every: PositiveInt | None = None
    reset_every: PositiveInt | None = None
    truncate_every: PositiveInt | None = None
    empty_every: PositiveInt | None = None
    hang_every: PositiveInt | None = None
    stream_error_every: PositiveInt | None = None

    def outcome(self, number: int) -> Outcome:
        """Return what shall become of a request, if nothing else goes wrong."""
        if number == self.die_after:
            return "died"
        for fault in _FAULTS:
            every: int | None = getattr(self, f"{fault}_every")
            if every and number % every == 0:
                return fault
        return "ok"


@dataclass
class Truth:
    """What was done about a request. Times in ns of ``time.monotonic_ns``; None: never happened.

    Attributes:
        number: Its place in order of arrival, from 1.
        x_request_id: Its header ``X-Request-Id``.
        prompt: Its text, of a chat the contents of all messages, a line each; None for ids.
        received_ns: When its handler began. Before that were, and are not in any time here: its
            way through the socket, the wait for the event loop's turn, and parsing its head.
        first_token_ns: Just before the write that completes the first token's line; of an answer
            that is no stream, before its write.
        end_ns: Just after the last write; of a request cut short, when that was noticed.
        due_ttft_ms: What was drawn, without any wait for a worker or the end of a stall.
        prompt_tokens: As the cache counts.
        cached_tokens: Of them, found in the cache.
        output_tokens: Tokens written.
        chunks: Writes that had a part of the body.
        outcome: ``ok``; the fault's name; ``closed``: the client left, or the server was stopped,
            before the end; ``refused``: not a valid request.

    """

    number: int
    x_request_id: str | None
    received_ns: int
    prompt: str | None = None
    first_token_ns: int | None = None
    end_ns: int | None = None
    due_ttft_ms: float = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    chunks: int = 0
    outcome: Outcome = "closed"


@dataclass
class Mock:
    """A server that was started; times and counts are its own.

    Of several processes, ``pid`` is the one that ends the others.
    """

    url: str
    pid: int
    _process: "subprocess.Popen[bytes]"
    _file: Path

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """Its process, which is not to be waited for while the context is open."""
        return self._process

    def truth(self) -> list[Truth]:
        """Return what was done about each request that ended, in order of their ends.

        Of several processes it is all there only when they have ended.
        """
        if self._process.poll() is None:
            # What it answers later than a request, it answers when that one's truth is written.
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/v1/models"):
                pass
        return [Truth(**json.loads(line)) for line in self._file.read_bytes().splitlines()]

    def cpu_seconds(self) -> float:
        """Return the CPU time that its processes have taken, in seconds."""
        first = psutil.Process(self.pid)
        times = [process.cpu_times() for process in (first, *first.children())]
        return float(sum(taken.user + taken.system for taken in times))

    def wait(self, seconds: float) -> int:
        """Wait for the process to end by itself and return its exit code."""
        return self._process.wait(seconds)


@contextlib.contextmanager
def running(behaviour: Behaviour, folder: Path, processes: int = 1) -> Iterator[Mock]:
    """Run a server as processes of its own, on a free port of the loopback interface.

    Its truth is ``truth.jsonl`` in the folder, complete when the context has ended, and its
    errors are in ``mock.log``.

    Raises:
        HarnessError: if it does not start.

    """
    file, log = folder / "truth.jsonl", folder / "mock.log"
    module = [sys.executable, "-m", "harness.bench.mock"]
    command = [*module, behaviour.model_dump_json(), "--truth", str(file)]
    command += ["--processes", str(processes)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
            line = process.stdout.readline().decode() if ready else ""
            if not line.startswith(_LISTENING):
                tail = "\n".join(log.read_text().splitlines()[-10:])
                raise HarnessError(f"mock server: does not start:\n{tail}")
            yield Mock(line.removeprefix(_LISTENING).strip(), process.pid, process, file)
            process.terminate()
            process.wait(_START_SECONDS)
        finally:
            process.kill()


class _Request(BaseModel):
    """Of a request, what makes a difference here."""

    class Message(BaseModel):
        class Part(BaseModel):
            text: str = ""

        content: str | list[Part] | None = None

        def text(self) -> str:
            if isinstance(self.content, list):
                return "".join(part.text for part in self.content)
            return self.content or ""

    class StreamOptions(BaseModel):
        include_usage: bool = False
        continuous_usage_stats: bool = False

    prompt: str | list[int] | None = None
    messages: list[Message] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None

    def prompt_or_ids(self, chat: bool) -> str | list[int]:
        if chat and self.messages:
            return "\n".join(message.text() for message in self.messages)
        if not chat and self.prompt:
            return self.prompt
        raise ValueError("messages" if chat else "prompt")


class _Cache:
    """The prefix cache that never evicts."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._blocks: set[int] = set()

    def look_up(self, tokens: Sequence[str] | Sequence[int]) -> int:
        """Return how many of a prompt's tokens are cached, and cache it.

        As in vLLM its last token is not, since it has to be computed to get the next.
        """
        size, chained, cached, contiguous = self._block_size, 0, 0, True
        for start in range(0, len(tokens) - size + 1, size):
            chained = hash((chained, tuple(tokens[start : start + size])))
            contiguous = contiguous and chained in self._blocks and start + size < len(tokens)
            cached += size * contiguous
            self._blocks.add(chained)
        return cached


class _Counters:
    """vLLM's counters, under its names; they begin at zero now."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.queries = self._counter("prefix_cache_queries", "queried tokens")
        self.hits = self._counter("prefix_cache_hits", "cached tokens")
        self._counter("num_preemptions", "preemptions")

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str) -> Counter:
        counter = Counter(
            f"vllm:{name}", f"Number of {what}.", ["model_name", "engine"], registry=self._registry
        )
        return counter.labels(model_name=MODEL, engine="0")


@dataclass(frozen=True)
class _Plan:
    """An answer as it was drawn: its tokens, and how long each takes, in ns."""

    tokens: list[str]
    takes_ns: list[int]

    @classmethod
    def draw(cls, behaviour: Behaviour, generator: random.Random, tokens: int) -> "_Plan":
        def takes(mean_ms: float, sigma: float) -> int:
            factor = math.exp(generator.gauss(0, sigma) - sigma**2 / 2) if sigma else 1
            return round(mean_ms * 1e6 * factor)

        ttft = takes(behaviour.ttft_ms, behaviour.ttft_sigma)
        itl = [takes(behaviour.itl_ms, behaviour.itl_sigma) for _ in range(tokens - 1)]
        return cls(generator.choices(_WORDS, k=tokens), [ttft, *itl])


@dataclass(frozen=True)
class _Wire:
    """An answer in JSON, with the fields of vLLM 0.32.0 in its order."""

    chat: bool
    suffix: str
    created: int = field(default_factory=lambda: int(time.time()))

    def role(self) -> bytes:
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        prompt = {"prompt_token_ids": None, "prompt_text": None}
        return _event(self._head(".chunk") | {"choices": [choice]} | prompt)

    def token(
        self, text: str, finish_reason: str | None, usage: dict[str, Any] | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": text}} if self.chat else {"text": text}
        choice |= {"logprobs": None, "finish_reason": finish_reason}
        if not self.chat:
            choice |= {"stop_reason": None, "prompt_token_ids": None}
        elif finish_reason:
            choice |= {"stop_reason": None}
        event = self._head(".chunk") | {"choices": [choice | {"token_ids": None}]}
        return _event(event | ({"usage": usage} if usage else {}))

    def usage(self, truth: Truth) -> bytes:
        return _event(self._head(".chunk") | {"choices": [], "usage": _final_usage(truth)})

    def whole(self, text: str, finish_reason: str, truth: Truth) -> bytes:
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        ended = {"logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
        choice = {"index": 0} | said | ended
        return _json(self._head() | {"choices": [choice], "usage": _final_usage(truth)})

    def _head(self, chunk: str = "") -> dict[str, Any]:
        kind = f"chat.completion{chunk}" if self.chat else "text_completion"
        id_ = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.suffix}"
        return {"id": id_, "object": kind, "created": self.created, "model": MODEL}


def _json(value: object) -> bytes:
    return _ENCODER.encode(value).encode()


def _event(value: object) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _usage(prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "completion_tokens": output_tokens,
    }


def _final_usage(truth: Truth) -> dict[str, Any]:
    details = {"prompt_tokens_details": {"cached_tokens": truth.cached_tokens}}
    return _usage(truth.prompt_tokens, truth.output_tokens) | details


def _error(code: int, kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


_INTERNAL = _error(500, "InternalServerError", "Internal server error")
_DONE = b"data: [DONE]\n\n"


@dataclass
class _Server:
    """The handlers, and what they share."""

    behaviour: Behaviour
    # Unbuffered: a write takes a few µs, and nothing has to be flushed before the process ends.
    file: BinaryIO
    alarm: Alarm = field(default_factory=Alarm)
    started_ns: int = field(default_factory=time.monotonic_ns)

    def __post_init__(self) -> None:
        self._arrived = self._looked_up = 0
        self._all_there = asyncio.Event()
        self._open: dict[int, Truth] = {}
        self._stall = (math.inf, 0)
        workers = self.behaviour.workers
        self._workers = asyncio.Semaphore(workers) if workers else None
        self._start_engine()

    def application(self) -> web.Application:
        """Return the server's endpoints."""
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.completions)
        return app

    async def health(self, _: web.Request) -> web.Response:
        """Answer 200 or 503."""
        await self.until_up()
        seconds = (time.monotonic_ns() - self.started_ns) / 1e9
        healthy = seconds >= self.behaviour.slow_start_s and not self.behaviour.never_healthy
        return web.Response(status=200 if healthy else 503)

    async def models(self, _: web.Request) -> web.Response:
        """Answer with the one model."""
        await self.until_up()
        card = {"id": MODEL, "object": "model", "created": 0, "owned_by": "vllm", "root": MODEL}
        return web.json_response({"object": "list", "data": [card]})

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer with the counters."""
        await self.until_up()
        return web.Response(
            body=self._counters.text(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for a completion or a chat's, and write down its truth."""
        received_ns = time.monotonic_ns()
        if not self._arrived:
            begin = received_ns + round(self.behaviour.stall_at_s * 1e9)
            self._stall = (begin, begin + round(self.behaviour.stall_s * 1e9))
        self._arrived += 1
        if self._arrived == self.behaviour.together:
            self._all_there.set()
        truth = Truth(self._arrived, request.headers.get("X-Request-Id"), received_ns)
        self._open[truth.number] = truth
        try:
            return await self._complete(request, truth)
        except ConnectionError:
            # The client left. Nobody hears this.
            return web.Response()
        finally:
            self.write_down(truth)

    def stop(self) -> None:
        """Write down the requests that have not ended."""
        for truth in list(self._open.values()):
            self.write_down(truth)

    def write_down(self, truth: Truth) -> None:
        """Write down a request that has ended, unless that was done."""
        if self._open.pop(truth.number, None):
            truth.end_ns = truth.end_ns or time.monotonic_ns()
            self.file.write(_json(asdict(truth)) + b"\n")

    def _start_engine(self) -> None:
        self._cache, self._counters = _Cache(self.behaviour.block_size), _Counters()

    def look_up(self, prompt: str | list[int], truth: Truth) -> None:
        """Look a prompt up in the cache, and count."""
        tokens = prompt.split() if isinstance(prompt, str) else prompt
        truth.prompt_tokens, truth.cached_tokens = len(tokens), self._cache.look_up(tokens)
        self._counters.queries.inc(truth.prompt_tokens)
        self._counters.hits.inc(truth.cached_tokens + self.behaviour.miscount)
        self._looked_up += 1
        if self._looked_up == self.behaviour.restart_after:
            self._start_engine()

    def after(self, start_ns: int, takes_ns: int) -> int:
        """Return when something is done that begins then and takes so long, stall included."""
        begin, end = self._stall
        if begin <= start_ns < end:
            return int(end) + takes_ns
        due = start_ns + takes_ns
        return due + int(end - begin) if start_ns < begin <= due else due

    async def until_up(self) -> None:
        """Return when the server does not stand still."""
        await self.alarm.until(self.after(time.monotonic_ns(), 0))

    async def _complete(self, request: web.Request, truth: Truth) -> web.StreamResponse:
        """Read a request, wait for a worker and answer."""
        chat = request.path == "/v1/chat/completions"
        body = await request.read()
        await self.until_up()
        try:
            asked = _Request.model_validate_json(body)
            prompt = asked.prompt_or_ids(chat)
        except (ValidationError, ValueError) as error:
            refusal = web.json_response(_error(400, "BadRequestError", str(error)), status=400)
            return await _finished(refusal, request, truth, "refused")
        truth.prompt = prompt if isinstance(prompt, str) else None
        intent = self.behaviour.outcome(truth.number)
        if intent == "error":
            failure = web.json_response(_INTERNAL, status=500)
            return await _finished(failure, request, truth, intent)

        tokens = asked.max_completion_tokens or asked.max_tokens or self.behaviour.output_tokens
        generator = random.Random(f"{self.behaviour.seed}/{truth.number}")
        plan = _Plan.draw(self.behaviour, generator, tokens)
        truth.due_ttft_ms = plan.takes_ns[0] / 1e6
        wire = _Wire(chat, truth.x_request_id or str(truth.number))
        usage = asked.stream_options or _Request.StreamOptions()
        answer = _Answer(self, request, truth, intent, plan, wire, prompt, usage, generator)
        return await (answer.stream() if asked.stream else answer.whole())

    @contextlib.asynccontextmanager
    async def worker(self, truth: Truth) -> AsyncIterator[int]:
        """Hold a worker, and tell when the request's service began, in ns."""
        begins_ns = truth.received_ns
        if self._arrived < (self.behaviour.together or 0):
            await self._all_there.wait()
            begins_ns = time.monotonic_ns()
        if self._workers is None:
            yield begins_ns
            return
        queued = self._workers.locked()
        async with self._workers:
            yield time.monotonic_ns() if queued else begins_ns


@dataclass
class _Answer:
    """One answer on its way."""

    server: _Server
    request: web.Request
    truth: Truth
    intent: Outcome
    plan: _Plan
    wire: _Wire
    prompt: str | list[int]
    usage: _Request.StreamOptions
    generator: random.Random

    async def whole(self) -> web.StreamResponse:
        """Answer at once, when all tokens are made; the faults within a stream are not for this."""
        plan, truth, server = self.plan, self.truth, self.server
        empty = self.intent == "empty"
        early = self.intent in _CUT or empty
        async with server.worker(truth) as start_ns:
            server.look_up(self.prompt, truth)
            due_ns = server.after(start_ns, sum(plan.takes_ns[: 1 if early else None]))
            await server.alarm.until(due_ns)
            if self.intent in _CUT:
                await self._cut()
            truth.output_tokens = 0 if empty else len(plan.tokens)
            text, reason = ("", "stop") if empty else ("".join(plan.tokens), "length")
            body = self.wire.whole(text, reason, truth)
            response = web.Response(body=body, content_type="application/json")
            truth.chunks = 1
            truth.first_token_ns = None if empty else time.monotonic_ns()
            return await _finished(response, self.request, truth, "empty" if empty else "ok")

    async def stream(self) -> web.StreamResponse:
        """Answer with an event a token."""
        plan, truth, server = self.plan, self.truth, self.server
        self.response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8"}
        )
        await self.response.prepare(self.request)
        # As vLLM's do, the headers go ahead of the first token.
        await self.response.write(b"")
        async with server.worker(truth) as due_ns:
            server.look_up(self.prompt, truth)
            if self.wire.chat:
                # vLLM sends it just before the first token, other engines at once, as here: the
                # farther away, the plainer it is which of the two a client took for the first.
                await self._send([self.wire.role()])
            tokens, last = self._tokens()
            held: list[bytes] = []
            for index, (text, takes_ns) in enumerate(zip(tokens, plan.takes_ns, strict=False)):
                # Made before its time has come, which it would be late for.
                is_last = index == len(tokens) - 1
                held.append(self._line(text, last if is_last else None, index + 1))
                due_ns = server.after(due_ns, takes_ns)
                await server.alarm.until(due_ns)
                truth.output_tokens += self.intent != "empty"
                if is_last:
                    held += self._ending()
                if is_last or not index or len(held) == self._events_per_write:
                    await self._send(held)
                    held = []
            if self.intent in _CUT:
                await self._cut()
            return await _finished(self.response, self.request, truth, self.intent)

    @property
    def _events_per_write(self) -> int:
        return 2 if self.server.behaviour.split == "coalesced" else 1

    def _tokens(self) -> tuple[list[str], str | None]:
        """Return the tokens to send, and the last one's finish reason."""
        match self.intent:
            case "ok":
                return self.plan.tokens, "length"
            case "empty":
                return [""], "stop"
            case _:
                return self.plan.tokens[:1], None

    def _line(self, text: str, finish_reason: str | None, tokens: int) -> bytes:
        """Return a token's event, with how many there are by then where that is asked for."""
        if not (self.usage.include_usage and self.usage.continuous_usage_stats):
            return self.wire.token(text, finish_reason)
        tokens = 0 if self.intent == "empty" else tokens
        usage = _usage(self.truth.prompt_tokens, tokens)
        return self.wire.token(text, finish_reason, usage)

    def _ending(self) -> list[bytes]:
        """Return what follows the last token."""
        match self.intent:
            case "ok" | "empty":
                usage = [self.wire.usage(self.truth)] if self.usage.include_usage else []
                return [*usage, _DONE]
            case "truncate":
                line = self._line(self.plan.tokens[-1], None, 2)
                return [line[: len(line) // 2]]
            case "stream_error":
                return [_event(_INTERNAL), _DONE]
            case _:
                return []

    async def _send(self, events: list[bytes]) -> None:
        """Write events in one write each, or cut and joined otherwise."""
        truth, split = self.truth, self.server.behaviour.split
        data = b"".join(events)
        pieces = {"event": events, "coalesced": [data]}.get(split) or _cut(data, self.generator)
        for piece in pieces:
            # A client knows of a token when its line is whole.
            if truth.first_token_ns is None and truth.output_tokens and b"\n" in piece:
                truth.first_token_ns = time.monotonic_ns()
            await self.response.write(piece)
            truth.chunks += 1
            if split == "bytes":
                await asyncio.sleep(0)

    async def _cut(self) -> NoReturn:
        """End, or never end, in the way that the fault says."""
        self.truth.outcome = self.intent
        if self.intent == "hang":
            await asyncio.Event().wait()
        self.server.write_down(self.truth)
        if self.intent == "died":
            os._exit(DIED)
        transport = self.request.transport
        if transport is not None:
            # Closed with a reset, where a mere close would look like an end.
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            transport.abort()
        raise ConnectionResetError


def _cut(data: bytes, generator: random.Random) -> list[bytes]:
    """Cut data into pieces of a dozen bytes or so."""
    cuts = sorted(generator.sample(range(1, len(data)), k=(len(data) - 1) // _PIECE_BYTES))
    return [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]


async def _finished(
    response: web.StreamResponse, request: web.Request, truth: Truth, outcome: Outcome
) -> web.StreamResponse:
    """Send the rest of a response, so that its end can be noted."""
    await response.prepare(request)
    await response.write_eof()
    truth.end_ns, truth.outcome = time.monotonic_ns(), outcome
    return response


async def serve(
    behaviour: Behaviour, listening: socket.socket, file: BinaryIO, announce: bool = True
) -> None:
    """Serve until the process is told to end.

    Args:
        behaviour: What to do.
        listening: Where.
        file: Unbuffered; gets a ``Truth`` as a line of JSON for each request that ended.
        announce: Whether to print where it listens.

    """
    server = _Server(behaviour, file)
    # A request whose client has gone is over, as in vLLM.
    runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.SockSite(runner, listening, backlog=_BACKLOG).start()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    with collector.stopped():
        if announce:
            host, port = listening.getsockname()
            print(f"{_LISTENING}http://{host}:{port}", flush=True)
        await stopped.wait()
    server.stop()


def _listen(port: int, processes: int) -> list[socket.socket]:
    """Return a listening socket for each process, all on one port of the loopback interface.

    The kernel deals connections to them by their addresses, which is about evenly.
    """
    sockets: list[socket.socket] = []
    for _ in range(processes):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if processes > 1:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((_HOST, port))
        one.listen(_BACKLOG)
        _, port = one.getsockname()
        sockets.append(one)
    return sockets


@contextlib.contextmanager
def _forked(sockets: Sequence[socket.socket]) -> Iterator[socket.socket]:
    """Fork a process for each socket but the first, and give each its own.

    The first process ends the others with it.
    """
    parent, others = os.getpid(), []
    mine = sockets[0]
    for one in sockets[1:]:
        if not (pid := os.fork()):
            kill_with_parent()
            mine = one
            break
        others.append(pid)
    # Connections that are dealt to a socket wait for whoever has it open.
    for one in sockets:
        if one is not mine:
            one.close()
    yield mine
    if os.getpid() == parent:
        for pid in others:
            os.kill(pid, signal.SIGTERM)
        for pid in others:
            os.waitpid(pid, 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a server as the command line says."""
    parser = argparse.ArgumentParser(description="A mock of vLLM's OpenAI server.")
    parser.add_argument("behaviour", type=Behaviour.model_validate_json, metavar="BEHAVIOUR_JSON")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--truth", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--processes", type=int, default=1, help="that share the port")
    given = parser.parse_args(arguments)
    # Each connection is an open file.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    given.truth.write_bytes(b"")
    sockets = _listen(given.port, given.processes)
    # A line is one write, at the end: several processes may share the file.
    with given.truth.open("ab", buffering=0) as file, _forked(sockets) as listening:
        uvloop.run(serve(given.behaviour, listening, file, announce=listening is sockets[0]))


if __name__ == "__main__":
    main()
