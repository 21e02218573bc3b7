"""What `env/bootstrap.py` does and says, with pip and the network played by a function."""

from __future__ import annotations

import ast
import fcntl
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ENV = Path(__file__).parents[2] / "env"
PIP = "pip==26.3 \\\n    --hash=sha256:cc\n    # via x\n"
SETUPTOOLS = "setuptools==78.1.1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n    # via x\n"

RETRY = (
    "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by"
    " 'NewConnectionError('<HTTPSConnection object>: Failed to establish a new connection:"
    " [Errno -2] Name or service not known')': /simple/torch/\n"
)
ABSENT = (
    "ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu"
    " (from versions: {})\n"
    "ERROR: No matching distribution found for torch==2.13.0+cpu\n"
)
LACKS_IT = ABSENT.format("2.12.0, 2.13.0")
LACKS_ALL = ABSENT.format("none")
NO_NETWORK = RETRY + LACKS_ALL
DISK_FULL = (
    "Installing collected packages: numpy\n"
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
)

Answer = tuple[int, str]


class FakeRun:
    """Stands for `bootstrap.run`: notes the commands, and fails those with a given part."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.answers: dict[str, Answer | BaseException] = {}
        self.tools_lock = ""

    def __call__(
        self, command: tuple[str, ...], log: io.TextIOBase, watch: Callable[[str], object]
    ) -> Answer:
        line = " ".join(command)
        self.commands.append(line)
        for part, answer in self.answers.items():
            if part in line:
                if isinstance(answer, BaseException):
                    raise answer
                return answer
        if "-m venv" in line:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
        if line.endswith("tools.lock"):
            self.tools_lock = Path(command[-1]).read_text()
        return 0, ""


@pytest.fixture
def boot() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ENV / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(boot: ModuleType, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """A fake run, on a machine that has all that set-up asks for."""
    fake = FakeRun()
    monkeypatch.setattr(boot, "run", fake)
    monkeypatch.setattr(boot.platform, "python_version", lambda: "3.11.9")
    monkeypatch.setattr(boot.platform, "system", lambda: "Linux")
    monkeypatch.setattr(boot.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(boot.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(boot.ctypes, "CDLL", lambda _: object())
    monkeypatch.setattr(boot.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
    return fake


@pytest.fixture
def project(tmp_path: Path) -> Path:
    env = tmp_path / "env"
    env.mkdir()
    (env / "cpu.lock").write_text(
        f"numpy==2 \\\n    --hash=sha256:cc\n{PIP}{SETUPTOOLS}six==1 \\\n    --hash=sha256:dd\n"
    )
    (env / "cuda.lock").write_text(f"{PIP}{SETUPTOOLS}torch==2 \\\n    --hash=sha256:ee\n")
    (env / "torch-cpu.lock").write_text("torch==2+cpu \\\n    --hash=sha256:ff\n")
    for name in ("sglang.lock", "sglang-cuda.lock"):
        (env / name).write_text(f"{PIP}{SETUPTOOLS}sglang==0 \\\n    --hash=sha256:ee\n")
    return tmp_path


Refused = Callable[..., str]


@pytest.fixture
def refused(boot: ModuleType, project: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the set-up; return its message, having seen that it is one line and no stamp is left."""

    def check(*arguments: str) -> str:
        assert boot.main(arguments, project) == 1
        message = capsys.readouterr().err
        assert re.fullmatch(r"set-up: .+\n", message)
        assert not boot.read_stamp(project / ".venv")
        return message

    return check


