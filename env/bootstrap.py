"""Make one of the project's virtual environments from the pinned locks beside this file.

    python3.11 env/bootstrap.py [--target cpu|cuda|sglang|sglang-cuda]

The first two make `.venv`; the others `.venv-sglang`, which is for a second engine. A stamp in an
environment says what it was made from. While that holds, a run returns at once; otherwise it is
made anew. The stamp is written last, so an interrupted run leaves none.

Only the standard library is used, and only syntax that older Pythons read, so that the wrong
Python gets a message rather than a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

VERSION = 1  # part of the stamp: raise it when an older bootstrap's .venv will no longer do
ROOT = Path(__file__).resolve().parent.parent
GLIBC = (2, 34)  # libcachesim's wheels ask for it; all others are content with less
# Libraries that wheels take from the system, and the packages of Debian and Ubuntu that have them.
GLIB = ("libglib-2.0.so.0", "libglib2.0-0")  # libcachesim's
NUMA = ("libnuma.so.1", "libnuma1")  # vLLM's, on a CPU
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
SEE_LOG = "pip's whole output is in env/bootstrap.log."


class Target(NamedTuple):
    """What an environment is made from, and the free space in GiB and libraries that it takes."""

    lock: str
    torch_lock: str | None  # for a torch that PyPI does not have
    venv_gib: int
    temp_gib: int
    venv: str = ".venv"
    libraries: tuple[tuple[str, str], ...] = ()


TARGETS = {
    "cpu": Target("cpu.lock", "torch-cpu.lock", venv_gib=4, temp_gib=1, libraries=(GLIB, NUMA)),
    "cuda": Target("cuda.lock", None, venv_gib=16, temp_gib=5, libraries=(GLIB,)),
    "sglang": Target("sglang.lock", "torch-cpu.lock", venv_gib=3, temp_gib=1, venv=".venv-sglang"),
    "sglang-cuda": Target("sglang-cuda.lock", None, venv_gib=24, temp_gib=8, venv=".venv-sglang"),
}


class SetUpError(Exception):
    """A reason not to go on, worded so that the user needs to read nothing else."""


class MissingError(SetUpError):
    """The indexes that pip asked lack a package."""


class UnreachableError(SetUpError):
    """pip could not connect to an index."""


MISSING = "pip's index does not have {} for this Python and platform."

# The first that matches pip's output says why it failed. pip calls a package missing also when
# it could not ask, so the network comes between the two forms of that; and its warnings of
# retries alone mean nothing, for the retries may have gone well.
DIAGNOSES: Sequence[tuple[str, type[SetUpError], str]] = (
    (
        r"No space left on device|Disk quota exceeded",
        SetUpError,
        "The disk became full. Free some space and run this again.",
    ),
    (
        r"DO NOT MATCH THE HASHES.*\n\s+(\S+)",
        SetUpError,
        "The index's file for {} is not the one that was locked, so it was not installed.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        UnreachableError,
        "The package index's TLS certificate is not trusted. If a proxy here has its own, give"
        " its file in PIP_CERT.",
    ),
    (r"satisfies the requirement (\S+) \(from versions: (?!none)", MissingError, MISSING),
    (
        r"connection broken by(?:.|\n)*from versions: none"
        r"|^(?!WARNING).*(?:Max retries exceeded|Read timed out|IncompleteRead|Connection reset)",
        UnreachableError,
        "No network: pip could not reach its package index, or lost it. Set-up downloads from"
        " PyPI, or from the index that pip's own settings name (see env/README.md).",
    ),
    (r"No matching distribution found for (\S+)", MissingError, MISSING),
)


def say(text: str) -> None:
    """Print a line at once, even into a pipe."""
    print(text, flush=True)


def check_python() -> None:
    """Raise `SetUpError` unless this is the Python that the locks were resolved for."""
    version = platform.python_version()
    if not version.startswith("3.11."):
        raise SetUpError(
            f"Python 3.11 is needed, and this is {version} ({sys.executable}). Name another"
            " interpreter: make PYTHON=/path/to/python3.11 env"
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetUpError(
                f"This Python ({sys.executable}) lacks the module {module}. On Debian and Ubuntu"
                " it is in a package of its own: apt install python3.11-venv"
            )


def check_platform() -> None:
    """Raise `SetUpError` unless the locked wheels run here."""
    system, machine = platform.system(), platform.machine()
    libc, libc_version = platform.libc_ver()
    glibc = tuple(int(part) for part in re.findall(r"\d+", libc_version)[:2])
    if (system, machine, libc) != ("Linux", "x86_64", "glibc") or glibc < GLIBC:
        raise SetUpError(
            "The locks are for x86_64 Linux with glibc 2.34 or newer (Debian 12, Ubuntu 22.04,"
            f" RHEL 9). This is {machine} {system}, {libc or 'C library unknown'} {libc_version}"
        )


def check_libraries(target: Target) -> None:
    """Raise `SetUpError` if the system lacks a library: pip does not see it, the engine would."""
    missing = []
    for library in target.libraries:
        try:
            ctypes.CDLL(library[0])
        except OSError:
            missing.append(library)
    if missing:
        names = " and ".join(name for name, _ in missing)
        packages = " ".join(package for _, package in missing)
        raise SetUpError(f"This system lacks {names}. On Debian and Ubuntu: apt install {packages}")


def check_disk(root: Path, target: Target) -> None:
    """Raise `SetUpError` if the environment, or what pip unpacks for it, would not fit."""
    needs: dict[int, tuple[Path, int]] = {}
    for place, gib in (root, target.venv_gib), (Path(tempfile.gettempdir()), target.temp_gib):
        device = place.stat().st_dev
        first, sum_so_far = needs.get(device, (place, 0))
        needs[device] = first, sum_so_far + gib
    for place, gib in needs.values():
        free = shutil.disk_usage(place).free / 2**30
        if free < gib:
            raise SetUpError(
                f"The disk of {place} has {free:.1f} GiB free, and set-up needs {gib} GiB there."
                f" Free some space (an old {target.venv} counts: rm -r {target.venv}), or set"
                " TMPDIR to put pip's temporary files on another disk."
            )


def diagnose(output: str) -> SetUpError:
    """Give the reason that pip's output holds for its failure."""
    for pattern, kind, message in DIAGNOSES:
        match = re.search(pattern, output, re.MULTILINE)
        if match:
            return kind(f"{message.format(*match.groups())} {SEE_LOG}")
    errors = "\n".join(re.findall(r"^\s*ERROR: (.+)", output, re.MULTILINE))
    return SetUpError(f"pip failed: {last_line(errors or output)}. {SEE_LOG}")


