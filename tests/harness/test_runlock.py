import os
import platform
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness import runlock
from harness.errors import HarnessError

_HOLD = """
import sys
import threading
from harness import runlock
runlock.acquire(sys.argv[1])
print("held", flush=True)
input()
"""


def _here(pid: int) -> str:
    return f"{platform.node()}:{pid}"


def _holder(root: Path, folder: Path) -> "subprocess.Popen[str]":
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_second_run_is_refused_until_the_first_is_killed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlock, "_held", [])
    monkeypatch.setenv("HARNESS_RUN", "")
    with _holder(root, tmp_path) as holder:
        with pytest.raises(HarnessError, match=rf"process {holder.pid}\) is writing to"):
            runlock.acquire(str(tmp_path))
        holder.kill()
        holder.wait()
    runlock.acquire(str(tmp_path))
    assert os.environ["HARNESS_RUN"] == _here(os.getpid())
    os.close(runlock._held.pop())


def test_config_of_a_run_is_not_changed_by_another(root: Path, tmp_path: Path) -> None:
    with _holder(root, tmp_path) as holder:
        with (
            pytest.raises(HarnessError, match=rf"process {holder.pid}\) is writing to"),
            runlock.asking(str(tmp_path)),
        ):
            pass
        holder.kill()
        holder.wait()
    mine = rf"process {os.getpid()}\) is writing to"
    with (
        runlock.asking(str(tmp_path)),
        # Its own run may begin.
        _holder(root, tmp_path) as holder,
    ):
        with pytest.raises(HarnessError, match=mine), runlock.asking(str(tmp_path)):
            pass
        holder.kill()
        holder.wait()
    with runlock.asking(str(tmp_path)):
        pass


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    with pytest.raises(HarnessError, match="results/a: cannot be written: Not a directory; make"):
        runlock.acquire(str(tmp_path / "results/a"))


def test_watch_tells_that_the_run_has_ended(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _holder(root, tmp_path) as holder:
        monkeypatch.setenv("HARNESS_RUN", _here(holder.pid))
        descriptors = runlock.watch()
        assert select.select(descriptors, [], [], 0)[0] == []
        holder.kill()
        assert len(select.select(descriptors, [], [], 10)[0]) == 1
        for descriptor in descriptors:
            os.close(descriptor)
    with pytest.raises(HarnessError, match="has ended"):
        runlock.watch()


_JOB = """
import sys, time
from harness import runlock
runlock.end_with_run()
print("working", flush=True)
time.sleep(300)
"""


def test_job_ends_with_the_run_that_started_it(root: Path, tmp_path: Path) -> None:
    with _holder(root, tmp_path) as holder:
        environment = os.environ | {"PYTHONPATH": str(root), "HARNESS_RUN": _here(holder.pid)}
        with subprocess.Popen(
            [sys.executable, "-c", _JOB], stdout=subprocess.PIPE, text=True, env=environment
        ) as job:
            assert job.stdout is not None
            assert job.stdout.readline() == "working\n"
            assert job.poll() is None
            holder.kill()
            assert job.wait(timeout=10) == -signal.SIGTERM


def test_outside_a_run_there_is_nothing_to_end_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_RUN", raising=False)
    before = threading.active_count()
    runlock.end_with_run()
    assert threading.active_count() == before


def test_run_on_another_host_is_not_sought_here(monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that may live here, and is not the run; and one that cannot.
    for pid in (1, 2**22 + 1):
        monkeypatch.setenv("HARNESS_RUN", f"login-node:{pid}")
        before = threading.active_count()
        runlock.end_with_run()
        assert threading.active_count() == before
        (parent,) = runlock.watch()
        os.close(parent)


_MEASURE = """
from harness import runlock
with runlock.measuring("test", print):
    print("measuring", flush=True)
    input()
"""


def test_one_measures_on_a_machine_and_others_wait(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_LOCKS", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", _MEASURE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "measuring\n"
        with runlock.measuring("others", lambda _: pytest.fail("waited")):
            pass
        waited_for = []

        def waiting(pid: int) -> None:
            waited_for.append(pid)
            holder.kill()  # the kernel releases what it held

        with runlock.measuring("test", waiting):
            assert waited_for == [holder.pid]
