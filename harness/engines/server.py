"""vLLM's server, ``vllm serve``, on loopback: the stock package or the patched tree."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import patching
from harness.cell import CellSpec, end_group
from harness.engines.base import (
    CPU_KV_CACHE_BYTES,
    RESERVED_BLOCKS,
    Counters,
    max_batched_tokens,
)
from harness.errors import HarnessError
from harness.load.spec import BatchHTTP
from harness.measure import counters

HOST = "127.0.0.1"
# Weights, compilation and graph capture of a large model take minutes.
READY_SECONDS = 900.0
_POLL_SECONDS = 0.1
_REPORT_SECONDS = 30.0
_HTTP_SECONDS = 30.0
# The server updates its counters a moment after it sent the last token.
_SETTLE_SECONDS = 0.25
_SERVING = "harness.engines.serving"
# The model runs in the engine's process, as on one GPU and as in process. By its short name vLLM
# would refuse it on the CPU, where it sets the number of threads by starting another process; here
# that is set for all of them.
_IN_ENGINE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
# What it is served as.
MODEL = "model"


class Server:
    """A server that runs and is healthy; made by ``serve``."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]") -> None:
        self.url, self.process = url, process

    @property
    def version(self) -> str:
        """The version that the server reports."""
        return str(json.loads(self._get("/version"))["version"])

    def metrics_text(self) -> str:
        """Return its metrics in Prometheus' text format, once they no longer change.

        Raises:
            HarnessError: if it does not answer.

        """
        text = self._get("/metrics")
        while True:
            time.sleep(_SETTLE_SECONDS)
            before, text = text, self._get("/metrics")
            if counters.parse(before) == counters.parse(text):
                return text

    def counters(self) -> Counters:
        """Return its prefix-cache counters; raises as ``metrics_text``."""
        return counters.parse(self.metrics_text())

    def policy_state(self) -> dict[str, float]:
        """Return the eviction policy's state as of now; raises as ``metrics_text``."""
        return counters.policy_state(self._get("/metrics"))

    def warm_up(self, prompts: list[list[int]]) -> None:
        """Run prompts, then have the server forget them.

        Raises:
            HarnessError: if it fails to.

        """
        for prompt in prompts:
            request = {"model": MODEL, "prompt": prompt, "max_tokens": 1, "temperature": 0}
            self._post("/v1/completions", request)
        self._post("/reset_prefix_cache", None)

    def died(self) -> str | None:
        """Say how the server ended; None while it runs."""
        code = self.process.poll()
        return None if code is None else f"the server {ended(code)}"

    def _get(self, path: str) -> str:
        return self._open(urllib.request.Request(self.url + path))

    def _post(self, path: str, content: Any) -> str:
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


def ended(code: int) -> str:
    """Say how a process ended that should not have, by its exit code."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"died with exit code {code}"


@contextlib.contextmanager
def serve(
    spec: CellSpec,
    model: str,
    max_model_len: int,
    temporary: Path,
    report: Callable[[str], object],
    port: int | None = None,
) -> Iterator[Server]:
    """Start a server with exactly ``spec.cache_blocks`` usable blocks; end it whatever happens.

    It runs in a process group of its own, writes where this process writes, and is killed when this
    process ends, however that ends.

    Args:
        spec: The cell.
        model: The model's folder or hub id.
        max_model_len: Longest prompt with its output, in tokens.
        temporary: An empty folder for what is only needed meanwhile.
        report: Called with a line on the progress now and then.
        port: To listen on; a free one if None.

    Raises:
        HarnessError: if the port is taken, or the server dies or is not healthy in time.

    """
    port = _check_port(port)
    environment = {
        name: value
        for name, value in os.environ.items()
        # Meant for engines in process.
        if name != "VLLM_ENABLE_V1_MULTIPROCESSING"
    }
    environment["VLLM_SERVER_DEV_MODE"] = "1"  # for /reset_prefix_cache
    # Its processes meet at sockets there, whose paths must be short.
    environment["VLLM_RPC_BASE_PATH"] = "."
    if spec.engine == "vllm-stock":
        environment["PYTHONPATH"] = os.pathsep.join(
            [*_stock_metadata(temporary), environment.get("PYTHONPATH", "")]
        )
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", _SERVING, "serve"),
            str(Path(model).resolve()) if Path(model).exists() else model,
            *_options(spec, max_model_len, port),
        ],
        cwd=temporary,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    server = Server(f"http://{HOST}:{port}", process)
    try:
        _wait_until_healthy(server, report)
        yield server
    finally:
        end_group(process)


def imported_from() -> str:
    """Return the file that a server started here imports vLLM from."""
    found = importlib.util.find_spec("vllm")
    return str(found.origin) if found else "nowhere"


def _options(spec: CellSpec, max_model_len: int, port: int) -> list[str]:
    options: dict[str, object] = {
        "host": HOST,
        "port": port,
        "served-model-name": MODEL,
        "dtype": spec.dtype,
        "seed": 0,
        "block-size": spec.block_size,
        "num-gpu-blocks-override": spec.cache_blocks + RESERVED_BLOCKS,
        "max-model-len": max_model_len,
        "max-num-batched-tokens": max_batched_tokens(max_model_len),
    }
    if spec.engine == "vllm":
        options["prefix-cache-eviction-policy"] = spec.policy
    if isinstance(spec.load, BatchHTTP):
        options["max-num-seqs"] = spec.load.batch_size
    if spec.tier == "cpu":
        options["kv-cache-memory-bytes"] = CPU_KV_CACHE_BYTES
        options["distributed-executor-backend"] = _IN_ENGINE
    return [
        *(text for name, value in options.items() for text in (f"--{name}", str(value))),
        "--enable-prefix-caching",
        # As in process: what is cached when does not depend on timing.
        "--no-async-scheduling",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        *(["--enforce-eager"] if spec.tier == "cpu" else []),
    ]


def _check_port(port: int | None) -> int:
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


def _stock_metadata(folder: Path) -> list[str]:
    """Return what goes on the path for the ``vllm`` command to find its own version."""
    package = patching.find_package("vllm")
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        patching.write_metadata("vllm", package, folder)
        return [str(folder.resolve())]
    return []


def _wait_until_healthy(server: Server, report: Callable[[str], object]) -> None:
    start = reported = time.monotonic()
    while True:
        if died := server.died():
            raise HarnessError(f"{died} before it was healthy")
        with contextlib.suppress(HarnessError):
            server._get("/health")
            return
        now = time.monotonic()
        if now - start > READY_SECONDS:
            raise HarnessError(f"the server was not healthy after {READY_SECONDS:.0f} s")
        if now - reported > _REPORT_SECONDS:
            report(f"waiting for the server, {now - start:.0f} s")
            reported = now
        time.sleep(_POLL_SECONDS)