def last_line(output: str) -> str:
    """Return the last line of a failed command's output, in which the reason mostly is."""
    return (output.strip().splitlines() or ["it did not say why"])[-1]


def run(command: Sequence[str], log: TextIO, watch: Callable[[str], object]) -> tuple[int, str]:
    """Run a command, each line of its output to `log` and `watch`; return its status and output.

    Whatever interrupts this ends the command and its children too.
    """
    log.write(f"$ {shlex.join(command)}\n")
    lines = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        close_fds=False,  # hands down the lock: see `locked`
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line)
                log.write(line)
                log.flush()
                watch(line)
        except BaseException:
            # SIGINT first, on which pip removes its temporary files.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, "".join(lines)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for any other process that does."""
    import fcntl  # not on every platform, whose users are to get check_platform's message

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another set-up to finish ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        # A pip that outlives a killed bootstrap keeps the lock for as long as it writes.
        os.set_inheritable(file.fileno(), True)
        yield


def pin(lock: Path, name: str) -> str:
    """Return a package's requirement in a lock, hashes and all; raise `SetUpError` if absent."""
    match = re.search(rf"^{name}==.*\n(?:\s+.*\n)*", lock.read_text(), re.MULTILINE)
    if match is None:
        raise SetUpError(f"{lock} does not have {name}. To resolve it anew: make lock")
    return match.group()


