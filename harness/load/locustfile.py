"""Users of a server in a closed loop: each sends, reads the answer, thinks, and goes on.

``harness.load.closed_loop`` runs this without a screen. To watch it in Locust's web page, see
``README.md`` beside this file.
"""

import dataclasses
import gc
import json
import os
import random
import time
from collections import deque
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, events
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import LocustUserAgent
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from harness.load.client import (
    COMPLETIONS,
    CONNECT_SECONDS,
    KEEP_ALIVE_SECONDS,
    SILENCE_SECONDS,
    ClientLoad,
    Outcome,
    body,
    check_encodings,
    headers,
    record,
)
from harness.load.stream import CompletionStream, RequestError, Status, Usage
from harness.processes import kill_with_parent

_FINISHED = "sessions-finished"
_HTTP_OK = 200
# An answer with another status is one, too, and is read like any.
LocustUserAgent.valid_response_codes = frozenset(range(100, 600))


@events.init_command_line_parser.add_listener
def _arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--prompts", required=True, help="file that `harness prompts` wrote")
    parser.add_argument("--served-model", default="model", help="name it is served under")
    parser.add_argument("--seed", type=int, default=42, help="of the think times")
    parser.add_argument("--think-time-mean", type=float, default=1.0, help="seconds")
    parser.add_argument("--reading-speed", type=float, default=0.0, help="tokens/s; 0: no time")
    parser.add_argument(
        "--silence", type=float, default=SILENCE_SECONDS, help="seconds; after so many it stalled"
    )
    parser.add_argument("--records", default="", help="folder for a file of records a process")


@dataclasses.dataclass
class _Share:
    """What this process has to send: its sessions, each a list of requests, and how it goes."""

    sessions: "deque[list[dict[str, Any]]]"
    records: Path | None
    left: int = 0
    began: tuple[float, float] | None = None

    def write(self, row: dict[str, Any]) -> None:
        if self.records is not None:
            with self.records.open("a") as file:
                file.write(json.dumps(row) + "\n")


_share: _Share


@events.init.add_listener
def _init(environment: Environment, **_: Any) -> None:
    runner, options = environment.runner, environment.parsed_options
    assert options is not None
    Reader.network_timeout = options.silence
    if isinstance(runner, WorkerRunner) and options.processes:
        # A process that Locust forked would outlive it by a minute.
        kill_with_parent()
    if isinstance(runner, MasterRunner):
        started = waiting = 0

        def begin(**_: Any) -> None:
            nonlocal started, waiting
            started = waiting = runner.worker_count

        def finished(msg: Any, **_: Any) -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                _end(environment)

        def watch() -> None:
            # Locust itself would go on with the users of the others.
            while not waiting or runner.worker_count == started:
                gevent.sleep(1)
            print("a process of Locust has ended before its users had", flush=True)
            environment.process_exit_code = 1
            runner.quit()

        environment.events.test_start.add_listener(begin)  # type: ignore[no-untyped-call]
        runner.register_message(_FINISHED, finished)
        if options.headless:
            gevent.spawn(watch)


def _end(environment: Environment) -> None:
    """End the run: Locust itself without a web page, else what the page calls a test."""
    assert environment.runner is not None
    assert environment.parsed_options is not None
    without_page = environment.parsed_options.headless
    gevent.spawn(environment.runner.quit if without_page else environment.runner.stop)


@events.test_start.add_listener
def _deal(environment: Environment, **_: Any) -> None:
    """Deal this process its sessions: of so many processes, every so manieth."""
    global _share
    runner, options = environment.runner, environment.parsed_options
    assert options is not None
    if isinstance(runner, MasterRunner):
        return
    of = (options.processes or 1) if isinstance(runner, WorkerRunner) else 1
    index = runner.worker_index if isinstance(runner, WorkerRunner) else 0
    sessions: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with Path(options.prompts).open() as lines:
        for line in lines:
            request = json.loads(line)
            key = ("request", request["request"])
            if request["session"] is not None:
                key = ("session", request["session"])
            sessions.setdefault(key, []).append(request)
    own = deque(list(sessions.values())[index::of])
    records = Path(options.records) / f"records-{os.getpid()}.jsonl" if options.records else None
    _share = _Share(own, records, left=len(own))


