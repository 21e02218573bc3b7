"""Cells on servers, the mock in place of vLLM: what is sent, recorded, summed up and judged."""

import functools
import gc
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.load import Stand, by_request, in_order, left_over, prompts, stand, workload
from support.records import SPEC

from harness import model as models
from harness import patching
from harness.bench.mock import Behaviour
from harness.cell import BatchHTTP, ClosedLoop, Load, OpenLoop
from harness.disturbance import Watch
from harness.engines import server as servers
from harness.errors import HarnessError
from harness.load import arrivals, sending
from harness.load.client import ClientLoad, Outcome, connect
from harness.load.stream import Usage
from harness.measure import served, validity
from harness.measure.order import WorkerOrder
from harness.measure.summary import summarize
from harness.patching import Package
from harness.turns import Place, Turns
from workloads import file
from workloads.file import TextRequest, TextWorkload

_BATCHES = BatchHTTP(mode="batch-http", batch_size=4)
_EIGHT = ClosedLoop(mode="closed-loop", users=8, think_time_mean=0.01)


def _open(rate: float, arrivals: str = "constant", processes: int = 1) -> OpenLoop:
    given = {"mode": "open-loop", "arrivals": arrivals, "request_rate": rate}
    return OpenLoop.model_validate(given | {"processes": processes})


def _drive(
    server: Stand, load: Load, work: TextWorkload, folder: Path, seed: int = 1
) -> tuple[list[tuple[int | None, Outcome]], ClientLoad]:
    given = prompts(len(work.requests))
    return sending.drive(
        load, work, given, seed, server, folder, Turns.alone(), Watch(), lambda: None
    )


def _summarize(
    server: Stand, load: Load, work: TextWorkload, folder: Path
) -> tuple[dict[str, Any], list[Outcome]]:
    """Send a workload and return the summary of its records, and the outcomes."""
    fresh = server.counters()
    sent, cost = _drive(server, load, work, folder)
    rows = [
        served.of_outcome(request, False, scheduled_ns, outcome)
        for request, (scheduled_ns, outcome) in zip(work.requests, sent, strict=True)
    ]
    spec = SPEC.model_copy(update={"load": load})
    summary = summarize(spec, rows, fresh, server.counters(), cost)
    return summary, [outcome for _, outcome in sent]


@pytest.mark.parametrize(
    "load", [_BATCHES, _open(50.0, "poisson"), _open(50.0, "poisson", processes=3), _EIGHT]
)
def test_each_mode_sends_each_request_once(tmp_path: Path, load: Load) -> None:
    work = workload(requests=30, warm_up=5)
    with stand(Behaviour(ttft_ms=20, itl_ms=2), tmp_path / "mock") as server:
        sent, cost = _drive(server, load, work, tmp_path)
        truth = by_request(server.mock.truth())
    assert sorted(truth) == list(range(30))
    for request, (scheduled_ns, outcome) in enumerate(sent):
        assert outcome.status == "ok"
        assert in_order(outcome, scheduled_ns)
        assert (scheduled_ns is None) == (load.mode == "closed-loop")
        assert outcome.usage is not None
        assert outcome.usage.cached_tokens == truth[request].cached_tokens
    if load == _BATCHES:
        # Those that warm up are in batches of their own.
        firsts = [0, 4, 5, 9, 13, 17, 21, 25, 29]
        scheduled = [scheduled_ns for scheduled_ns, _ in sent]
        assert sorted({scheduled.index(time) for time in scheduled}) == firsts
    assert cost.cpu_seconds > 0
    assert 0.1 < cost.seconds < 30


def test_same_seed_same_arrivals(tmp_path: Path) -> None:
    load, work = _open(100.0, "poisson"), workload(requests=20)

    def due(seed: int) -> list[int]:
        sent, _ = _drive(server, load, work, tmp_path, seed)
        scheduled = [scheduled_ns or 0 for scheduled_ns, _ in sent]
        return [scheduled_ns - scheduled[0] for scheduled_ns in scheduled]

    with stand(Behaviour(), tmp_path / "mock1") as server:
        first = due(7)
    with stand(Behaviour(ttft_ms=100, error_every=3), tmp_path / "mock2") as server:
        assert due(7) == first == arrivals.offsets_ns(load, work, 7).tolist()
        assert due(8) != first


