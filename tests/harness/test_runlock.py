import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from harness import runlock
from harness.errors import HarnessError

_HOLD = """
import sys
from harness import runlock
runlock.acquire(sys.argv[1])
print("held", flush=True)
input()
"""


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
    monkeypatch.setenv("HARNESS_RUN_PID", "")
    with _holder(root, tmp_path) as holder:
        with pytest.raises(HarnessError, match=rf"process {holder.pid}\) is writing to"):
            runlock.acquire(str(tmp_path))
        holder.kill()
        holder.wait()
    runlock.acquire(str(tmp_path))
    assert os.environ["HARNESS_RUN_PID"] == str(os.getpid())
    os.close(runlock._held.pop())


def test_watch_tells_that_the_run_has_ended(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _holder(root, tmp_path) as holder:
        monkeypatch.setenv("HARNESS_RUN_PID", str(holder.pid))
        descriptors = runlock.watch()
        assert select.select(descriptors, [], [], 0)[0] == []
        holder.kill()
        assert len(select.select(descriptors, [], [], 10)[0]) == 1
        for descriptor in descriptors:
            os.close(descriptor)
    with pytest.raises(HarnessError, match="has ended"):
        runlock.watch()
