"""One run at a time over one folder of results, one that measures times on one machine, and no job
that outlives its run.

The kernel releases the lock with the process that holds it, however that ends; Snakemake's own lock
file would stay.
"""

import contextlib
import fcntl
import os
import platform
import select
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import HarnessError

# The run's host and process: on a cluster its jobs may be elsewhere, where that number is
# another's.
_RUN = "HARNESS_RUN"
# Where the machine's locks are, if not among temporary files, of which containers have their own.
_LOCKS = "HARNESS_LOCKS"
# Open for as long as this process lives.
_held: list[int] = []


def acquire(results: str) -> None:
    """Take the lock of a results folder for the rest of this process's life.

    Raises:
        HarnessError: if another run holds it, or the folder cannot be written.

    """
    _held.append(_locked(results, ".lock"))
    os.environ[_RUN] = f"{platform.node()}:{os.getpid()}"


@contextlib.contextmanager
def asking(results: str) -> Iterator[None]:
    """Be the only one that changes the config of a results folder and runs it.

    Raises:
        HarnessError: if another does, or a run is there, or the folder cannot be written.

    """
    lock = _locked(results, ".study-lock")
    try:
        # The run takes this one itself.
        os.close(_locked(results, ".lock"))
        yield
    finally:
        os.close(lock)


def _locked(results: str, name: str) -> int:
    """Return an open file of a folder that nobody else has the lock of."""
    folder = Path(results)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HarnessError(
            f"{results}: cannot be written: {error.strerror}; make it a folder that can be"
        ) from None
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
    return lock


@contextlib.contextmanager
def measuring(devices: str, waiting: Callable[[int], object]) -> Iterator[None]:
    """Be the only one on this machine to measure on some devices, whosever run it is.

    Waits until nobody else does: engines that work at the same time slow each other down, and
    their times mean nothing.

    Args:
        devices: A name for them.
        waiting: Called with the process that is waited for, 0 if that is not known.

    """
    path = Path(os.environ.get(_LOCKS) or tempfile.gettempdir()) / f"arc-kv-harness-{devices}.lock"
    lock = _opened(path)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode(errors="replace")
            waiting(int(holder) if holder.isdigit() else 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # another user's file may be for reading only
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def _opened(path: Path) -> int:
    """Open a lock file that all users of the machine share; a lock needs no right to write."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):
            os.fchmod(lock, 0o666)
        return lock
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


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
