"""Closed loop: Locust's users, in processes of their own, and the records that they leave."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.cell import ClosedLoop
from harness.engines.server import HOST, MODEL, Server
from harness.errors import HarnessError
from harness.load import limits
from harness.load.client import SILENCE_SECONDS, ClientLoad, Outcome, from_record
from harness.processes import ended
from workloads.file import Workload

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0
# Processes of Locust have to meet within.
_MEET_SECONDS = 60


def drive(
    load: ClosedLoop,
    workload: Workload,
    prompts: Sequence[Sequence[int]],
    seed: int,
    server: Server,
    temporary: Path,
    done: Callable[[], object],
) -> tuple[list[tuple[int | None, Outcome]], ClientLoad]:
    """Have Locust's users send a workload; see ``online.drive``.

    Raises:
        HarnessError: if the server dies, or Locust does, or a request has no record; if the system
            allows a process fewer streams than it has users.

    """
    max_streams, users = limits.raise_stream_limit(), load.users // load.processes
    if users > max_streams:
        raise HarnessError(
            f"{users} users in a process may have as many streams open, and the system allows "
            f"{max_streams}: {limits.ADVICE}"
        )
    records = temporary.resolve() / "locust"
    records.mkdir()
    prompts_file = records / "prompts.jsonl"
    write_prompts(prompts_file, workload, prompts)
    command = [
        *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless"),
        *("--host", server.url, "--users", str(load.users), "--spawn-rate", str(load.users)),
        *("--prompts", str(prompts_file), "--served-model", MODEL, "--seed", str(seed)),
        *("--think-time-mean", str(load.think_time_mean), "--records", str(records)),
        *(["--reading-speed", str(load.reading_speed)] if load.reading_speed else []),
        *("--silence", str(SILENCE_SECONDS), "--exit-code-on-error", "0", "--only-summary"),
    ]
    if load.processes > 1:
        # Locust's own port may be another run's.
        port = str(_free_port())
        command += ["--processes", str(load.processes), "--master-bind-host", HOST]
        command += ["--master-bind-port", port, "--master-port", port]
        command += ["--expect-workers-max-wait", str(_MEET_SECONDS)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        cwd=records,
        env=_environment(records),
    )
    answered = 0

    def count() -> None:
        nonlocal answered
        if died := server.died():
            raise HarnessError(f"{died} while requests were under way")
        now = min(_count_lines(records), len(prompts))
        for _ in range(now - answered):
            done()
        answered = now

    try:
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            count()
        count()
    finally:
        # Its own processes end with it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(_GRACE_SECONDS)
        process.kill()
        process.wait()
    if process.returncode:
        raise HarnessError(f"locust {ended(process.returncode)}")
    return _collect(records, len(prompts), load.processes)


def write_prompts(path: Path, workload: Workload, prompts: Sequence[Sequence[int]]) -> None:
    """Write what Locust's users send, a JSON line a request; whole or not at all.

    Args:
        path: The file.
        workload: Whose requests they are.
        prompts: The token ids of each request's prompt.

    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w") as file:
        for request, prompt in zip(workload.requests, prompts, strict=True):
            line = {
                "request": request.request,
                "session": request.session,
                "turn": request.turn,
                "output_tokens": request.output_tokens,
                "prompt": list(prompt),
            }
            file.write(json.dumps(line) + "\n")
    os.replace(partial, path)


def _environment(home: Path) -> dict[str, str]:
    """Return an environment in which Locust finds no options but those of its command line.

    It looks for more in variables, in the user's home, and where it runs.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    given = [path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path]
    # It runs elsewhere.
    search_path = [str(_ROOT), *(str(Path(path).resolve()) for path in given)]
    return kept | {"HOME": str(home), "PYTHONPATH": os.pathsep.join(search_path)}


def _collect(
    records: Path, num_requests: int, processes: int
) -> tuple[list[tuple[int | None, Outcome]], ClientLoad]:
    outcomes: dict[int, Outcome] = {}
    costs = []
    for path in _files(records):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if "cpu_seconds" in row:
                costs.append(ClientLoad(**row))
                continue
            request, outcome = from_record(row)
            if request in outcomes:
                raise HarnessError(f"request {request} has two records: it was sent twice")
            outcomes[request] = outcome
    if len(outcomes) != num_requests or len(costs) != processes:
        raise HarnessError(
            f"locust left records of {len(outcomes)} of {num_requests} requests, by {len(costs)} "
            f"of {processes} processes: a user failed, see above"
        )
    cost = ClientLoad(
        sum(cost.cpu_seconds for cost in costs), max(cost.seconds for cost in costs), processes
    )
    return [(None, outcomes[request]) for request in range(num_requests)], cost


def _files(records: Path) -> list[Path]:
    return sorted(records.glob("records-*.jsonl"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _count_lines(records: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in _files(records))
