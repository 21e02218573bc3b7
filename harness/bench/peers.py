"""Other open-loop load generators, each run the same way, to compare ours with.

``vllm bench serve`` comes with the engine; guidellm and aiperf have environments of their own,
since they conflict with ours. All send a stream of completions at constant intervals, and none
warms up. Each reports a time to first token that starts at a moment of its own:

==================  =============================================================  ===========
tool                starts                                                         clock
==================  =============================================================  ===========
vllm bench serve    before the request is given to aiohttp; getting a connection,  monotonic
                    new or from the pool, is part of it
aiperf              the same, and after it made the request's session              monotonic
guidellm            when httpx begins to write the head, with a connection         wall clock
==================  =============================================================  ===========

``vllm bench serve`` ends it when it has decoded the event with the first token, the others when
they have read it. Beyond the rate that a tool can keep up with on the cores it has, the delays of
its own event loop are most of what it reports.
"""

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from harness.errors import HarnessError

_ENV = Path(__file__).parents[2] / "env"
# PyPI's torch is CUDA's; guidellm asks for one and uses its data loader.
_LOCKS = {"guidellm": ("torch-cpu.lock", "guidellm.lock"), "aiperf": ("aiperf.lock",)}
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
_STAMP = ".locks"
_TAIL_LINES = 10
# The `vllm` command does not start (env/README.md); this is what its `bench serve` does.
_VLLM_BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "AIPERF_DATASET_MMAP_CACHE_ENABLED": "false",
    "no_proxy": "*",
}


@dataclass(frozen=True)
class Load:
    """What is sent: requests at constant intervals, whatever the answers take.

    Attributes:
        base_url: The server's, without ``/v1``.
        model: The name under which it serves.
        tokenizer: A local folder with a tokenizer, which the tools want though it changes nothing.
        requests: Their number.
        rate: Requests a second.
        output_tokens: Of each request.

    """

    base_url: str
    model: str
    tokenizer: Path
    requests: int
    rate: float
    output_tokens: int

    def prompts(self) -> list[str]:
        """Return the prompts in the order of sending, no two the same."""
        return [f"request {i} of the benchmark" for i in range(self.requests)]


@dataclass(frozen=True)
class PeerRun:
    """What a tool reported.

    Attributes:
        ttft_ms: The TTFT in ms by prompt, of the requests that it counts as successful.
        cpu_seconds: User and system time of its processes, starting up and reporting included.

    """

    ttft_ms: dict[str, float]
    cpu_seconds: float


class Peer(ABC):
    """A tool: how it is called, and where it leaves each request's TTFT."""

    name: ClassVar[str]

    @abstractmethod
    def command(self, load: Load, folder: Path) -> list[str]:
        """Write the tool's input into an empty folder and return its command, to be run there."""

    @abstractmethod
    def ttft_ms(self, load: Load, folder: Path) -> dict[str, float]:
        """Return what ``PeerRun.ttft_ms`` holds, from the tool's output in the folder."""


class VllmBench(Peer):
    """``vllm bench serve`` of the installed engine."""

    name = "vllm-bench"

    @override
    def command(self, load: Load, folder: Path) -> list[str]:
        _write_lines(folder / "prompts.jsonl", ({"prompt": prompt} for prompt in load.prompts()))
        return [
            *(sys.executable, "-c", _VLLM_BENCH_SERVE),
            *("--base-url", load.base_url, "--model", load.model),
            *("--tokenizer", str(load.tokenizer.resolve())),
            *("--dataset-name", "custom", "--dataset-path", "prompts.jsonl"),
            *("--disable-shuffle", "--skip-chat-template"),
            *("--num-prompts", str(load.requests), "--custom-output-len", str(load.output_tokens)),
            *("--request-rate", str(load.rate), "--burstiness", "inf"),
            # Its check would send the first prompt twice.
            *("--ready-check-timeout-sec", "0", "--disable-tqdm"),
            *("--save-result", "--save-detailed", "--result-filename", "result.json"),
        ]

    @override
    def ttft_ms(self, load: Load, folder: Path) -> dict[str, float]:
        result = json.loads((folder / "result.json").read_text())
        rows = zip(load.prompts(), result["ttfts"], result["errors"], strict=True)
        return {prompt: 1000 * seconds for prompt, seconds, error in rows if not error}


@dataclass(frozen=True)
class Guidellm(Peer):
    """GuideLLM, from the folder of its executables."""

    name = "guidellm"

    executables: Path

    @override
    def command(self, load: Load, folder: Path) -> list[str]:
        _write_lines(folder / "prompts.jsonl", ({"prompt": prompt} for prompt in load.prompts()))
        spec = {
            "backend": {
                "kind": "openai_http",
                "target": load.base_url,
                "model": load.model,
                "request_format": "/v1/completions",
                "max_tokens": load.output_tokens,
            },
            "profile": {"kind": "constant", "rate": [load.rate]},
            "constraints": [{"kind": "max_requests", "count": load.requests}],
            "tokenizer": {"kind": "huggingface_auto", "model": str(load.tokenizer.resolve())},
            "data": [{"kind": "json_file", "path": "prompts.jsonl"}],
            "outputs": [{"kind": "json", "path": "result.json"}],
        }
        (folder / "scenario.json").write_text(json.dumps({"spec": spec}))
        guidellm = self.executables / "guidellm"
        return [str(guidellm), "run", "--config", "scenario.json", "--disable-console"]

    @override
    def ttft_ms(self, load: Load, folder: Path) -> dict[str, float]:
        (benchmark,) = json.loads((folder / "result.json").read_text())["benchmarks"]
        return {
            json.loads(request["request_args"])["body"]["prompt"]: request["time_to_first_token_ms"]
            for request in benchmark["requests"]["successful"]
        }


