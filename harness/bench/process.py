"""The processes that benchmarks measure in, and what these need: a patched engine and a model."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness import model as models
from harness import patching
from harness.errors import HarnessError

_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Cost:
    """What a command took: wall time, and the most memory its process tree had at a time.

    Memory is resident memory, summed over processes, in bytes; what they share counts each time.
    """

    seconds: float
    peak_bytes: int


def prepare(build: Path) -> tuple[Path, Path]:
    """Return the patched engine's tree and the model's folder, made where they are missing.

    Raises:
        HarnessError: if the patches do not fit the installed engine.

    """
    engine_tree = build / "vllm"
    patching.ensure(patching.find_series(), engine_tree)
    return engine_tree, make_model(build)


def make_model(build: Path) -> Path:
    """Return the model's folder, made if it is missing."""
    model = build / models.TINY_QWEN3
    if not model.is_dir():
        models.make_tiny_qwen3(model)
    return model


def output(command: Sequence[str], engine_tree: Path | None = None) -> list[str]:
    """Run a command on the stock engine, or on a patched tree, and return its lines of output.

    Raises:
        HarnessError: if it fails.

    """
    done = subprocess.run(
        command, env=_environment(engine_tree), capture_output=True, text=True, check=False
    )
    _check(command, done.returncode, done.stderr)
    return done.stdout.splitlines()


def in_turns(commands: Sequence[tuple[Sequence[str], Path | None]]) -> list[str]:
    """Run commands, each on a patched tree or on the stock engine, in turn, and return the last
    line of each.

    One prints an empty line where its turn is over, and goes on when it reads one: so what slows
    the machine slows them all.

    Raises:
        HarnessError: if one fails.

    """
    with contextlib.ExitStack() as stack:
        running = {i: _Turn(stack, *command) for i, command in enumerate(commands)}
        for turn in running.values():
            turn.wait()
        last = {}
        while running:
            for i, turn in list(running.items()):
                if line := turn.take():
                    last[i] = line
                    del running[i]
    return [last[i] for i in range(len(commands))]


class _Turn:
    """A process that takes turns with others."""

    def __init__(
        self, stack: contextlib.ExitStack, command: Sequence[str], engine_tree: Path | None
    ) -> None:
        self._command = command
        self._process = stack.enter_context(
            subprocess.Popen(
                command,
                env=_environment(engine_tree),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self._process.kill)
        # All on one core: two of a shared machine need not be as fast.
        os.sched_setaffinity(self._process.pid, {min(os.sched_getaffinity(0))})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def wait(self) -> str:
        """Return the line that ends its turn, which is empty if there is more to come."""
        line = self._stdout.readline()
        if not line:
            _check(self._command, self._process.wait() or 1, "its own words are above")
        return line.strip()

    def take(self) -> str:
        """Give it a turn, and return the line that ends it."""
        self._stdin.write("\n")
        self._stdin.flush()
        return self.wait()


def measure(command: Sequence[str]) -> Cost:
    """Run a command and return what it took.

    Raises:
        HarnessError: if it fails.

    """
    peak_bytes = 0
    start = time.monotonic()
    with subprocess.Popen(
        command,
        env=_environment(None),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while True:
                try:
                    _, errors = process.communicate(timeout=_SAMPLE_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    peak_bytes = max(peak_bytes, _resident_bytes(process.pid))
        except BaseException:
            process.kill()
            raise
    seconds = time.monotonic() - start
    _check(command, process.returncode, errors)
    return Cost(seconds, peak_bytes)


def report(message: str) -> None:
    """Print a line on the progress."""
    print(message, file=sys.stderr, flush=True)


def _environment(engine_tree: Path | None) -> dict[str, str]:
    search_path = [str(path.resolve()) for path in (engine_tree, Path(__file__).parents[2]) if path]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(search_path),
        "PYTHONHASHSEED": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_NUM_THREADS": "1",
    }


def _check(command: Sequence[str], code: int, errors: str) -> None:
    if code:
        tail = "\n".join(errors.splitlines()[-10:])
        raise HarnessError(f"{' '.join(command[:3])}: exit code {code}:\n{tail}")


def _resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants."""
    found = 0
    # Any of them may have ended by now.
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            found += process.memory_info().rss
    return found
