from pathlib import Path

import pytest
from support.results import CHAT, experiment, measured, open_loop, record

from harness.analysis import noise
from harness.cell import CellSpec
from harness.load.spec import Mode
from harness.measure.records import RequestRecord

# How much longer a repeat takes, in percent.
_OFF = {"batch": 1.0, "batch-http": 3.0, "open-loop": 10.0, "closed-loop": 20.0}
_BATCH = {"mode": "batch", "batch_size": 1}
_HTTP = [{"mode": "batch-http", "batch_size": size} for size in (1, 8)]


def _made(spec: CellSpec) -> list[RequestRecord]:
    ttft_ms = 100.0 * (1 + (_OFF[spec.load.mode] / 100 if spec.repeat else 0))
    return [
        record(i, 500 * i, ttft_ms, scheduled_ns=round(1e9 + 5e8 * i), session=i % 2, turn=i // 2)
        for i in range(8)
    ]


def test_each_workload_and_mode_has_the_noise_of_its_own_pairs(root: Path, tmp_path: Path) -> None:
    again = {"policies": ["lru"], "repeats": 2}
    found = measured(
        root,
        tmp_path,
        _made,
        experiment(**again, loads=[_BATCH, *_HTTP, open_loop(8)]),
        experiment(**again, **CHAT),
    )

    def band(workload: str, mode: Mode) -> float | None:
        return noise.band(found, "cpu", workload, mode, "ttft")

    # t(0.975) of one pair, and of two.
    assert band("docqa-quality", "batch") == pytest.approx(12.706, abs=0.01)
    assert band("docqa-quality", "batch-http") == pytest.approx(3 * 4.303, abs=0.01)
    assert band("docqa-quality", "open-loop") == pytest.approx(127.06, abs=0.01)
    assert band("conversation-chat", "closed-loop") == pytest.approx(254.12, abs=0.01)


def test_without_a_pair_of_its_own_there_is_none(root: Path, tmp_path: Path) -> None:
    found = measured(root, tmp_path, _made, experiment(policies=["lru"], repeats=2, loads=[_BATCH]))
    assert noise.band(found, "cpu", "docqa-quality", "batch-http", "ttft") is None
    assert noise.band(found, "cpu", "docqa-quality", "open-loop", "ttft") is None
    assert noise.band(found, "cpu", "conversation-chat", "batch", "ttft") is None
