"""SGLang's server, ``sglang serve``: the stock package or the patched tree."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.cell import BatchHTTP, CellSpec
from harness.engines import registry
from harness.engines.base import Counters, max_batched_tokens
from harness.engines.server import HOST, MODEL, Server
from harness.engines.sglang import counters

_SERVING = "harness.engines.sglang.serving"
# Of a request's length SGLang keeps some to itself: six, as of 0.5.23.
_RESERVED_TOKENS = 16
_IDLE_SECONDS = 60


class SGLangServer(Server):
    """A server of SGLang; see ``Server``."""

    @classmethod
    def command(cls, spec: CellSpec, model: str, max_model_len: int, port: int) -> list[str]:
        """Return what starts it."""
        python = registry.ENGINES[spec.engine].python
        options = _options(spec, max_model_len, port)
        return [python, "-m", _SERVING, "serve", "--model-path", model, *options]

    @classmethod
    @contextlib.contextmanager
    def environment(cls, spec: CellSpec, temporary: Path) -> Iterator[Mapping[str, str]]:
        """Give the variables that it needs."""
        # Its processes meet at sockets there, whose paths must be short.
        folder = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield os.environ | {"TMPDIR": f"/proc/{os.getpid()}/fd/{folder}"}
        finally:
            os.close(folder)

    @property
    def version(self) -> str:
        """The version that the server reports."""
        return str(json.loads(self.get("/server_info"))["version"])

    def count(self, metrics: str) -> Counters:
        """Return the prefix-cache counters that are in its metrics."""
        return counters.parse(metrics)

    def policy_state(self) -> dict[str, float]:
        """Return the eviction policy's state as of now, in pages, its blocks."""
        state = counters.policy_state(self.get("/metrics"))
        return {name: tokens / self.block_size for name, tokens in state.items()}

    def forget(self) -> None:
        """Have it forget what is cached, as soon as it is idle."""
        # Of the last request it may be busy for a while after its answer; then it refuses.
        self.post(f"/flush_cache?timeout={_IDLE_SECONDS}", None)


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