class Reader(FastHttpUser):
    """Takes one conversation after the other and sends its turns, each after the last reply.

    Of a workload without conversations each request is one of a single turn.
    """

    network_timeout = SILENCE_SECONDS
    connection_timeout = CONNECT_SECONDS
    # A request that was sent twice would be counted twice.
    max_retries = 0

    def on_start(self) -> None:
        """Begin to count what this process takes."""
        self._options = self.environment.parsed_options
        self._answered_ns = time.monotonic_ns()
        if _share.began is None:
            # As harness.load.collector: it would stop all streams.
            gc.collect()
            gc.disable()
            _share.began = (time.monotonic(), time.process_time())
            if not _share.left:
                self._finish()

    def wait_time(self) -> float:
        """Return nothing: the users wait inside their task."""
        return 0.0

    def _think(self, request: dict[str, Any], read_tokens: int) -> None:
        # The request's own, whoever sends it and whenever.
        rng = random.Random(f"{self._options.seed}/think/{request['request']}")
        seconds = rng.expovariate(1 / self._options.think_time_mean)
        if self._options.reading_speed:
            seconds += read_tokens / self._options.reading_speed
        gevent.sleep(seconds)

    def _converse(self) -> None:
        if not _share.sessions:
            raise StopUser
        share, read_tokens = _share, 0
        try:
            for request in share.sessions.popleft():
                self._think(request, read_tokens)
                outcome = self._send(request)
                share.write(record(request["request"], outcome))
                read_tokens = outcome.usage.output_tokens if outcome.usage else 0
        finally:
            # Even if this user failed, and Locust says how: the records then lack a request.
            share.left -= 1
            if not share.left and share is _share:
                self._finish()

    tasks = [_converse]  # noqa: RUF012 (Locust reads it off the class)

    def _finish(self) -> None:
        """Write what this process took, and have Locust end when all processes are done."""
        assert _share.began is not None
        start, cpu_start = _share.began
        cost = ClientLoad(time.process_time() - cpu_start, time.monotonic() - start)
        gc.enable()
        _share.write(dataclasses.asdict(cost))
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            runner.send_message(_FINISHED)
        else:
            _end(self.environment)

    def _send(self, request: dict[str, Any]) -> Outcome:
        asked = body(self._options.served_model, request["prompt"], request["output_tokens"])
        stream = CompletionStream(asked.prompt_tokens, asked.output_tokens)
        usage: Usage | None = None
        status: Status = "ok"
        error: str | None = None
        sent_ns = time.monotonic_ns()
        if sent_ns - self._answered_ns > KEEP_ALIVE_SECONDS * 1e9:
            self.client.client.close()
        with self.client.post(
            COMPLETIONS,
            data=asked.content.decode(),
            headers=headers(request["request"]),
            stream=True,
            catch_response=True,
            allow_redirects=False,
        ) as response:
            try:
                self._read(response, stream)
                usage = stream.finish()
                response.success()
            except RequestError as fault:
                status, error = fault.status, str(fault)
                response.failure(f"{status}: {error}")
            finally:
                # A connection with the rest of an answer in it is closed.
                if response.status_code:
                    response.release()
        self._answered_ns = end_ns = time.monotonic_ns()
        if stream.first_token_ns is not None:
            self.environment.events.request.fire(
                request_type="TTFT",
                name=COMPLETIONS,
                response_time=(stream.first_token_ns - sent_ns) / 1e6,
                response_length=0,
                exception=None,
                context={},
            )
        return Outcome(
            status=status,
            error=error,
            sent_ns=sent_ns,
            first_byte_ns=stream.first_byte_ns,
            first_token_ns=stream.first_token_ns,
            end_ns=end_ns,
            usage=usage,
        )

    @staticmethod
    def _read(response: Any, stream: CompletionStream) -> None:
        if response.status_code == 0:
            raise _lost(response.error)
        try:
            if response.status_code != _HTTP_OK:
                said = response.stream.read().decode(errors="replace")[:200]
                raise RequestError("http-error", f"HTTP {response.status_code}: {said}")
            check_encodings(response.headers.getlist("content-encoding"))
            # By lines, which come as soon as they are there; a read would wait until it is full.
            while line := response.stream.readline(b"\n"):
                stream.feed(line, time.monotonic_ns())
            stream.feed(response.stream.read(), time.monotonic_ns())
        except RequestError:
            raise
        except Exception as error:
            raise _lost(error) from None


def _lost(error: Exception) -> RequestError:
    """Return the fault that an exception of the HTTP client stands for."""
    # What it wraps them in when it gives up.
    error = getattr(error, "original", None) or error
    status: Status = "reset"
    if isinstance(error, TimeoutError):
        status = "stalled"
    elif isinstance(error, ConnectionRefusedError):
        status = "refused"
    return RequestError(status, f"{type(error).__name__}: {error}")
