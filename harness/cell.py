"""The cell: one measurement, one fresh engine, one folder of results; and what measures them.

A cell is measured in a process of its own (``harness.engines.worker``), so that an engine that
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from harness import runlock, turns
from harness.errors import HarnessError
from harness.load.spec import Load, OpenLoop, columns

Tier = Literal["replay", "cpu", "gpu"]
# vllm is the patched tree, vllm-stock the installed package as it came, replay the patched tree's
# scheduler without a model.
EngineName = Literal["vllm", "vllm-stock", "replay"]
Policy = Literal["lru", "dbl", "arc", "slru", "s3fifo"]

REQUESTS, TELEMETRY, TURNS, SUMMARY, PROVENANCE, ENGINE_LOG, METRICS = (
    "requests.parquet",
    "telemetry.parquet",
    "turns.parquet",
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
        """The cell's name."""
        again = f"-again{self.repeat}" if self.repeat else ""
        return f"{self._named(self.load.label)}-{self.engine}-{self.policy}{again}"

    @property
    def ring(self) -> str:
        """Name of the group of cells that this one takes turns with."""
        load = self.load
        return self._named(load.ring if isinstance(load, OpenLoop) else load.label)

    def _named(self, load: str) -> str:
        return f"{self.workload}-{self.load.mode}{load}-{self.cache_tokens}-s{self.seed}"

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
    """What a worker process is told, as JSON on its command line.

    ``cells`` are by the folder that each is written to; they share the model and the workload.
    ``place`` is of ``Turns``, ``beside`` the cells that it takes turns with.
    """

    cells: dict[Path, CellSpec]
    model: str
    workload: Path
    patches_sha256: str | None
    progress_fd: int
    place: turns.Place
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Worker:
    """A worker process, the name that it goes by, and what it says."""

    name: str
    process: subprocess.Popen[bytes]
    progress: IO[str]
    log: Path


def run(
    cells: Mapping[str, CellSpec],
    *,
    model: str,
    workload: Path,
    engine_tree: Path | None,
    patches_sha256: str | None,
    folder: Path,
) -> None:
    """Measure cells and write their folder, whole or not at all.

    Those of tier replay are measured one after the other, in one process. Others have one each, and
    take turns.

    Args:
        cells: Each by the name of its folder inside ``folder``; "." is ``folder`` itself. They
            share a tier.
        model: The model's folder or hub id.
        workload: The workload file of the cells' workload and seed.
        engine_tree: Folder to import engines from; the stock engine is the installed package.
        patches_sha256: Hash of the patch series in that folder, for the record.
        folder: Where the results go.

    Raises:
        HarnessError: if the engine dies or hangs; its log stays beside the folder.

    """
    failed_log = folder.with_name(f"{folder.name}.failed.log")
    failed_log.unlink(missing_ok=True)
    with _whole(folder) as partial, contextlib.ExitStack() as stack:
        for name in cells:
            (partial / name).mkdir(exist_ok=True)
        at = {partial / name: spec for name, spec in cells.items()}
        if all(spec.tier == "replay" for spec in cells.values()):
            parts = {partial: at}
        else:
            parts = {home: {home: spec} for home, spec in at.items()}
        places = turns.places(len(parts))
        for descriptor in (*places[0].give, *(place.mine for place in places)):
            stack.callback(os.close, descriptor)
        workers = []
        for (home, part), place in zip(parts.items(), places, strict=True):
            order = WorkerOrder(
                cells=part,
                model=model,
                workload=workload,
                patches_sha256=None if _is_stock(part) else patches_sha256,
                progress_fd=-1,
                place=place,
                beside=tuple(spec.id for spec in cells.values() if spec not in part.values()),
            )
            name = folder.name if home == partial else home.name
            workers.append(stack.enter_context(_worker(name, order, engine_tree, home)))
        if failed := _watch(workers):
            worker, reason = failed
            tail = "\n".join(worker.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            os.replace(worker.log, failed_log)
            raise HarnessError(
                f"cell {worker.name}: {reason}. Last lines of its log ({failed_log}):\n{tail}"
            )
        for home in parts:
            shutil.rmtree(home / _TEMPORARY)


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
    name: str, order: WorkerOrder, engine_tree: Path | None, home: Path
) -> Iterator[_Worker]:
    """Run a worker in a process group of its own; nothing of it outlives this block."""
    reading, writing = os.pipe()
    order = order.model_copy(update={"progress_fd": writing})
    spec = next(iter(order.cells.values()))
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in process, as the paper measures
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONHASHSEED": "0",  # vLLM seeds its block hashes with it
        "TMPDIR": str((home / _TEMPORARY).resolve()),
    }
    if spec.threads is not None:
        # MKL's own variable goes first there, and Snakemake sets both.
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(spec.threads))
    (home / _TEMPORARY).mkdir()
    search_path = _own_search_path()
    if engine_tree and not _is_stock(order.cells):
        search_path = [str(engine_tree.resolve()), *search_path]
    environment["PYTHONPATH"] = os.pathsep.join(search_path)
    log = home / ENGINE_LOG
    with os.fdopen(reading) as progress, log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, order.model_dump_json()],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[writing, order.place.mine, *order.place.give],
            start_new_session=True,
        )
        os.close(writing)
        try:
            yield _Worker(name, process, progress, log)
        finally:
            end_group(process)


def _is_stock(cells: Mapping[Path, CellSpec]) -> bool:
    return any(spec.engine == "vllm-stock" for spec in cells.values())


def _own_search_path() -> list[str]:
    given = os.environ.get("PYTHONPATH")
    return [str(Path(__file__).parents[1]), *([given] if given else [])]


def _watch(workers: Sequence[_Worker]) -> tuple[_Worker, str] | None:
    """Show progress until all workers end; return the first that goes wrong and how, if any.

    Raises:
        HarnessError: if the run that these cells belong to ends.

    """
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for worker in workers:
            selector.register(worker.progress, selectors.EVENT_READ, worker)
        for descriptor in runlock.watch():
            stack.callback(os.close, descriptor)
            selector.register(descriptor, selectors.EVENT_READ)
        running = list(workers)
        while running:
            ready = [key.data for key, _ in selector.select(STALL_SECONDS)]
            if not ready:
                hung = f"the engine showed no progress for {STALL_SECONDS:.0f} s"
                others = ", nor did those that it takes turns with" if running[1:] else ""
                return running[0], hung + others
            if None in ready:
                names = ", ".join(worker.name for worker in workers)
                raise HarnessError(f"cell {names}: ended with the run that it belongs to")
            for worker in ready:
                line = worker.progress.readline()
                if line.startswith(FAILED):
                    return worker, line.removeprefix(FAILED).strip()
                if line:
                    print(f"{worker.name}: {line.strip()}", file=sys.stderr, flush=True)
                    continue
                selector.unregister(worker.progress)
                running.remove(worker)
                code = worker.process.wait()
                if code < 0:
                    return worker, f"the engine was killed by {signal.Signals(-code).name}"
                if code:
                    return worker, f"the engine died with exit code {code}"
    return None


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
