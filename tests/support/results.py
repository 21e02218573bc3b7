"""Made-up results to draw figures from; nothing in them was measured."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness import config
from harness.analysis import tables
from harness.analysis.results import Results
from harness.cell import CellSpec
from harness.config import Config
from harness.engines.base import Counters
from harness.measure import records, supervisor
from harness.measure.records import RequestRecord
from harness.measure.summary import summarize

_POLICY_COLUMNS = ["workload", "cache_tokens", "kind", "policy", "hit_rate"]

# The requests of a cell, or why it was not run.
Made = Callable[[CellSpec], Sequence[RequestRecord] | str]


def row(**changes: Any) -> dict[str, Any]:
    """Return a row of cells.csv: a valid replay of the paper's workload under LRU."""
    return {
        **dict.fromkeys(tables.COLUMNS),
        "tier": "replay",
        "engine": "replay",
        "policy": "lru",
        "workload": "docqa-quality",
        "mode": "batch",
        "batch_size": 1,
        "cache_tokens": 50_000,
        "seed": 42,
        "requests": 3072,
        "hit_rate": 0.2,
        "ttft_mean_ms": 400.0,
        "ttft_kind": "predicted",
        "valid": True,
        "repeat": 0,
        "folder": changes.get("cell"),
        **changes,
    }


def results(root: Path, folder: Path, *rows: dict[str, Any], base: str = "cpu") -> Results:
    """Return results of a config with these cells, and one point of the optimum."""
    optimum = ["docqa-quality", 50_000, "bound", "optimum", 0.45]
    return Results(
        config.load(root / "config" / f"{base}.yaml"),
        folder,
        pd.DataFrame(rows),
        pd.DataFrame([optimum], columns=_POLICY_COLUMNS),
    )


def experiment(**changes: Any) -> dict[str, Any]:
    """Return an experiment on servers as a config has it: doc-QA under LRU and ARC."""
    return {
        "tier": "cpu",
        "workload": "docqa-quality",
        "policies": ["lru", "arc"],
        "cache_tokens": [100_000],
        "seeds": [42],
        **changes,
    }


def open_loop(rate: float, **changes: Any) -> dict[str, Any]:
    """Return a load of Poisson arrivals."""
    return {"mode": "open-loop", "request_rate": rate, **changes}


CLOSED_LOOP = {"mode": "closed-loop", "users": 4, "think_time_mean": 0.5}
CHAT = {"workload": "conversation-chat", "cache_tokens": [8000], "loads": [CLOSED_LOOP]}


def measured(
    root: Path, folder: Path, made: Made, *experiments: dict[str, Any], base: str = "cpu"
) -> Results:
    """Return results of a config with other experiments, written as measured ones are.

    Args:
        root: Of the project.
        folder: Where to write the cells and their table.
        made: What to take for measured.
        experiments: See ``experiment``.
        base: The config that has the rest.

    """
    given = config.load(root / "config" / f"{base}.yaml")
    changed = Config.model_validate(
        given.model_dump() | {"experiments": {f"e{i}": e for i, e in enumerate(experiments)}}
    )
    for group, cells in changed.groups.items():
        for name, spec in cells.items():
            _write(spec, made(spec), folder / "cells" / group / name)
    tables.write_cells(sorted((folder / "cells").iterdir()), folder / "cells.csv")
    policies = pd.DataFrame(columns=_POLICY_COLUMNS)
    return Results(changed, folder, tables.read_cells(folder / "cells.csv"), policies)


def _write(spec: CellSpec, made: Sequence[RequestRecord] | str, folder: Path) -> None:
    if isinstance(made, str):
        supervisor.write_not_run({".": spec}, made, folder)
        return
    ok = [record for record in made if record.status == "ok"]
    counted = Counters(
        sum(record.prompt_tokens for record in ok),
        sum(record.cached_tokens or 0 for record in ok),
    )
    folder.mkdir(parents=True)
    state = {"t1": 10.0, "p": 5.0} if spec.policy == "arc" else {}
    telemetry = [records.TelemetryRecord(number, state) for number in (16, 32)]
    summary = summarize(spec, made, Counters(0, 0), counted)
    records.write(folder, made, telemetry, [], summary, {})


def record(number: int, at_ms: float, ttft_ms: float, **changes: Any) -> RequestRecord:
    """Return what became of a request that was sent at a time and got its token so much later."""
    sent_ns = 1_000_000_000 + round(at_ms * 1e6)
    first_token_ns = sent_ns + round(ttft_ms * 1e6)
    columns: dict[str, Any] = {
        "request": number,
        "session": None,
        "turn": None,
        "window": 0,
        "warm_up": False,
        "scheduled_ns": None,
        "sent_ns": sent_ns,
        "first_byte_ns": first_token_ns,
        "first_token_ns": first_token_ns,
        "end_ns": first_token_ns,
        "prompt_tokens": 100,
        "cached_tokens": 0,
        "output_tokens": 1,
        "queried_blocks": None,
        "cached_blocks": None,
        "status": "ok",
        "error": None,
    }
    return RequestRecord(**columns | changes)


def due(number: int, at_ms: float, ttft_ms: float, **changes: Any) -> RequestRecord:
    """Return what became of a request of an open loop: sent 5 ms late, the token after it was due.

    Both times count from when it was due.
    """
    scheduled_ns = 1_000_000_000 + round(at_ms * 1e6)
    return record(number, at_ms + 5, ttft_ms - 5, scheduled_ns=scheduled_ns, **changes)