def test_makes_the_environment_in_stages(
    boot: ModuleType, run: FakeRun, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert boot.main([], project) == 0
    told = capsys.readouterr().out
    assert re.findall(r"^\[(\d)/4\]", told, re.MULTILINE) == ["1", "2", "3", "4"]
    assert "4 packages" in told
    parts = ["-m venv", "tools.lock", "torch-cpu.lock", "cpu.lock", f"-e {project}", "import"]
    assert len(run.commands) == len(parts)
    for part, command in zip(parts, run.commands, strict=True):
        assert part in command
    assert all(" --require-hashes " in c for c in run.commands if c.endswith(".lock"))
    assert run.tools_lock == PIP + SETUPTOOLS


def test_a_second_run_does_nothing(
    boot: ModuleType, run: FakeRun, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot.main([], project)
    run.commands.clear()
    capsys.readouterr()
    assert boot.main([], project) == 0
    assert run.commands == []
    assert capsys.readouterr() == ("", "")


def change_lock(boot: ModuleType, project: Path) -> None:
    with (project / "env" / "cpu.lock").open("a") as lock:
        lock.write("tqdm==4 \\\n    --hash=sha256:ab\n")


def change_torch(boot: ModuleType, project: Path) -> None:
    (project / "env" / "torch-cpu.lock").write_text("torch==3+cpu \\\n    --hash=sha256:ac\n")


def change_version(boot: ModuleType, project: Path) -> None:
    boot.__dict__["VERSION"] += 1


def change_python(boot: ModuleType, project: Path) -> None:
    boot.platform.python_version = lambda: "3.11.10"


def lose_interpreter(boot: ModuleType, project: Path) -> None:
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(project / "removed")


@pytest.mark.parametrize(
    "change", [change_lock, change_torch, change_version, change_python, lose_interpreter]
)
def test_a_change_makes_it_anew(
    boot: ModuleType, run: FakeRun, project: Path, change: Callable[[ModuleType, Path], None]
) -> None:
    boot.main([], project)
    old = project / ".venv" / "old"
    old.touch()
    change(boot, project)
    assert boot.main([], project) == 0
    assert not old.exists()
    run.commands.clear()
    boot.main([], project)
    assert run.commands == []


def test_a_target_is_kept_until_another_is_named(
    boot: ModuleType, run: FakeRun, project: Path
) -> None:
    assert boot.main(["--target", "cuda"], project) == 0
    assert not any("torch-cpu.lock" in command for command in run.commands)
    run.commands.clear()
    boot.main([], project)
    assert run.commands == []
    boot.main(["--target", "cpu"], project)
    assert any("torch-cpu.lock" in command for command in run.commands)


def test_the_second_engine_has_an_environment_of_its_own(
    boot: ModuleType, run: FakeRun, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot.main([], project)
    before = boot.read_stamp(project / ".venv")
    run.commands.clear()
    capsys.readouterr()
    assert boot.main(["--target", "sglang"], project) == 0
    assert run.commands[0].endswith(str(project / ".venv-sglang"))
    assert ".venv-sglang is ready" in capsys.readouterr().out
    for lock in ("torch-cpu.lock", "/sglang.lock"):
        assert any(command.endswith(lock) for command in run.commands)
    assert boot.read_stamp(project / ".venv") == before
    run.commands.clear()
    for target in ([], ["--target", "sglang"]):
        assert boot.main(target, project) == 0
        assert run.commands == []
    assert boot.main(["--target", "sglang-cuda"], project) == 0
    assert not any("torch-cpu.lock" in command for command in run.commands)
    assert boot.read_stamp(project / ".venv-sglang")["target"] == "sglang-cuda"
    assert boot.read_stamp(project / ".venv") == before


@pytest.mark.parametrize("version", ["3.8.18", "3.12.1", "3.1.1"])
def test_wrong_python(
    boot: ModuleType,
    run: FakeRun,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    monkeypatch.setattr(boot.platform, "python_version", lambda: version)
    message = refused()
    assert f"Python 3.11 is needed, and this is {version}" in message
    assert "make PYTHON=/path/to/python3.11" in message
    assert run.commands == []


def test_wrong_pythons_can_read_it() -> None:
    source = (ENV / "bootstrap.py").read_text()
    ast.parse(source, feature_version=(3, 8))
    assert "from __future__ import annotations" in source


def test_python_without_venv(
    boot: ModuleType, run: FakeRun, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        boot.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object()
    )
    message = refused()
    assert "ensurepip" in message
    assert "python3.11-venv" in message


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("system", "Darwin", "x86_64 Darwin"),
        ("machine", "aarch64", "aarch64 Linux"),
        ("libc_ver", ("glibc", "2.31"), "glibc 2.31"),
        ("libc_ver", ("", ""), "C library unknown"),
    ],
)
def test_wrong_platform(
    boot: ModuleType,
    run: FakeRun,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
    told: str,
) -> None:
    monkeypatch.setattr(boot.platform, name, lambda: value)
    assert told in refused()
    assert run.commands == []


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (
            "cpu",
            "lacks libglib-2.0.so.0 and libnuma.so.1. On .+: apt install libglib2.0-0 libnuma1",
        ),
        ("cuda", "lacks libglib-2.0.so.0. On .+: apt install libglib2.0-0$"),
    ],
)
def test_libraries_that_the_system_lacks(
    boot: ModuleType,
    run: FakeRun,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    told: str,
) -> None:
    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(boot.ctypes, "CDLL", load)
    assert re.search(told, refused("--target", target))
    assert run.commands == []