@pytest.mark.parametrize(
    "load",
    [
        _open(1500.0, processes=2),
        ClosedLoop(mode="closed-loop", users=2000, think_time_mean=0.1, processes=2),
    ],
)
def test_two_thousand_streams_at_a_time_are_each_sent_and_counted_once(
    tmp_path: Path, load: Load
) -> None:
    work = workload(requests=2000, output_tokens=3)
    with stand(Behaviour(together=2000), tmp_path / "mock") as server:
        summary, outcomes = _summarize(server, load, work, tmp_path)
        truths = server.mock.truth()
    truth = by_request(truths)
    assert len(truths) == len(truth) == 2000
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert summary["client_processes"] == 2
    assert summary["max_concurrent_requests"] == 2000
    assert (summary["completed"], summary["failed"], summary["dropped"]) == (2000, 0, 0)
    assert summary["queried_tokens"] == sum(row.prompt_tokens for row in truths) == 80_000
    assert summary["hit_tokens"] == sum(row.cached_tokens for row in truths) == 1998 * 16
    assert summary["total_output_tokens"] == sum(row.output_tokens for row in truths) == 6000
    for request, outcome in enumerate(outcomes):
        assert in_order(outcome)
        assert outcome.usage is not None
        assert outcome.usage.cached_tokens == truth[request].cached_tokens


def test_requests_beyond_the_descriptors_are_dropped_and_in_no_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "raise_stream_limit", lambda: 3)
    with stand(Behaviour(ttft_ms=500), tmp_path / "mock") as server:
        summary, outcomes = _summarize(server, _open(50.0), workload(requests=10), tmp_path)
        assert len(server.mock.truth()) == 3
    assert (summary["completed"], summary["failed"], summary["dropped"]) == (3, 0, 7)
    assert summary["faults"] == {"dropped": 7}
    waits = [((o.first_token_ns or 0) - (o.sent_ns or 0)) / 1e6 for o in outcomes[:3]]
    assert summary["mean_ttft_ms"] == pytest.approx(np.mean(waits))
    assert summary["queried_tokens"] == 3 * 40
    assert summary["max_concurrent_requests"] == 3
    # On a busy machine requests may be sent late, which is another matter.
    assert summary["invalid_reason"].startswith("7 of 10 requests failed (dropped 7)")


@pytest.mark.parametrize(
    ("load", "end"),
    [
        (_BATCHES, "dies"),
        (_BATCHES, "killed"),
        (_open(100.0), "dies"),
        (_open(100.0), "killed"),
        (_open(100.0, processes=2), "dies"),
    ],
)
def test_server_that_ends_in_the_middle_of_streams_ends_it(
    tmp_path: Path, load: Load, end: str
) -> None:
    """At once: what it has sent would take a minute to time out, and as long to send the rest."""
    behaviour = Behaviour(itl_ms=500, die_after=3 if end == "dies" else None)
    work = workload(requests=6000, output_tokens=200)
    with stand(behaviour, tmp_path / "mock") as server:
        if end == "killed":
            threading.Timer(1.0, server.process.kill).start()
        start = time.monotonic()
        with pytest.raises(HarnessError) as error:
            _drive(server, load, work, tmp_path)
        assert time.monotonic() - start < 20
    assert left_over(str(tmp_path / "sender-")) == []
    ended = "died with exit code 3" if end == "dies" else "was killed by SIGKILL"
    assert str(error.value) == f"the server {ended} while requests were under way"


_STALL_S, _RATE, _REQUESTS = 1.5, 100.0, 400


def _stalled_s(p: float) -> float:
    """Return the p-quantile of the added latency.

    Of the share of requests that are due during the stall, each waits for its end: evenly from all
    of it to nothing.
    """
    share = _STALL_S * _RATE / _REQUESTS
    return _STALL_S * (1 - (1 - p) / share)