@dataclass(frozen=True)
class Aiperf(Peer):
    """NVIDIA's AIPerf, from the folder of its executables."""

    name = "aiperf"

    executables: Path

    @override
    def command(self, load: Load, folder: Path) -> list[str]:
        requests = ({"session_id": prompt, "text": prompt} for prompt in load.prompts())
        _write_lines(folder / "prompts.jsonl", requests)
        # Offline, it finds a tokenizer in the hub's cache and nowhere else.
        cached = folder / "hub" / "models--local--tokenizer"
        (cached / "snapshots").mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("local")
        (cached / "snapshots" / "local").symlink_to(load.tokenizer.resolve())
        return [
            *(str(self.executables / "aiperf"), "profile"),
            *("--url", load.base_url, "--model", load.model, "--tokenizer", "local/tokenizer"),
            *("--endpoint-type", "completions", "--streaming"),
            *("--input-file", "prompts.jsonl", "--custom-dataset-type", "single_turn"),
            *("--dataset-sampling-strategy", "sequential"),
            *("--request-count", str(load.requests)),
            *("--osl", str(load.output_tokens), "--use-legacy-max-tokens"),
            *("--request-rate", str(load.rate), "--arrival-pattern", "constant"),
            # As the others do; else it counts tokens itself, on the cores that it measures with.
            "--use-server-token-count",
            *("--artifact-dir", ".", "--export-level", "records", "--ui", "none"),
            *("--no-gpu-telemetry", "--no-server-metrics"),
        ]

    @override
    def ttft_ms(self, load: Load, folder: Path) -> dict[str, float]:
        lines = (folder / "profile_export.jsonl").read_text().splitlines()
        return {
            record["metadata"]["conversation_id"]: record["metrics"]["time_to_first_token"]["value"]
            for record in map(json.loads, lines)
            if not record.get("error")
        }


def environment(name: str, build: Path) -> Path:
    """Return the folder of a tool's executables, installed from its lock where they are not yet.

    Args:
        name: ``guidellm`` or ``aiperf``.
        build: The environment is made in ``peers/<name>`` there.

    Raises:
        HarnessError: if it cannot be made.

    """
    venv = (build / "peers" / name).resolve()
    locks = [_ENV / lock for lock in _LOCKS[name]]
    # The place too, since an environment that was moved does not work.
    hashes = [hashlib.sha256(lock.read_bytes()).hexdigest() for lock in locks]
    stamp = "\n".join([str(venv), *hashes])
    with contextlib.suppress(OSError):
        if (venv / _STAMP).read_text() == stamp:
            return venv / "bin"
    shutil.rmtree(venv, ignore_errors=True)
    _install(name, [sys.executable, "-m", "venv", str(venv)])
    for lock in locks:
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--no-input", "--quiet"]
        command = [*pip, "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        command += ["-r", str(lock)]
        try:
            _install(name, command)
        except HarnessError:
            if not lock.name.startswith("torch"):
                raise
            _install(name, [*command, "--index-url", _TORCH_INDEX])
    # Last, so that half an environment has none.
    (venv / _STAMP).write_text(stamp)
    return venv / "bin"


def peers(build: Path) -> list[Peer]:
    """Return all tools, installed where they are not yet; ``environment`` says how and where.

    Raises:
        HarnessError: if one cannot be installed.

    """
    return [
        VllmBench(),
        Guidellm(environment("guidellm", build)),
        Aiperf(environment("aiperf", build)),
    ]


def run(peer: Peer, load: Load, folder: Path, timeout_seconds: float) -> PeerRun:
    """Run a tool once and return what it reported.

    The CPU time is right only if no other child of this process ends meanwhile.

    Args:
        peer: The tool.
        load: What it is to send.
        folder: Its input, output and log are left in a folder of its name there, made anew.
        timeout_seconds: When it is killed; to be added to the load's own duration are 10 to 30 s
            to start and report.

    Raises:
        HarnessError: if it fails, takes too long, leaves no results that can be read, or had no
            request succeed.

    """
    own = folder.resolve() / peer.name
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    cpu_before = _children_cpu_seconds()
    _call(peer.name, peer.command(load, own), own, timeout_seconds)
    cpu_seconds = _children_cpu_seconds() - cpu_before
    try:
        ttft_ms = peer.ttft_ms(load, own)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise HarnessError(
            f"{peer.name}: no results that can be read in {own}: {error!r}:\n{_tail(own)}"
        ) from None
    if not ttft_ms:  # which not all tools take for a failure
        raise HarnessError(f"{peer.name}: no request succeeded:\n{_tail(own)}")
    return PeerRun(ttft_ms, cpu_seconds)


def _call(name: str, command: Sequence[str], folder: Path, timeout_seconds: float) -> None:
    environment = os.environ | _OFFLINE | {"HF_HUB_CACHE": str(folder / "hub")}
    with _log(folder).open("wb") as log:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise HarnessError(f"{name}: does not start: {error}") from None
        with process:
            try:
                code = process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                raise HarnessError(
                    f"{name}: not done after {timeout_seconds:g} s:\n{_tail(folder)}"
                ) from None
            finally:
                # Whatever ended it: its workers too, which may outlive it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if code:
        raise HarnessError(f"{name}: exit code {code}:\n{_tail(folder)}")


def _install(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = re.findall(r"^\s*ERROR: (.+)", done.stderr, re.MULTILINE)
        lines = errors or done.stderr.split("\n\n")[-1].strip().splitlines() or ["no reason given"]
        raise HarnessError(f"{name}: cannot be installed: {lines[-1]}")


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _log(folder: Path) -> Path:
    return folder / "log.txt"


def _tail(folder: Path) -> str:
    return "\n".join(_log(folder).read_text(errors="replace").splitlines()[-_TAIL_LINES:])
