from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.results import (
    CHAT,
    due,
    experiment,
    measured,
    open_loop,
    record,
    results,
    row,
)

from harness.analysis.results import Results
from harness.cell import CellSpec, ClosedLoop, OpenLoop
from harness.errors import HarnessError
from harness.measure.records import RequestRecord


def _made(spec: CellSpec) -> list[RequestRecord]:
    send = due if spec.load.mode == "open-loop" else record
    return [
        send(2, 2000, 70),
        send(1, 1000, 60),
        send(0, 0, 50, warm_up=True),
    ]


@pytest.fixture
def drawn_from(root: Path, tmp_path: Path) -> Results:
    batches = {"mode": "batch-http", "batch_size": 2}
    return measured(
        root,
        tmp_path,
        _made,
        experiment(policies=["arc"], loads=[open_loop(8), batches]),
        experiment(**CHAT | {"policies": ["arc"]}),
    )


def _cell(drawn_from: Results, mode: str) -> "pd.Series[Any]":
    cells = drawn_from.cells
    return cells[cells["mode"] == mode].iloc[0]


@pytest.mark.parametrize("mode", ["open-loop", "closed-loop", "batch-http"])
def test_ttft_is_from_when_due_in_an_open_loop_else_from_sending(
    drawn_from: Results, mode: str
) -> None:
    requests = drawn_from.requests(_cell(drawn_from, mode))
    assert list(requests["ttft_ms"]) == [60, 70]


def test_requests_are_in_order_and_none_that_warms_up(drawn_from: Results) -> None:
    cell = _cell(drawn_from, "open-loop")
    requests = drawn_from.requests(cell)
    assert list(requests["request"]) == [1, 2]
    # As the table of cells has it.
    assert cell["requests"] == 2
    assert cell["ttft_mean_ms"] == 65
    # What the record itself says, 5 ms later.
    assert list((requests["first_token_ns"] - requests["sent_ns"]) / 1e6) == [55, 65]


def test_load_is_the_configs(drawn_from: Results) -> None:
    load = drawn_from.load(_cell(drawn_from, "open-loop")["cell"])
    assert isinstance(load, OpenLoop)
    assert load.request_rate == 8
    assert isinstance(drawn_from.load(_cell(drawn_from, "closed-loop")["cell"]), ClosedLoop)


def test_cell_of_another_config_is_refused(drawn_from: Results) -> None:
    with pytest.raises(HarnessError, match="cell other is none of config cpu's"):
        drawn_from.load("other")


@pytest.mark.parametrize("content", [None, b"not a table"])
def test_requests_that_cannot_be_read_are_refused(
    drawn_from: Results, content: bytes | None
) -> None:
    cell = _cell(drawn_from, "open-loop")
    path = drawn_from.folder / "cells" / cell["folder"] / "requests.parquet"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HarnessError, match=r"requests\.parquet: not readable"):
        drawn_from.requests(cell)


_ORIGIN = {
    "engine_version": "0.32.0",
    "patches_sha256": "aaaa",
    "model_sha256": "bbbb",
    "machine": "one, 2 cores",
}


def _of_two_origins(root: Path, tmp_path: Path, tier: str, **other: str) -> Results:
    rows = [row(tier=tier, engine="vllm", cell=cell) | _ORIGIN for cell in ("a", "b")]
    return results(root, tmp_path, rows[0], rows[1] | {"policy": "arc"} | other)


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ("engine_version", "engine versions"),
        ("patches_sha256", "patches"),
        ("model_sha256", "models"),
        ("machine", "machines"),
    ],
)
def test_cells_of_different_origin_are_not_compared(
    root: Path, tmp_path: Path, column: str, what: str
) -> None:
    mixed = _of_two_origins(root, tmp_path, "cpu", **{column: "other"})
    with pytest.raises(HarnessError, match=f"of different {what} .*other, as b.*Remove"):
        mixed.of("cpu", "docqa-quality")
    # What is not valid is not compared, and stays.
    mixed.cells.loc[1, "valid"] = False
    assert len(mixed.of("cpu", "docqa-quality")) == 2


def test_without_a_clock_machines_may_differ(root: Path, tmp_path: Path) -> None:
    mixed = _of_two_origins(root, tmp_path, "replay", machine="other")
    assert len(mixed.of("replay", "docqa-quality")) == 2


def test_the_stock_engine_has_no_patches_and_may_be_compared(root: Path, tmp_path: Path) -> None:
    stock = {"engine": "vllm-stock", "patches_sha256": None}
    both = _of_two_origins(root, tmp_path, "cpu", **stock)  # type: ignore[arg-type]
    assert len(both.of("cpu", "docqa-quality")) == 2


def test_repeats_are_not_held_against_others(root: Path, tmp_path: Path) -> None:
    again = _of_two_origins(root, tmp_path, "cpu", repeat=1)  # type: ignore[arg-type]
    assert list(again.of("cpu", "docqa-quality")["cell"]) == ["a"]
    assert list(again.again("cpu", "docqa-quality", "batch")["cell"]) == ["b"]