def test_too_little_disk(
    boot: ModuleType,
    run: FakeRun,
    refused: Refused,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = boot.TARGETS["cpu"]
    need = cpu.venv_gib + cpu.temp_gib
    monkeypatch.setattr(boot.tempfile, "gettempdir", lambda: str(project))
    free = (need - 0.1) * 2**30
    monkeypatch.setattr(boot.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    message = refused()
    assert f"{need - 0.1:.1f} GiB free" in message
    assert f"needs {need} GiB" in message
    assert run.commands == []
    free += 0.2 * 2**30
    assert boot.main([], project) == 0


def test_disk_fills_under_pip(run: FakeRun, refused: Refused) -> None:
    run.answers["/cpu.lock"] = 1, DISK_FULL
    assert "The disk became full" in refused()


def test_disk_fills_under_bootstrap(run: FakeRun, refused: Refused) -> None:
    run.answers["/cpu.lock"] = OSError(28, "No space left on device")
    assert "The disk became full" in refused()


@pytest.mark.parametrize("step", ["tools.lock", "torch-cpu.lock", "/cpu.lock"])
def test_no_network(run: FakeRun, refused: Refused, step: str) -> None:
    run.answers[step] = 1, NO_NETWORK
    message = refused()
    assert "No network" in message
    assert "env/bootstrap.log" in message
    assert step in run.commands[-1]
    assert "--index-url" not in run.commands[-1]


def test_torch_from_pytorchs_index_when_the_configured_one_lacks_it(
    boot: ModuleType, run: FakeRun, project: Path
) -> None:
    lock = str(project / "env" / "torch-cpu.lock")
    run.answers[f"off --require-hashes -r {lock}"] = 1, LACKS_IT
    assert boot.main([], project) == 0
    tries = [command for command in run.commands if command.endswith(lock)]
    assert ["--index-url" in command for command in tries] == [False, True]
    assert boot.TORCH_INDEX in tries[1]
    assert sum("--index-url" in command for command in run.commands) == 1


@pytest.mark.parametrize("first", [LACKS_IT, LACKS_ALL])
@pytest.mark.parametrize(
    ("second", "unreached"), [(LACKS_IT, False), (LACKS_ALL, False), (NO_NETWORK, True)]
)
def test_torch_in_neither_index(
    boot: ModuleType, run: FakeRun, refused: Refused, first: str, second: str, unreached: bool
) -> None:
    run.answers["--index-url"] = 1, second
    run.answers["torch-cpu.lock"] = 1, first
    message = refused()
    assert "Neither pip's configured index nor PyTorch's CPU index" in message
    assert boot.TORCH_INDEX in message
    assert ("could not be reached" in message) == unreached
    assert "PIP_EXTRA_INDEX_URL" in message


def test_torch_that_does_not_import(run: FakeRun, refused: Refused) -> None:
    run.answers["import torch"] = 1, "Traceback ...\nImportError: libgomp.so.1 not found\n"
    assert "torch does not import: ImportError: libgomp.so.1 not found" in refused()


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If ...\n"
            "    six==1.17.0 from https://example.org/six.whl:\n        Expected sha256 ...\n",
            "file for six==1.17.0 is not the one that was locked",
        ),
        (RETRY.replace("[Errno -2]", "CERTIFICATE_VERIFY_FAILED") + LACKS_ALL, "not trusted"),
        ("urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(): Read timed out.", "No netw"),
        (RETRY + LACKS_IT, "does not have torch==2.13.0+cpu"),
        (RETRY + "ERROR: Failed building wheel for x\n", "pip failed: Failed building wheel for x"),
        ("Illegal instruction\n", "pip failed: Illegal instruction"),
        ("", "it did not say why"),
    ],
)
def test_diagnosis(boot: ModuleType, output: str, told: str) -> None:
    assert told in str(boot.diagnose(output))


@pytest.mark.parametrize("step", ["-m venv", "tools.lock", "torch-cpu.lock", "import torch"])
def test_an_interrupted_run_is_not_taken_for_whole(
    boot: ModuleType,
    run: FakeRun,
    project: Path,
    capsys: pytest.CaptureFixture[str],
    step: str,
) -> None:
    run.answers[step] = KeyboardInterrupt()
    assert boot.main([], project) == 130
    assert "interrupted" in capsys.readouterr().err
    left = project / ".venv" / "left"
    left.parent.mkdir(exist_ok=True)
    left.touch()
    run.answers.clear()
    assert boot.main([], project) == 0
    assert not left.exists()