def read_stamp(venv: Path) -> dict[str, Any]:
    """Return what `venv` was made from: nothing if it is absent, half made or not runnable."""
    try:
        stamp = json.loads((venv / ".bootstrap.json").read_text())
    except (OSError, ValueError):
        return {}
    return stamp if os.access(venv / "bin" / "python", os.X_OK) else {}


class Build:
    """One making of an environment under `root`, for the target named."""

    def __init__(self, root: Path, name: str) -> None:
        """Read the locks; raise `OSError` if one cannot be read."""
        self.root = root
        self.target = target = TARGETS[name]
        self.venv = root / target.venv
        self.python = str(self.venv / "bin" / "python")
        self.lock = root / "env" / target.lock
        self.torch_lock = root / "env" / target.torch_lock if target.torch_lock else None
        locks = [lock for lock in (self.lock, self.torch_lock) if lock]
        self.stamp = {
            "bootstrap": VERSION,
            "target": name,
            "python": platform.python_version(),
            "path": str(self.venv),  # a virtual environment that was moved does not work
            "locks": [hashlib.sha256(lock.read_bytes()).hexdigest() for lock in locks],
        }

    def run(self) -> None:
        """Make the environment, replacing what is there, and stamp it.

        Raises:
            SetUpError: if a stage failed.
        """
        requirements = self.lock.read_text()
        count = len(re.findall(r"^[\w.-]+==", requirements, re.MULTILINE))
        stages = [
            (f"{self.target.venv}, with pip and setuptools", self.create),
            (f"{count} packages", lambda: self.install_packages(count)),
            ("the project itself", self.install_project),
        ]
        torch_lock = self.torch_lock
        if torch_lock:
            # Before the others, since it is the likeliest not to be found.
            stages.insert(1, ("PyTorch for CPUs", lambda: self.install_torch(torch_lock)))
        start = time.monotonic()
        with (self.root / "env" / "bootstrap.log").open("w") as self.log:
            for number, (title, act) in enumerate(stages, 1):
                say(f"[{number}/{len(stages)}] {title} ...")
                act()
        partial = self.venv / ".bootstrap.json.partial"
        partial.write_text(json.dumps(self.stamp, indent=1))
        partial.replace(self.venv / ".bootstrap.json")
        say(f"{self.target.venv} is ready, after {time.monotonic() - start:.0f} s.")

    def create(self) -> None:
        """Make a virtual environment with nothing in it but the locked pip and setuptools."""
        # The stamp first, lest an interrupted removal leave it on a part of the old one.
        with contextlib.suppress(FileNotFoundError):
            (self.venv / ".bootstrap.json").unlink()
        if self.venv.is_symlink():
            self.venv.unlink()
        elif self.venv.exists():
            shutil.rmtree(self.venv)
        # If run by a virtual environment's Python, perhaps that of the one just removed, go by the
        # Python underneath.
        base = getattr(sys, "_base_executable", None) or sys.executable
        status, output = self.call(base, "-I", "-m", "venv", str(self.venv))
        if status:
            raise SetUpError(f"python -m venv failed: {last_line(output)}. {SEE_LOG}")
        # The pip that comes with Python 3.11 takes twice as long for the rest.
        tools = self.venv / "tools.lock"
        tools.write_text(pin(self.lock, "pip") + pin(self.lock, "setuptools"))
        self.pip("--require-hashes", "-r", str(tools))

    def install_torch(self, lock: Path) -> None:
        """Install torch from pip's configured index or, failing that, from PyTorch's own."""
        requirement = ("--require-hashes", "-r", str(lock))
        try:
            self.pip(*requirement)
            return
        except MissingError:
            say(f"      pip's configured index lacks it; trying {TORCH_INDEX}")
        try:
            self.pip("--index-url", TORCH_INDEX, *requirement)
        except (MissingError, UnreachableError) as failure:
            aside = " (which could not be reached)" if isinstance(failure, UnreachableError) else ""
            raise MissingError(
                "Neither pip's configured index nor PyTorch's CPU index,"
                f" {TORCH_INDEX}{aside}, has {pin(lock, 'torch').split()[0]} for this Python and"
                " platform."
                " Point pip at an index that has it with PIP_EXTRA_INDEX_URL, or at a directory"
                f" that has its wheel with PIP_FIND_LINKS. {SEE_LOG}"
            ) from None

    def install_packages(self, count: int) -> None:
        """Install the lock's packages."""
        # Those without a wheel are built with the locked setuptools, not with the newest.
        build = ("--use-pep517", "--no-build-isolation")
        self.pip(*build, "--require-hashes", "-r", str(self.lock), count=count)

    def install_project(self) -> None:
        """Install the project in place, and see that torch can be imported."""
        self.pip("--no-build-isolation", "-e", str(self.root))
        status, output = self.call(self.python, "-I", "-c", "import torch")
        if status:
            raise SetUpError(f"torch does not import: {last_line(output)}. {SEE_LOG}")

    def pip(self, *arguments: str, count: int = 0) -> None:
        """Have the environment's pip install something, counting up to `count` on a terminal.

        Raises:
            SetUpError: if pip failed; MissingError and UnreachableError tell those reasons apart.
        """
        seen = 0

        def watch(line: str) -> None:
            nonlocal seen
            seen += line.startswith("Collecting ")
            if count and sys.stdout.isatty():
                installing = line.startswith("Installing collected packages")
                state = "installing" if installing else f"{seen}/{count}"
                print(f"      {state:12}", end="\r", flush=True)

        # -I: packages on PYTHONPATH would pass for installed ones.
        command = (self.python, "-I", "-m", "pip", "install", "--no-deps", "--no-input")
        quiet = ("--disable-pip-version-check", "--progress-bar", "off")
        # That takes minutes, and is done for each module that is imported, when it is imported.
        how = ("--no-compile", *quiet)
        status, output = self.call(*command, *how, *arguments, watch=watch)
        if status:
            raise diagnose(output)

    def call(self, *command: str, watch: Callable[[str], object] = len) -> tuple[int, str]:
        """Run a command into the log; return its status and output."""
        return run(command, self.log, watch)


