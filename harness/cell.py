"""The cell: one measurement, one fresh engine, one folder of results.

The measurement happens in a process of its own (``harness.engines.worker``), so that an engine that
dies, however it dies, ends as one clear message; so that which engine is imported is decided by its
search path; and so that nothing of it is left behind.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from harness import runlock
from harness.errors import HarnessError

Tier = Literal["cpu", "gpu"]
# vllm is the patched tree, vllm-stock the installed package as it came.
EngineName = Literal["vllm", "vllm-stock"]
Policy = Literal["lru", "dbl", "arc", "slru", "s3fifo"]

REQUESTS, TELEMETRY, SUMMARY, PROVENANCE, ENGINE_LOG, METRICS = (
    "requests.parquet",
    "telemetry.parquet",
    "summary.json",
    "provenance.json",
    "engine.log",
    "metrics.prom",
)

# Where the engine puts its temporary files, so that none are left.
_TEMPORARY = "tmp"
_WORKER = "harness.engines.worker"
# An engine that shows no progress for so long is taken for hung.
STALL_SECONDS = 600.0
_GRACE_SECONDS = 10.0
_LOG_LINES = 20


class CellSpec(BaseModel):
    """What one cell measures; equal specs are the same cell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tier: Tier
    engine: EngineName
    policy: Policy
    workload: str
    mode: Literal["batch"] = "batch"
    batch_size: PositiveInt
    cache_blocks: PositiveInt
    block_size: PositiveInt
    threads: PositiveInt | None = None
    seed: NonNegativeInt
    model: str
    dtype: str

    @property
    def cache_tokens(self) -> int:
        """Size of the KV cache in tokens, exactly."""
        return self.cache_blocks * self.block_size

    @property
    def id(self) -> str:
        """Name of the cell's folder."""
        return (
            f"{self.workload}-{self.mode}{self.batch_size}-{self.cache_tokens}-s{self.seed}"
            f"-{self.engine}-{self.policy}"
        )


class WorkerOrder(BaseModel):
    """What the worker process is told, as JSON on its command line."""

    spec: CellSpec
    model: str
    workload: Path
    folder: Path
    patches_sha256: str | None
    progress_fd: int


def run(
    spec: CellSpec,
    *,
    model: str,
    workload: Path,
    engine_tree: Path | None,
    patches_sha256: str | None,
    folder: Path,
) -> None:
    """Measure one cell and write its folder, whole or not at all.

    Args:
        spec: The cell.
        model: The model's folder or hub id.
        workload: The workload file of the cell's workload and seed.
        engine_tree: Folder to import the engine from; the installed package if None.
        patches_sha256: Hash of the patch series in that folder, for the record.
        folder: Where the results go.

    Raises:
        HarnessError: if the engine dies or hangs; its log stays beside the folder.

    """
    partial = folder.with_name(f".{folder.name}.partial")
    failed_log = folder.with_name(f"{folder.name}.failed.log")
    shutil.rmtree(partial, ignore_errors=True)
    failed_log.unlink(missing_ok=True)
    partial.mkdir(parents=True)
    try:
        with _worker(spec, model, workload, engine_tree, patches_sha256, partial) as (
            process,
            progress,
        ):
            reason = _watch(spec, process, progress)
        if reason is not None:
            log = partial / ENGINE_LOG
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            os.replace(log, failed_log)
            raise HarnessError(
                f"cell {spec.id}: {reason}. Last lines of its log ({failed_log}):\n{tail}"
            )
        shutil.rmtree(partial / _TEMPORARY)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _worker(
    spec: CellSpec,
    model: str,
    workload: Path,
    engine_tree: Path | None,
    patches_sha256: str | None,
    folder: Path,
) -> Iterator[tuple[subprocess.Popen[bytes], IO[str]]]:
    """Run the worker in a process group of its own; nothing of it outlives this block."""
    reading, writing = os.pipe()
    order = WorkerOrder(
        spec=spec,
        model=model,
        workload=workload,
        folder=folder,
        patches_sha256=patches_sha256,
        progress_fd=writing,
    )
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in process, as the paper measures
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONHASHSEED": "0",  # vLLM seeds its block hashes with it
        "TMPDIR": str((folder / _TEMPORARY).resolve()),
    }
    if spec.threads is not None:
        # MKL's own variable goes first there, and Snakemake sets both.
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(spec.threads))
    (folder / _TEMPORARY).mkdir()
    search_path = [str(tree.resolve()) for tree in (engine_tree,) if tree]
    environment["PYTHONPATH"] = os.pathsep.join([*search_path, *_own_search_path()])
    with os.fdopen(reading) as progress, (folder / ENGINE_LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, order.model_dump_json()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        try:
            yield process, progress
        finally:
            _end_group(process)


def _own_search_path() -> list[str]:
    given = os.environ.get("PYTHONPATH")
    return [str(Path(__file__).parents[1]), *([given] if given else [])]


def _watch(spec: CellSpec, process: subprocess.Popen[bytes], progress: IO[str]) -> str | None:
    """Show progress until the worker ends; return what went wrong, if anything.

    Raises:
        HarnessError: if the run that this cell belongs to ends.

    """
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(progress, selectors.EVENT_READ)
        for descriptor in runlock.watch():
            stack.callback(os.close, descriptor)
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select(STALL_SECONDS)]
            if not ready:
                return f"the engine showed no progress for {STALL_SECONDS:.0f} s"
            if progress not in ready:
                raise HarnessError(f"cell {spec.id}: ended with the run that it belongs to")
            line = progress.readline()
            if not line:
                break
            print(f"{spec.id}: {line.strip()}", file=sys.stderr, flush=True)
    code = process.wait()
    if code < 0:
        return f"the engine was killed by {signal.Signals(-code).name}"
    return f"the engine died with exit code {code}" if code else None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the worker's process group: ask, wait, kill."""
    for ask in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, ask)
            deadline = time.monotonic() + _GRACE_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def read_summary(folder: Path) -> dict[str, object]:
    """Return the summary of a measured cell.

    Raises:
        HarnessError: if there is none.

    """
    try:
        summary: dict[str, object] = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError) as error:
        raise HarnessError(f"{folder}: not a measured cell: {error}") from None
    return summary
