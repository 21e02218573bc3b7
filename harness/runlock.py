"""One run at a time over one folder of results, and no job that outlives its run.

The kernel releases the lock with the process that holds it, however that ends; Snakemake's own lock
file would stay.
"""

import fcntl
import os
import platform
import select
import signal
import threading
from pathlib import Path

from harness.errors import HarnessError

# The run's host and process: on a cluster its jobs may be elsewhere, where that number is
# another's.
_RUN = "HARNESS_RUN"
# Open for as long as this process lives.
_held: list[int] = []


def acquire(results: str) -> None:
    """Take the lock of a results folder for the rest of this process's life.

    Raises:
        HarnessError: if another run holds it.

    """
    folder = Path(results)
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode() or "unknown"
        os.close(lock)
        raise HarnessError(
            f"another run (process {holder}) is writing to {results}: wait for it, or end it"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    _held.append(lock)
    os.environ[_RUN] = f"{platform.node()}:{os.getpid()}"


def end_with_run() -> None:
    """Have this process end, as if by SIGTERM, when the run that it is a job of does; else nothing.

    A run on another host is nothing to watch: there the cluster's scheduler ends the jobs.

    Raises:
        HarnessError: if the run has ended already.

    """
    if _run() in (None, os.getpid()):
        return
    descriptors = watch()

    def wait() -> None:
        select.select(descriptors, [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def watch() -> list[int]:
    """Return descriptors that become readable when the run, or the parent process, has ended.

    Raises:
        HarnessError: if the run has ended already.

    """
    run = _run()
    pids = {os.getppid()} if run is None else {os.getppid(), run}
    try:
        return [os.pidfd_open(pid) for pid in pids]
    except ProcessLookupError:
        raise HarnessError("the run that this job belongs to has ended") from None


def _run() -> int | None:
    """Return the process of the run that this is a job of; None if there is none on this host."""
    host, _, pid = os.environ.get(_RUN, "").rpartition(":")
    return int(pid) if host == platform.node() else None