def set_up(root: Path, name: str | None) -> None:
    """Make an environment under `root` unless it is current.

    With no target named it is `.venv`, with the target that it has.

    Raises:
        SetUpError: if it cannot be made.
        OSError: if a file of the project cannot be read or written.
    """
    check_python()
    check_platform()
    build = Build(root, name or read_stamp(root / ".venv").get("target", "cpu"))
    if read_stamp(build.venv) == build.stamp:
        return
    with locked(root / "env" / ".lock"):
        if read_stamp(build.venv) == build.stamp:  # made while this waited
            return
        check_libraries(build.target)
        check_disk(root, build.target)
        build.run()


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Set up, and return the exit status: 0, 1 after a refusal, or 130 if interrupted."""
    parser = argparse.ArgumentParser(
        description="Make .venv, or for SGLang .venv-sglang, from the pinned locks."
    )
    parser.add_argument(
        "--target", choices=TARGETS, help="default: what .venv was made for, or else cpu"
    )
    target = parser.parse_args(arguments).target
    try:
        set_up(root, target)
    except (SetUpError, OSError) as problem:
        full = isinstance(problem, OSError) and problem.errno == errno.ENOSPC
        print(f"set-up: {diagnose(str(problem)) if full else problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; the next run starts anew.", file=sys.stderr)
        return 130
    return 0


def interrupt(*_: object) -> None:
    """Treat a signal as Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    for ending in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, ending):
            signal.signal(getattr(signal, ending), interrupt)
    sys.exit(main())
