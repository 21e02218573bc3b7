from pathlib import Path

import pandas as pd
import pytest
from support.results import experiment, measured, record

from harness.analysis import samehits
from harness.cell import CellSpec
from harness.errors import HarnessError
from harness.measure.records import RequestRecord


def _run(root: Path, folder: Path, version: str, cached: int, count: int = 3) -> Path:
    def made(spec: CellSpec) -> list[RequestRecord]:
        own = cached if spec.policy == "arc" else 32
        return [record(i, 0, 10, cached_tokens=own if i else 0) for i in range(count)]

    measured(root, folder, made, experiment())
    cells = pd.read_csv(folder / "cells.csv").assign(engine_version=version)
    cells.to_csv(folder / "cells.csv", index=False)
    return folder


def test_the_same_hits(root: Path, tmp_path: Path) -> None:
    first = _run(root, tmp_path / "a", "1.0.0", 32)
    second = _run(root, tmp_path / "b", "2.0.0", 32)
    assert samehits.compare(first, second) == samehits.Agreement(2, 6, ("1.0.0", "2.0.0"), ())


def test_each_cell_that_differs_is_named_with_its_first_request(root: Path, tmp_path: Path) -> None:
    first, second = _run(root, tmp_path / "a", "1.0.0", 32), _run(root, tmp_path / "b", "2.0.0", 64)
    (difference,) = samehits.compare(first, second).differences
    assert "-arc: 2 of 3 requests differ, the first is request 1: cached_tokens 32 and 64" in (
        difference
    )


def test_other_requests_are_a_difference(root: Path, tmp_path: Path) -> None:
    first = _run(root, tmp_path / "a", "1.0.0", 32)
    second = _run(root, tmp_path / "b", "2.0.0", 32, count=4)
    assert [
        "3 and 4 requests, which are not the same" in line
        for line in samehits.compare(first, second).differences
    ] == [True, True]


def test_what_cannot_be_compared(root: Path, tmp_path: Path) -> None:
    first, second = _run(root, tmp_path / "a", "1.0.0", 32), _run(root, tmp_path / "b", "2.0.0", 32)
    next(second.rglob("requests.parquet")).unlink()
    with pytest.raises(HarnessError, match=r"requests\.parquet: not readable"):
        samehits.compare(first, second)
    cells = pd.read_csv(second / "cells.csv").assign(valid=False)
    cells.to_csv(second / "cells.csv", index=False)
    with pytest.raises(HarnessError, match="no valid cell in common"):
        samehits.compare(first, second)
