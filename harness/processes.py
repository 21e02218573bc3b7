"""Processes that end with those that started them, and how they ended."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess

_GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """End this process group when the parent is gone, even by SIGKILL."""
    try:
        descriptor = os.pidfd_open(parent)
        # Not the parent any more: it died before, and the pid may be another's by now.
        if os.getppid() == parent:
            select.select([descriptor], [], [])
    except ProcessLookupError:
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def kill_with_parent() -> None:
    """Have the kernel kill this process, which was forked, when the parent is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process group that a process leads: ask the leader, wait, kill them all."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ended(code: int) -> str:
    """Say how a process ended that should not have, by its exit code."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"died with exit code {code}"
