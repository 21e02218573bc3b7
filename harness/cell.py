"""The cell: one measurement, one fresh engine, one folder of results.

Measuring happens in a process of its own (``harness.engines.worker``), so that an engine that
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from harness import runlock
from harness.errors import HarnessError
from harness.load.spec import Load, columns

Tier = Literal["replay", "cpu", "gpu"]
# vllm is the patched tree, vllm-stock the installed package as it came, replay the patched tree's
# scheduler without a model.
EngineName = Literal["vllm", "vllm-stock", "replay"]
Policy = Literal["lru", "dbl", "arc", "slru", "s3fifo"]

REQUESTS, TELEMETRY, SUMMARY, PROVENANCE, ENGINE_LOG, METRICS = (
    "requests.parquet",
    "telemetry.parquet",
    "summary.json",
    "provenance.json",
    "engine.log",
    "metrics.prom",
)

# How the reason of a cell begins that could not be measured here.
NOT_RUN = "not run"
# Where the engine puts its temporary files, so that none are left.
_TEMPORARY = "tmp"
_WORKER = "harness.engines.worker"
# How a worker's last line begins that says what went wrong.
FAILED = "failed: "
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
    load: Load
    cache_blocks: PositiveInt
    block_size: PositiveInt
    threads: PositiveInt | None = None
    seed: NonNegativeInt
    model: str
    dtype: str
    scale: float = 1.0
    # Of the same cell measured once more, for the noise.
    repeat: NonNegativeInt = 0

    @property
    def cache_tokens(self) -> int:
        """Size of the KV cache in tokens, exactly."""
        return self.cache_blocks * self.block_size

    @property
    def id(self) -> str:
        """Name of the cell's folder."""
        return (
            f"{self.workload}-{self.load.mode}{self.load.label}-{self.cache_tokens}-s{self.seed}"
            f"-{self.engine}-{self.policy}{f'-again{self.repeat}' if self.repeat else ''}"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """What a summary says of the cell itself."""
        return {
            "cell": self.id,
            **self.model_dump(exclude={"model", "load"}),
            **columns(self.load),
            "cache_tokens": self.cache_tokens,
        }


class WorkerOrder(BaseModel):
    """What the worker process is told, as JSON on its command line.

    ``cells`` are by the folder that each is written to; they share the model and the workload.
    """

    cells: dict[Path, CellSpec]
    model: str
    workload: Path
    patches_sha256: str | None
    progress_fd: int


def run(
    cells: Mapping[str, CellSpec],
    *,
    model: str,
    workload: Path,
    engine_tree: Path | None,
    patches_sha256: str | None,
    folder: Path,
) -> None:
    """Measure cells one after the other and write their folder, whole or not at all.

    Args:
        cells: Each by the name of its folder inside ``folder``; "." is ``folder`` itself.
        model: The model's folder or hub id.
        workload: The workload file of the cells' workload and seed.
        engine_tree: Folder to import the engine from; the installed package if None.
        patches_sha256: Hash of the patch series in that folder, for the record.
        folder: Where the results go.

    Raises:
        HarnessError: if the engine dies or hangs; its log stays beside the folder.

    """
    failed_log = folder.with_name(f"{folder.name}.failed.log")
    failed_log.unlink(missing_ok=True)
    with _whole(folder) as partial:
        for name in cells:
            (partial / name).mkdir(exist_ok=True)
        order = WorkerOrder(
            cells={partial / name: spec for name, spec in cells.items()},
            model=model,
            workload=workload,
            patches_sha256=patches_sha256,
            progress_fd=-1,
        )
        threads = next(iter(cells.values())).threads
        with _worker(order, threads, engine_tree, partial) as (process, progress):
            reason = _watch(folder.name, process, progress)
        if reason is not None:
            log = partial / ENGINE_LOG
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            os.replace(log, failed_log)
            raise HarnessError(
                f"cell {folder.name}: {reason}. Last lines of its log ({failed_log}):\n{tail}"
            )
        shutil.rmtree(partial / _TEMPORARY)


def write_not_run(cells: Mapping[str, CellSpec], reason: str, folder: Path) -> None:
    """Write the folder of cells that cannot be measured here: a summary that says why.

    Args:
        cells: As of ``run``.
        reason: Why, and what to do.
        folder: Where the results go.

    """
    with _whole(folder) as partial:
        for name, spec in cells.items():
            (partial / name).mkdir(exist_ok=True)
            summary = spec.summary | {
                "requests": 0,
                "valid": False,
                "invalid_reason": f"{NOT_RUN}: {reason}",
            }
            (partial / name / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Give a folder under a temporary name; rename it if all goes well, else remove it."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _worker(
    order: WorkerOrder, threads: int | None, engine_tree: Path | None, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], IO[str]]]:
    """Run the worker in a process group of its own; nothing of it outlives this block."""
    reading, writing = os.pipe()
    order = order.model_copy(update={"progress_fd": writing})
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in process, as the paper measures
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONHASHSEED": "0",  # vLLM seeds its block hashes with it
        "TMPDIR": str((folder / _TEMPORARY).resolve()),
    }
    if threads is not None:
        # MKL's own variable goes first there, and Snakemake sets both.
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
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
            end_group(process)


def _own_search_path() -> list[str]:
    given = os.environ.get("PYTHONPATH")
    return [str(Path(__file__).parents[1]), *([given] if given else [])]


def _watch(name: str, process: subprocess.Popen[bytes], progress: IO[str]) -> str | None:
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
        failure = None
        while True:
            ready = [key.fileobj for key, _ in selector.select(STALL_SECONDS)]
            if not ready:
                return f"the engine showed no progress for {STALL_SECONDS:.0f} s"
            if progress not in ready:
                raise HarnessError(f"cell {name}: ended with the run that it belongs to")
            line = progress.readline()
            if not line:
                break
            if line.startswith(FAILED):
                failure = line.removeprefix(FAILED).strip()
            else:
                print(f"{name}: {line.strip()}", file=sys.stderr, flush=True)
    code = process.wait()
    if failure:
        return failure
    if code < 0:
        return f"the engine was killed by {signal.Signals(-code).name}"
    return f"the engine died with exit code {code}" if code else None


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process group that a process leads: ask the leader, wait, kill them all."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return where a cell's numbers come from; nothing if it was not run.

    Raises:
        HarnessError: if the file is damaged.

    """
    try:
        provenance: dict[str, Any] = json.loads((folder / PROVENANCE).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise HarnessError(f"{folder / PROVENANCE}: not readable: {error}") from None
    return provenance


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a measured cell.

    Raises:
        HarnessError: if there is none.

    """
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError) as error:
        raise HarnessError(f"{folder}: not a measured cell: {error}") from None
    return summary
