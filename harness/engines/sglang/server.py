"""SGLang's server, ``sglang serve``: the stock package or the patched tree."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.cell import BatchHTTP, CellSpec
from harness.engines import registry, server
from harness.engines.base import Counters, max_batched_tokens
from harness.engines.server import HOST, MODEL, Server
from harness.engines.sglang import counters

_SERVING = "harness.engines.sglang.serving"
# Of a request's length SGLang keeps some to itself: six, as of 0.5.23.
_RESERVED_TOKENS = 16


class SGLangServer(Server):
    """A server of SGLang; see ``Server``."""

    page_size = 1

    @property
    def version(self) -> str:
        """The version that the server reports."""
        return str(json.loads(self.get("/server_info"))["version"])

    def count(self, metrics: str) -> Counters:
        """Return the prefix-cache counters that are in its metrics."""
        return counters.parse(metrics)

    def policy_state(self) -> dict[str, float]:
        """Return the eviction policy's state as of now, in pages."""
        state = counters.policy_state(self.get("/metrics"))
        return {name: tokens / self.page_size for name, tokens in state.items()}

    def forget(self) -> None:
        """Have it forget what is cached."""
        self.post("/flush_cache", None)


@contextlib.contextmanager
def serve(
    spec: CellSpec,
    model: str,
    max_model_len: int,
    temporary: Path,
    report: Callable[[str], object],
    port: int | None = None,
) -> Iterator[SGLangServer]:
    """Start a server whose pool has exactly ``spec.cache_tokens``; end it whatever happens.

    It is killed when this process ends, however that ends.

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
    port = server.find_port(port)
    command = [
        *(registry.ENGINES[spec.engine].python, "-m", _SERVING, "serve"),
        *("--model-path", str(Path(model).resolve()) if Path(model).exists() else model),
        *_options(spec, max_model_len, port),
    ]
    # Its processes meet at sockets there, whose paths must be short.
    folder = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    environment = os.environ | {"TMPDIR": f"/proc/{os.getpid()}/fd/{folder}"}
    try:
        with server.start(SGLangServer, command, port, environment, temporary, report) as started:
            started.page_size = spec.block_size
            yield started
    finally:
        os.close(folder)


def _options(spec: CellSpec, max_model_len: int, port: int) -> list[str]:
    options: dict[str, object] = {
        "host": HOST,
        "port": port,
        "served-model-name": MODEL,
        "dtype": spec.dtype,
        "random-seed": 0,
        "page-size": spec.block_size,
        "max-total-tokens": spec.cache_tokens,
        "context-length": max_model_len + _RESERVED_TOKENS,
        # Requests are split as little as with other engines.
        "chunked-prefill-size": max_batched_tokens(max_model_len),
        "max-prefill-tokens": max_batched_tokens(max_model_len),
        "schedule-policy": "fcfs",
        "radix-eviction-policy": spec.policy,
        "log-level": "warning",
    }
    if isinstance(spec.load, BatchHTTP):
        options["max-running-requests"] = spec.load.batch_size
    if spec.tier == "cpu":
        options |= {"device": "cpu", "attention-backend": "torch_native"}
    return [
        *(text for name, value in options.items() for text in (f"--{name}", str(value))),
        # As of other engines: what is cached when does not depend on timing.
        "--disable-overlap-schedule",
        "--enable-cache-report",
        "--enable-metrics",
        "--skip-server-warmup",
        # Else it asks for work without end, and takes the core from whose turn it is.
        "--sleep-on-idle",
    ]
