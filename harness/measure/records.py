"""Records of requests and policy state, and the files that a cell leaves behind.

``requests.parquet`` has one row a request, ``telemetry.parquet`` one row a batch or an open
loop's turn, ``turns.parquet`` one row a turn.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.disturbance import Turn
from harness.errors import HarnessError
from harness.load.stream import Status

REQUESTS, TELEMETRY, TURNS, SUMMARY, PROVENANCE, ENGINE_LOG, METRICS = (
    "requests.parquet",
    "telemetry.parquet",
    "turns.parquet",
    "summary.json",
    "provenance.json",
    "engine.log",
    "metrics.prom",
)
# How the reason of a cell begins that could not be measured here.
NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What became of one request: the columns of ``requests.parquet``.

    Times in ns on the monotonic clock; None: does not apply, or it never came to that. ``warm_up``
    requests only fill the cache and count in no total. ``status`` is "ok" or the fault's name
    (``harness/load/README.md``), ``error`` a line on the fault.
    """

    request: int
    session: int | None
    turn: int | None
    window: int | None
    warm_up: bool
    scheduled_ns: int | None
    sent_ns: int | None
    first_byte_ns: int | None
    first_token_ns: int | None
    end_ns: int | None
    prompt_tokens: int
    cached_tokens: int | None
    output_tokens: int | None
    queried_blocks: int | None
    cached_blocks: int | None
    status: Status
    error: str | None

    @property
    def ttft_ms(self) -> float | None:
        """Time from sending to the first token."""
        if self.first_token_ns is None or self.sent_ns is None:
            return None
        return (self.first_token_ns - self.sent_ns) / 1e6

    @property
    def ttft_scheduled_ms(self) -> float | None:
        """Time from when the request was due to the first token; None without a schedule."""
        if self.first_token_ns is None or self.scheduled_ns is None:
            return None
        return (self.first_token_ns - self.scheduled_ns) / 1e6


@dataclass(frozen=True, slots=True)
class TelemetryRecord:
    """The policy's state after the given request, under the policy's own names.

    Of ARC: the sizes of T1, T2, B1, B2 and ``p``, the size meant for T1, all in blocks. Of all:
    ``evictions`` since the engine started. In tier replay on vLLM ``unreachable``, the share of the
    cached blocks that no request can use; not a number where it was not counted.
    """

    request: int
    state: Mapping[str, float]


def _integers(names: str, suffix: str = "") -> "list[pa.Field[pa.DataType]]":
    return [pa.field(f"{name}{suffix}", pa.int64()) for name in names.split()]


_REQUEST_SCHEMA = pa.schema(
    [
        *_integers("request session turn window"),
        pa.field("warm_up", pa.bool_()),
        *_integers("scheduled sent first_byte first_token end", "_ns"),
        *_integers("prompt cached output", "_tokens"),
        *_integers("queried cached", "_blocks"),
        pa.field("status", pa.string()),
        pa.field("error", pa.string()),
    ]
)
_TURN_SCHEMA = pa.schema(
    [*_integers("first_request"), *_integers("start end run_delay steal", "_ns")]
)


def write(
    folder: Path,
    rows: Sequence[RequestRecord],
    telemetry: Sequence[TelemetryRecord],
    turns: Sequence[Turn],
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write a cell's files but for what the engine itself writes.

    ``telemetry.parquet`` has ``request`` and one column for each name of the policy's state,
    ``turns.parquet`` the columns of ``disturbance.Turn``; without a clock there is none.
    """
    # By columns: rows as dictionaries would need several times the memory of the records.
    table = pa.table(
        {name: [getattr(row, name) for row in rows] for name in _REQUEST_SCHEMA.names},
        schema=_REQUEST_SCHEMA,
    )
    pq.write_table(table, folder / REQUESTS)
    columns = {"request": [row.request for row in telemetry]} | {
        name: [row.state[name] for row in telemetry]
        for name in (telemetry[0].state if telemetry else ())
    }
    pq.write_table(pa.table(columns), folder / TELEMETRY)
    if turns:
        rows_of_turns = [dataclasses.asdict(turn) for turn in turns]
        pq.write_table(pa.Table.from_pylist(rows_of_turns, schema=_TURN_SCHEMA), folder / TURNS)
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return where a cell's numbers come from; nothing if it was not run.

    Raises:
        HarnessError: if the file is damaged.

    """
    try:
        provenance: dict[str, Any] = json.loads((folder / PROVENANCE).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise HarnessError(f"{folder / PROVENANCE}: not readable: {error}") from None
    return provenance


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a measured cell.

    Raises:
        HarnessError: if there is none.

    """
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError) as error:
        raise HarnessError(f"{folder}: not a measured cell: {error}") from None
    return summary