def test_open_loop_shows_a_stall_as_queueing_theory_says_and_a_closed_loop_hides_it(
    tmp_path: Path,
) -> None:
    behaviour = Behaviour(ttft_ms=10, stall_at_s=0.5, stall_s=_STALL_S)
    work = workload(requests=_REQUESTS, output_tokens=1)
    # Two users who send about as often.
    load = ClosedLoop(mode="closed-loop", users=2, think_time_mean=0.007)
    with (
        stand(behaviour, tmp_path / "mock1") as server,
        stand(behaviour, tmp_path / "mock2") as other,
        ThreadPoolExecutor(1) as meanwhile,
    ):
        users = meanwhile.submit(_summarize, other, load, work, tmp_path)
        opened, _ = _summarize(server, _open(_RATE), work, tmp_path)
        closed, outcomes = users.result()
    assert opened["completed"] == closed["completed"] == _REQUESTS
    for key, p in (("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)):
        expected = _stalled_s(p) + 0.01
        # Later on a busy machine; never sooner.
        assert expected - 0.05 < opened[f"{key}_ttft_scheduled_ms"] / 1000 < expected + 0.4
    # Only the two requests that were under way when it began have seen it.
    waits = [(outcome.first_token_ns or 0) - (outcome.sent_ns or 0) for outcome in outcomes]
    assert sum(wait > 1e9 for wait in waits) == 2
    assert closed["p99_ttft_ms"] < 500
    assert closed["p99_ttft_scheduled_ms"] is None
    assert opened["p99_ttft_scheduled_ms"] - closed["p99_ttft_ms"] > 1000


class _Cell:
    """Measures a cell as a worker does, but on a mock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._patch = monkeypatch

    def measure(
        self,
        behaviour: Behaviour,
        load: Load = _BATCHES,
        requests: int = 40,
        report: Callable[[str], object] = lambda _: None,
    ) -> dict[str, Any]:
        """Return the summary; the cell's files are in the folder."""

        @contextmanager
        def serve(*_: object, **__: object) -> Iterator[Stand]:
            with stand(behaviour, self.folder / "mock") as server:
                yield server

        self._patch.setattr(servers, "serve", serve)
        workload_file = self.folder / "w.jsonl"
        file.write(workload_file, workload(requests))
        spec = SPEC.model_copy(update={"load": load})
        order = WorkerOrder(
            cells={self.folder: spec},
            model=str(self.folder),
            workload=workload_file,
            patches_sha256=None,
            progress_fd=-1,
            place=Place(0, -1, (-1,)),
        )
        served.measure(order, Turns.alone(), report)
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary


class _Tokenizer:
    vocab_size = 1000
    start = ()

    def encode(self, text: str) -> list[int]:
        return list(range(40))


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Cell]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(models, "load_tokenizer", lambda _: _Tokenizer())
    handler = signal.getsignal(signal.SIGTERM)
    yield _Cell(tmp_path, monkeypatch)
    signal.signal(signal.SIGTERM, handler)


def test_cell_that_is_valid_leaves_its_files(cell: _Cell) -> None:
    said: list[str] = []
    summary = cell.measure(Behaviour(ttft_ms=60, itl_ms=2), report=said.append)
    assert (summary["valid"], summary["invalid_reason"]) == (True, "")
    assert said == ["server ready, 40 requests to go"] + [
        f"{answered}/40 requests answered" for answered in (10, 20, 30, 40)
    ]
    assert (summary["requests"], summary["completed"], summary["faults"]) == (40, 40, {})
    # The first finds nothing; of the others, the first two blocks are the same.
    assert summary["hit_tokens"] == 39 * 32
    assert summary["hit_rate"] == 39 * 32 / (40 * 40)
    assert 60 < summary["median_ttft_ms"] < 1000
    table = pd.read_parquet(cell.folder / "requests.parquet")
    times = ["scheduled_ns", "sent_ns", "first_byte_ns", "first_token_ns", "end_ns"]
    assert (table[times].diff(axis=1)[times[1:]] >= 0).all().all()
    assert summary["mean_ttft_ms"] == pytest.approx(
        np.mean(table["first_token_ns"] - table["sent_ns"]) / 1e6
    )
    assert "vllm:prefix_cache_hits_total" in (cell.folder / "metrics.prom").read_text()
    turns = pd.read_parquet(cell.folder / "turns.parquet")
    assert list(turns["first_request"]) == list(range(0, 40, 4))
    assert (turns["start_ns"].to_numpy() <= table["scheduled_ns"][::4].to_numpy()).all()
    assert (turns["end_ns"].to_numpy() >= table["end_ns"][3::4].to_numpy()).all()
    assert summary["run_delay_share"] == pytest.approx(
        turns["run_delay_ns"].sum() / (turns["end_ns"] - turns["start_ns"]).sum()
    )
    provenance = json.loads((cell.folder / "provenance.json").read_text())
    assert provenance["engine"]["version"] == "mock"


@pytest.mark.parametrize(
    ("behaviour", "reasons"),
    [
        ({"error_every": 10}, ["4 of 40 requests failed (http-error 4)"]),
        ({"miscount": 3}, ["requests sum up to 1248 cached tokens, the engine counts 1368"]),
        ({"restart_after": 20}, ["the engine was restarted: it counts anew"]),
        (
            # What the engine looked up for these is in its counters alone.
            {"truncate_every": 30, "empty_every": 20, "hang_every": 25},
            [
                "4 of 40 requests failed (no-token 2, stalled 1, truncated 1)",
                "requests sum up to 1120 cached tokens, the engine counts 1248",
                "requests sum up to 1440 queried tokens, the engine counts 1600",
            ],
        ),
    ],
)
def test_server_that_cannot_be_trusted_makes_the_cell_invalid(
    cell: _Cell, monkeypatch: pytest.MonkeyPatch, behaviour: dict[str, int], reasons: list[str]
) -> None:
    monkeypatch.setattr(sending, "connect", functools.partial(connect, silence_seconds=1.0))
    summary = cell.measure(Behaviour.model_validate({"ttft_ms": 20} | behaviour))
    assert not summary["valid"]
    assert summary["invalid_reason"] == "; ".join(reasons)
    # It is kept all the same.
    assert len(pd.read_parquet(cell.folder / "requests.parquet")) == 40


def test_client_that_is_held_up_makes_the_cell_invalid(cell: _Cell) -> None:
    def hold_up(line: str) -> None:
        # The event loop's own thread reports.
        if "answered" in line:
            time.sleep(0.3)

    summary = cell.measure(Behaviour(), _open(200.0), requests=100, report=hold_up)
    found = re.search(r"late dispatch: p99 (\d+\.\d) ms", summary["invalid_reason"])
    assert found is not None
    assert found[0] + " after the scheduled time, more than 20" in summary["invalid_reason"]
    assert float(found[1]) == pytest.approx(summary["p99_dispatch_delay_ms"], abs=0.06)
    assert float(found[1]) > 250
    assert 20 < summary["late_requests"] < 100
    # From when they were due, nobody can hide it.
    assert summary["p99_ttft_scheduled_ms"] > 250


def test_client_that_is_too_busy_makes_the_cell_invalid(
    cell: _Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where much else runs, no client gets as much as the limit.
    monkeypatch.setattr(validity, "MAX_CLIENT_CORES", 0.1)

    def burn(line: str) -> None:
        # Nor does the collector come on top.
        assert not ("answered" in line and gc.isenabled())
        end = time.process_time() + 0.2
        while "answered" in line and time.process_time() < end:
            pass

    summary = cell.measure(Behaviour(), report=burn)
    found = re.fullmatch(
        r"the client took (\d\.\d\d) of a core, more than 0\.1", summary["invalid_reason"]
    )
    assert found is not None
    assert float(found[1]) == pytest.approx(summary["client_cores"], abs=0.006)
    assert summary["client_cpu_seconds"] > 0.8
    assert summary["client_processes"] == 1


def test_server_that_dies_leaves_no_summary(cell: _Cell) -> None:
    with pytest.raises(HarnessError, match="the server died with exit code 3"):
        cell.measure(Behaviour(ttft_ms=20, die_after=10))
    assert not (cell.folder / "summary.json").exists()


def test_record_of_an_outcome() -> None:
    request = TextRequest(
        request=3, session=1, turn=2, prompt_tokens=100, output_tokens=4, parts=("d",)
    )
    ok = Outcome("ok", None, 20, 30, 40, 50, Usage(101, 32, 4))
    row = served.of_outcome(request, True, 10, ok)
    assert (row.request, row.session, row.turn, row.warm_up) == (3, 1, 2, True)
    assert (row.scheduled_ns, row.sent_ns, row.first_byte_ns) == (10, 20, 30)
    assert (row.prompt_tokens, row.cached_tokens, row.output_tokens) == (101, 32, 4)
    assert (row.ttft_ms, row.ttft_scheduled_ms) == (20 / 1e6, 30 / 1e6)
    dropped = served.of_outcome(request, False, 10, Outcome("dropped", "full"))
    assert (dropped.status, dropped.error) == ("dropped", "full")
    assert (dropped.prompt_tokens, dropped.cached_tokens) == (100, None)
    assert dropped.ttft_ms is dropped.ttft_scheduled_ms is None


def test_engine_is_where_its_environment_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package(tmp_path / "site-packages" / "elsewhere", "1.0")
    monkeypatch.setattr(patching, "find_package", {"elsewhere": package}.__getitem__)
    assert served._engine_file("elsewhere") == str(package.folder / "__init__.py")
    # What is first on the path comes before that.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert served._engine_file("elsewhere") == str(tmp_path / "elsewhere" / "__init__.py")
