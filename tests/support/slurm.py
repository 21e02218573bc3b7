"""A real Slurm of one node, this machine, without privileges.

munged, slurmctld and slurmd run as whoever runs the tests, with all that they read and write in one
folder, and end with the ``with`` block. The node is said to have what jobs ask for, CPUs, memory
and a GPU, and has not. There are no cgroups and no accounting.
"""

import contextlib
import os
import platform
import pwd
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .processes import wait_for

CPUS = 16
_MEGABYTES = 64_000
_DAEMONS = {
    "munged": (
        *("--foreground", "--force", "--num-threads=10", "--key-file={folder}/munge.key"),
        *("--socket={folder}/munge.socket", "--pid-file={folder}/munge.pid"),
        *("--log-file={folder}/munged.log", "--seed-file={folder}/munge.seed"),
    ),
    "slurmctld": ("-D", "-i"),
    "slurmd": ("-D",),
}
_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
# Set where Slurm must be there, as in CI.
_REQUIRED = "KV_REQUIRE_SLURM"
# Where Debian has daemons, which is not on every user's path.
_PATH = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))


@dataclass(frozen=True)
class Job:
    """A job that has ended: the run that it was of, its state, its CPUs, and when (ISO 8601)."""

    run: str
    state: str
    cpus: int
    start: str
    end: str


@dataclass(frozen=True)
class Cluster:
    folder: Path
    node: str

    @property
    def environment(self) -> dict[str, str]:
        """What has a program find this cluster."""
        path = f"{self.folder / 'bin'}{os.pathsep}{_PATH}"
        return {"PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """Return what one of Slurm's commands prints."""
        environment = os.environ | self.environment
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def update_node(self, *changes: str) -> None:
        self.call("scontrol", "update", f"NodeName={self.node}", *changes)

    def queue(self) -> list[tuple[int, str, str]]:
        """Return number, state and comment of each job that is queued or runs."""
        lines = self.call("squeue", "--noheader", "--format=%A %T %k").splitlines()
        parts = [line.split(maxsplit=2) for line in lines]
        return [(int(number), state, comment) for number, state, comment in parts]

    def ended(self) -> list[Job]:
        """Return all jobs that have ended, in that order."""
        jobs = []
        for line in (self.folder / "ended").read_text().splitlines():
            said = dict(re.findall(r"(\w+)=(\S*)", line))
            times = said["StartTime"], said["EndTime"]
            jobs.append(Job(said["Name"], said["JobState"], int(said["ProcCnt"]), *times))
        return jobs

    def processes(self) -> dict[int, list[str]]:
        """Return the processes of jobs, whatever Slurm thinks of these, with their arguments."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # of another user, or gone
                environment = (folder / "environ").read_bytes()
                if b"SLURM_JOB_ID=" in environment and bytes(self.folder) in environment:
                    arguments = (folder / "cmdline").read_text().split("\0")
                    found[int(folder.name)] = arguments
        return found


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start Slurm; without it the test is skipped, or fails where it is required."""
    programs = {name: shutil.which(name, path=_PATH) for name in (*_DAEMONS, *_COMMANDS)}
    if missing := [name for name, path in programs.items() if path is None]:
        (pytest.fail if os.environ.get(_REQUIRED) else pytest.skip)(
            f"no Slurm: {', '.join(missing)} not found; install Debian's slurm-wlm and munge"
        )
    with contextlib.ExitStack() as stack:
        # Not in a test's own folder, whose path may be too long for a socket.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = Cluster(folder, platform.node().partition(".")[0])
        _write(cluster, str(programs["srun"]))
        for name, arguments in _DAEMONS.items():
            stack.enter_context(_daemon(cluster, name, arguments))
        wait_for(lambda: _is_idle(cluster))
        # Before the daemons do: jobs would not end with them.
        stack.callback(_end_jobs, cluster)
        yield cluster


@contextlib.contextmanager
def _daemon(cluster: Cluster, name: str, arguments: Sequence[str]) -> Iterator[None]:
    # It ends as well should these tests be killed.
    command = ["setpriv", "--pdeathsig", "TERM", name]
    command += [argument.format(folder=cluster.folder) for argument in arguments]
    environment = os.environ | cluster.environment
    with (cluster.folder / f"{name}.out").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        if name == "munged":
            wait_for((cluster.folder / "munge.socket").exists)
        yield
        # Whatever ended it before now, it has not been a cluster.
        assert process.poll() is None, (cluster.folder / f"{name}.out").read_text()
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        finally:
            process.kill()


def _is_idle(cluster: Cluster) -> bool:
    with contextlib.suppress(subprocess.CalledProcessError):
        return cluster.call("sinfo", "--noheader", "--format=%T") == "idle\n"
    return False


def _end_jobs(cluster: Cluster) -> None:
    cluster.call("scancel", "--user", _user())
    wait_for(lambda: not cluster.queue())
    # Without cgroups Slurm does not find what has lost its parent.
    for process in cluster.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _write(cluster: Cluster, srun: str) -> None:
    folder, user = cluster.folder, _user()
    for name in ("bin", "state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    # Of the environment, the executor's jobs leave srun not even where the configuration is.
    _script(
        folder / "bin" / "srun",
        f'SLURM_CONF={shlex.quote(str(folder / "slurm.conf"))} exec {shlex.quote(srun)} "$@"',
    )
    # On a cluster, jobs are on other hosts than the run that they belong to.
    _script(folder / "other-host", "echo export HARNESS_RUN=login:1")
    with socket.socket() as controller, socket.socket() as node:
        for end in (controller, node):
            end.bind(("127.0.0.1", 0))
        ports = controller.getsockname()[1], node.getsockname()[1]
    settings = {
        "ClusterName": "test",
        "SlurmctldHost": f"{cluster.node}(127.0.0.1)",
        "SlurmctldPort": ports[0],
        "SlurmdPort": ports[1],
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge.socket",
        "CredType": "cred/munge",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "TaskProlog": folder / "other-host",
        "MpiDefault": "none",
        "GresTypes": "gpu",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        # What the node is said to have, not what the machine has.
        "SlurmdParameters": "config_overrides",
        "KillWait": 5,
        "JobCompType": "jobcomp/filetxt",
        "JobCompLoc": folder / "ended",
    }
    node_line = (
        f"NodeName={cluster.node} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={_MEGABYTES} Gres=gpu:1"
    )
    partition = "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
    lines = [*(f"{key}={value}" for key, value in settings.items()), node_line, partition]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
