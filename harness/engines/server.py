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
# A server updates its counters a moment after it sent the last token.
_SETTLE_SECONDS = 0.25


class Server(ABC):
    """A server that runs and is healthy.

    What asks it raises ``HarnessError`` if it does not answer.

    Args:
        url: Where it listens.
        process: The leader of its process group.

    """

    def __init__(self, url: str, process: "subprocess.Popen[bytes]") -> None:
        self.url, self.process = url, process

    @property
    @abstractmethod
    def version(self) -> str:
        """The version that the server reports."""

    @abstractmethod
    def count(self, metrics: str) -> Counters:
        """Return the prefix-cache counters that are in its metrics; raises if there are none."""

    @abstractmethod
    def policy_state(self) -> dict[str, float]:
        """Return the eviction policy's state as of now; of one that keeps none, nothing."""

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
            reason = self.died() or error
            raise HarnessError(f"{request.full_url}: {reason}") from None


S = TypeVar("S", bound=Server)


@contextlib.contextmanager
def start(
    kind: type[S],
    command: Sequence[str],
    port: int,
    environment: Mapping[str, str],
    folder: Path,
    report: Callable[[str], object],
) -> Iterator[S]:
    """Start a server, wait until it is healthy, and end it whatever happens.

    It runs in a process group of its own and writes where this process writes.

    Args:
        kind: Its class.
        command: What starts it.
        port: Where it will listen; see ``find_port``.
        environment: Its variables.
        folder: Where it runs.
        report: Called with a line on the progress now and then.

    Raises:
        HarnessError: if it dies or is not healthy in time.

    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    server = kind(f"http://{HOST}:{port}", process)
    try:
        _wait_until_healthy(server, report)
        yield server
    finally:
        end_group(process)


def find_port(port: int | None) -> int:
    """Return a free port, or the one asked for if it is free.

    Raises:
        HarnessError: if it is not.

    """
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


def _wait_until_healthy(server: Server, report: Callable[[str], object]) -> None:
    start = reported = time.monotonic()
    while True:
        if died := server.died():
            raise HarnessError(f"{died} before it was healthy")
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
