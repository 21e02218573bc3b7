"""Has cells measured, each in a process of its own, and writes their folders.

So that an engine that dies, however it dies, ends as one clear message; so that which engine is
imported is decided by its search path; and so that nothing of it is left behind.
"""

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness import runlock, turns
from harness.cell import CellSpec
from harness.engines import registry
from harness.errors import HarnessError
from harness.measure.order import DONE, FAILED, WorkerOrder, queue
from harness.measure.progress import Bar
from harness.measure.records import ENGINE_LOG, NOT_RUN, SUMMARY
from harness.processes import end_group, ended

# Where the engine puts its temporary files, so that none are left.
_TEMPORARY = "tmp"
_WORKER = "harness.measure.worker"
# An engine that shows no progress for so long is taken for hung.
STALL_SECONDS = 600.0
_LOG_LINES = 20
# Bytes of progress read at a time.
_CHUNK = 65536


@dataclass(frozen=True)
class _Worker:
    """A worker process, the name that it goes by, and what it says."""

    name: str
    process: subprocess.Popen[bytes]
    progress: IO[bytes]
    log: Path


def run(
    cells: Mapping[str, CellSpec],
    *,
    model: str,
    workload: Path,
    engine_tree: Path | None,
    patches_sha256: str | None,
    folder: Path,
    processes: int = 1,
    requests: int = 0,
) -> None:
    """Measure cells and write their folder, whole or not at all.

    Those of tier replay are measured one after the other by each of some processes. Others have a
    process each, and take turns.

    Args:
        cells: Each by the name of its folder inside ``folder``; "." is ``folder`` itself. They
            share a tier.
        model: The model's folder or hub id.
        workload: The workload file of the cells' workload and seed.
        engine_tree: Folder to import engines from; the stock engine is the installed package.
        patches_sha256: Hash of the patch series in that folder, for the record.
        folder: Where the results go.
        processes: For cells of tier replay.
        requests: Of the workload, for the progress of cells of tier replay.

    Raises:
        HarnessError: if the engine dies or hangs; its log stays beside the folder.

    """
    failed_log = folder.with_name(f"{folder.name}.failed.log")
    failed_log.unlink(missing_ok=True)
    with _whole(folder) as partial, contextlib.ExitStack() as stack:
        for name in cells:
            (partial / name).mkdir(exist_ok=True)
        at = {partial / name: spec for name, spec in cells.items()}
        queue_fd: int | None = None
        if is_replay := all(spec.tier == "replay" for spec in cells.values()):
            parts = [(partial, at)] * min(processes, len(at))
            # Nobody waits: there is no clock.
            places = [place for _ in parts for place in turns.places(1)]
            queue_fd = queue(len(at))
            stack.callback(os.close, queue_fd)
        else:
            parts = [(home, {home: spec}) for home, spec in at.items()]
            places = turns.places(len(parts))
        for descriptor in {fd for place in places for fd in (place.mine, *place.give)}:
            stack.callback(os.close, descriptor)
        homes = {home for home, _ in parts}
        for home in homes:
            (home / _TEMPORARY).mkdir()
        workers = []
        for (home, part), place in zip(parts, places, strict=True):
            order = WorkerOrder(
                cells=part,
                model=model,
                workload=workload,
                patches_sha256=patches_sha256 if _is_patched(part) else None,
                progress_fd=-1,
                place=place,
                beside=tuple(spec.id for spec in cells.values() if spec not in part.values()),
                queue_fd=queue_fd,
            )
            name = folder.name if home == partial else home.name
            workers.append(stack.enter_context(_worker(name, order, engine_tree, home)))
        bar = Bar(requests * len(cells)) if is_replay and requests else None
        if failed := _watch(workers, bar):
            worker, reason = failed
            tail = "\n".join(worker.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            os.replace(worker.log, failed_log)
            raise HarnessError(
                f"cell {worker.name}: {reason}. Last lines of its log ({failed_log}):\n{tail}"
            )
        for home in homes:
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
    kind = registry.ENGINES[spec.engine]
    # In process, an engine needs the environment that has it.
    python = kind.python if spec.load.mode == "batch" else sys.executable
    environment = os.environ | kind.environment
    environment["TMPDIR"] = str((home / _TEMPORARY).resolve())
    if spec.threads is not None:
        # MKL's own variable goes first there, and Snakemake sets both.
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(spec.threads))
    search_path = _own_search_path()
    if engine_tree and kind.is_patched:
        search_path = [str(engine_tree.resolve()), *search_path]
    environment["PYTHONPATH"] = os.pathsep.join(search_path)
    given = [] if order.queue_fd is None else [order.queue_fd]
    log = home / ENGINE_LOG
    # Not cut: processes that share cells share their log.
    with os.fdopen(reading, "rb", buffering=0) as progress, log.open("ab") as said:
        process = subprocess.Popen(
            [python, "-m", _WORKER, order.model_dump_json()],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[writing, order.place.mine, *order.place.give, *given],
            start_new_session=True,
        )
        os.close(writing)
        try:
            yield _Worker(name, process, progress, log)
        finally:
            end_group(process)


def _is_patched(cells: Mapping[Path, CellSpec]) -> bool:
    return all(registry.ENGINES[spec.engine].is_patched for spec in cells.values())


def _own_search_path() -> list[str]:
    given = os.environ.get("PYTHONPATH")
    return [str(Path(__file__).parents[2]), *([given] if given else [])]


def _watch(workers: Sequence[_Worker], bar: Bar | None) -> tuple[_Worker, str] | None:
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
        unread = {worker.progress: b"" for worker in workers}
        while running:
            ready = [key.data for key, _ in selector.select(STALL_SECONDS)]
            if not ready:
                hung = f"the engine showed no progress for {STALL_SECONDS:.0f} s"
                others = (
                    ", nor did those that it takes turns with" if running[1:] and not bar else ""
                )
                return running[0], hung + others
            if None in ready:
                names = ", ".join(worker.name for worker in workers)
                raise HarnessError(f"cell {names}: ended with the run that it belongs to")
            for worker in ready:
                chunk = worker.progress.read(_CHUNK)
                *lines, unread[worker.progress] = (unread[worker.progress] + chunk).split(b"\n")
                for line in lines:
                    if reason := _show(worker, line.decode().strip(), bar):
                        return worker, reason
                if chunk:
                    continue
                selector.unregister(worker.progress)
                running.remove(worker)
                if code := worker.process.wait():
                    return worker, f"the engine {ended(code)}"
    return None


def _show(worker: _Worker, line: str, bar: Bar | None) -> str | None:
    """Show a line that a worker says; return what went wrong, if it says that."""
    if line.startswith(FAILED):
        return line.removeprefix(FAILED)
    if line.startswith(DONE):
        line = (bar.add(int(line.removeprefix(DONE))) if bar else None) or ""
    if line:
        print(f"{worker.name}: {line}", file=sys.stderr, flush=True)
    return None