def test_an_interrupted_removal_is_not_taken_for_whole(
    boot: ModuleType, run: FakeRun, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot.main([], project)
    lock = project / "env" / "cpu.lock"
    before = lock.read_text()
    change_lock(boot, project)

    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(boot.shutil, "rmtree", interrupted)
    assert boot.main([], project) == 130
    lock.write_text(before)
    assert not boot.read_stamp(project / ".venv")


def test_interruption_lets_the_child_tidy_up_and_ends_it(boot: ModuleType, tmp_path: Path) -> None:
    children = []
    tidied = tmp_path / "tidied"

    def watch(line: str) -> None:
        children.append(int(line))
        raise KeyboardInterrupt

    sleeper = (
        "import os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "finally:\n"
        "    pathlib.Path(sys.argv[1]).touch()\n"
    )
    with pytest.raises(KeyboardInterrupt):
        boot.run([sys.executable, "-c", sleeper, str(tidied)], io.StringIO(), watch)
    assert tidied.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


def test_output_goes_to_the_log(boot: ModuleType) -> None:
    log = io.StringIO()
    script = "import sys; print('out'); sys.stdout.flush(); print('err', file=sys.stderr); exit(3)"
    assert boot.run([sys.executable, "-c", script], log, len) == (3, "out\nerr\n")
    assert log.getvalue().endswith("out\nerr\n")


def test_waits_for_another_set_up_and_takes_its_result(
    boot: ModuleType, run: FakeRun, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    with (project / "env" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def say(text: str) -> None:
            said.append(text)
            if text.startswith("Waiting for another set-up"):
                boot.Build(project, "cpu").run()
                run.commands.clear()
                fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr(boot, "say", say)
        assert boot.main([], project) == 0
    assert said[0].startswith("Waiting for another set-up")
    assert run.commands == []


def test_a_current_environment_waits_for_nobody(
    boot: ModuleType, run: FakeRun, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot.main([], project)
    with (project / "env" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(boot, "say", pytest.fail)  # rather than wait for ever
        assert boot.main([], project) == 0


def test_a_surviving_child_keeps_the_lock(boot: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with boot.locked(path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    with path.open("w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        child.kill()
        child.wait()
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_termination_is_an_interruption(project: Path) -> None:
    """A real process, waiting for the lock, to show the exit status and message of SIGTERM."""
    (project / "env" / "bootstrap.py").write_text((ENV / "bootstrap.py").read_text())
    with (project / "env" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, str(project / "env" / "bootstrap.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Waiting")
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == "set-up: interrupted; the next run starts anew.\n"


def entries(text: str) -> list[str]:
    """The requirements in a lock, each with its continuation lines."""
    return re.findall(r"^[\w.-]+==.*\n(?:\s+.*\n)*", text, re.MULTILINE)


@pytest.mark.parametrize(
    "name", ["cpu.lock", "torch-cpu.lock", "cuda.lock", "sglang.lock", "sglang-cuda.lock"]
)
def test_locks_hold_hashes_and_no_place(name: str) -> None:
    text = (ENV / name).read_text()
    assert entries(text)
    assert all("--hash=sha256:" in entry for entry in entries(text))
    assert not re.search(r"^(?:-|\S*@|\S*file:)", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["cpu", "cuda", "sglang", "sglang-cuda"])
def test_locks_hold_what_was_asked_for(name: str) -> None:
    locked = {entry.split()[0] for entry in entries((ENV / f"{name}.lock").read_text())}
    names = {pin.split("==")[0] for pin in locked}
    asked = (ENV / f"{name}.in").read_text()
    if "-r base.in" in asked:
        asked += (ENV / "base.in").read_text()
    lines = re.findall(r"^(\w[\w.-]*)(?:\[\w+\])?((?:==\S+)?)", asked, re.MULTILINE)
    assert lines
    for package, version in lines:
        assert f"{package}{version}".lower() in (locked if version else names)


@pytest.mark.parametrize(("name", "excludes"), [("cpu", ""), ("sglang", "sglang-")])
def test_locks_for_cpus_leave_out_what_is_excluded(name: str, excludes: str) -> None:
    excluded = re.findall(r"^\w\S*", (ENV / f"{excludes}exclude.txt").read_text(), re.MULTILINE)
    names = {entry.split("==")[0] for entry in entries((ENV / f"{name}.lock").read_text())}
    assert "torchvision" in excluded
    assert names.isdisjoint(excluded)
