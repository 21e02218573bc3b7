"""vLLM's server, ``vllm serve``: the stock package or the patched tree."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import patching
from harness.cell import BatchHTTP, CellSpec
from harness.engines.base import Counters, max_batched_tokens
from harness.engines.server import HOST, MODEL, Server
from harness.engines.vllm import counters
from harness.engines.vllm.blocks import CPU_KV_CACHE_BYTES, RESERVED_BLOCKS

_SERVING = "harness.engines.vllm.serving"
# The model runs in the engine's process, as on one GPU and as in process. By its short name vLLM
# would refuse it on the CPU, where it sets the number of threads by starting another process; here
# that is set for all of them.
_IN_ENGINE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


class VLLMServer(Server):
    """A server of vLLM; see ``Server``."""

    @classmethod
    def command(cls, spec: CellSpec, model: str, max_model_len: int, port: int) -> list[str]:
        """Return what starts it."""
        options = _options(spec, max_model_len, port)
        return [sys.executable, "-m", _SERVING, "serve", model, *options]

    @classmethod
    @contextlib.contextmanager
    def environment(cls, spec: CellSpec, temporary: Path) -> Iterator[Mapping[str, str]]:
        """Give the variables that it needs."""
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
        yield environment

    @property
    def version(self) -> str:
        """The version that the server reports."""
        return str(json.loads(self.get("/version"))["version"])

    def count(self, metrics: str) -> Counters:
        """Return the prefix-cache counters that are in its metrics."""
        return counters.parse(metrics)

    def policy_state(self) -> dict[str, float]:
        """Return the eviction policy's state as of now."""
        return counters.policy_state(self.get("/metrics"))

    def forget(self) -> None:
        """Have it forget what is cached."""
        self.post("/reset_prefix_cache", None)


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


def _stock_metadata(folder: Path) -> list[str]:
    """Return what goes on the path for the ``vllm`` command to find its own version."""
    package = patching.find_package("vllm")
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        patching.write_metadata("vllm", package, folder)
        return [str(folder.resolve())]
    return []
