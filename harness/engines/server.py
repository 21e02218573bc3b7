"""What the servers of all engines have in common: how they are started, asked and ended.

They listen on loopback only.
"""

import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.cell import CellSpec
from harness.engines.base import Counters
from harness.errors import HarnessError
from harness.processes import end_group, ended

HOST = "127.0.0.1"
# What a model is served as.
MODEL = "model"
# Weights, compilation and graph capture of a large model take minutes.
READY_SECONDS = 900.0
_POLL_SECONDS = 0.1
_REPORT_SECONDS = 30.0
_HTTP_SECONDS = 30.0
_DYING_SECONDS = 2.0
# What command lines end with that do not take an option.
_USAGE_ERROR = 2
# A server updates its counters a moment after it sent the last token.
_SETTLE_SECONDS = 0.25


class Server(ABC):
    """A server that runs and is healthy.

    What asks it raises ``HarnessError`` if it does not answer.

    Args:
        url: Where it listens.
        process: The leader of its process group.
        block_size: Tokens in a block of its cache.

    """

    def __init__(self, url: str, process: "subprocess.Popen[bytes]", block_size: int = 1) -> None:
        self.url, self.process, self.block_size = url, process, block_size

    @classmethod
    @abstractmethod
    def command(cls, spec: CellSpec, model: str, max_model_len: int, port: int) -> list[str]:
        """Return what starts it; see ``serve``."""

    @classmethod
    @abstractmethod
    def environment(
        cls, spec: CellSpec, temporary: Path
    ) -> contextlib.AbstractContextManager[Mapping[str, str]]:
        """Give the variables that it needs, for as long as it runs; see ``serve``."""

    @property
    @abstractmethod
    def version(self) -> str:
        """The version that the server reports."""

    @abstractmethod
    def count(self, metrics: str) -> Counters:
        """Return the prefix-cache counters that are in its metrics; raises if there are none."""

    @abstractmethod
    def policy_state(self) -> dict[str, float]:
        """Return the eviction policy's state as of now, in blocks; nothing if it keeps none."""

    @abstractmethod
    def forget(self) -> None:
        """Have it forget what is cached."""

    def metrics_text(self) -> str:
        """Return its metrics in Prometheus' text format, once they no longer change."""
        text = self.get("/metrics")
        while True:
            time.sleep(_SETTLE_SECONDS)
            before, text = text, self.get("/metrics")
            if self.count(before) == self.count(text):
                return text

    def counters(self) -> Counters:
        """Return its prefix-cache counters."""
        return self.count(self.metrics_text())

    def warm_up(self, prompts: Sequence[Sequence[int]]) -> None:
        """Run prompts, then have the server forget them."""
        for prompt in prompts:
            request = {"model": MODEL, "prompt": prompt, "max_tokens": 1, "temperature": 0}
            self.post("/v1/completions", request)
        self.forget()

    def died(self) -> str | None:
        """Say how the server ended; None while it runs."""
        code = self.process.poll()
        return None if code is None else f"the server {ended(code)}"

    def get(self, path: str) -> str:
        """Return what is there."""
        return self._open(urllib.request.Request(self.url + path))

    def post(self, path: str, content: Any) -> str:
        """Send something as JSON, or nothing if it is None, and return the answer."""
        data = b"" if content is None else json.dumps(content).encode()
        return self._open(
            urllib.request.Request(
                self.url + path, data=data, headers={"Content-Type": "application/json"}
            )
        )

    def _open(self, request: urllib.request.Request) -> str:
        # Past any proxy of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_HTTP_SECONDS) as response:
                return str(response.read().decode())
        except (OSError, ValueError) as error:
            if isinstance(getattr(error, "reason", error), ConnectionError):
                # The connections of a process end before it does.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(_DYING_SECONDS)
            reason = self.died() or error
            raise HarnessError(f"{request.full_url}: {reason}") from None


S = TypeVar("S", bound=Server)


@contextlib.contextmanager
def serve(
    kind: type[S],
    spec: CellSpec,
    model: str,
    max_model_len: int,
    temporary: Path,
    report: Callable[[str], object],
    port: int | None = None,
) -> Iterator[S]:
    """Start a server with a cache of exactly the cell's size; end it whatever happens.

    It runs in a process group of its own, writes where this process writes, and is killed when this
    process ends, however that ends.

    Args:
        kind: Its class.
        spec: The cell.
        model: The model's folder or hub id.
        max_model_len: Longest prompt with its output, in tokens.
        temporary: An empty folder for what is only needed meanwhile.
        report: Called with a line on the progress now and then.
        port: To listen on; a free one if None.

    Raises:
        HarnessError: if the port is taken, or the server dies or is not healthy in time.

    """
    port = _find_port(port)
    # It runs elsewhere.
    source = str(Path(model).resolve()) if Path(model).exists() else model
    with kind.environment(spec, temporary) as environment:
        process = subprocess.Popen(
            kind.command(spec, source, max_model_len, port),
            cwd=temporary,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        server = kind(f"http://{HOST}:{port}", process, spec.block_size)
        try:
            _wait_until_healthy(server, report)
            yield server
        finally:
            end_group(process)


def _find_port(port: int | None) -> int:
    """Return a free port, or the one asked for if it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            raise HarnessError(
                f"port {port} on {HOST} cannot be used ({error.strerror}): end what listens there, "
                "or name another"
            ) from None
        return int(probe.getsockname()[1])


def _advice(server: Server) -> str:
    """Say what to do about a server that died at once; nothing if only its log knows."""
    if server.process.returncode != _USAGE_ERROR:
        return ""
    return (
        ": it does not take an option that it was given, which its log names. Those of the patches "
        "are in the patched tree only: make it anew (`harness patch build`)"
    )


def _wait_until_healthy(server: Server, report: Callable[[str], object]) -> None:
    start = reported = time.monotonic()
    while True:
        if died := server.died():
            raise HarnessError(f"{died} before it was healthy{_advice(server)}")
        with contextlib.suppress(HarnessError):
            server.get("/health")
            return
        now = time.monotonic()
        if now - start > READY_SECONDS:
            raise HarnessError(f"the server was not healthy after {READY_SECONDS:.0f} s")
        if now - reported > _REPORT_SECONDS:
            report(f"waiting for the server, {now - start:.0f} s")
            reported = now
        time.sleep(_POLL_SECONDS)
