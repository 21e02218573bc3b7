from pathlib import Path

import pytest

from harness.bench import client, ours
from harness.bench.client import OURS, Errors
from harness.bench.mock import Behaviour
from harness.bench.peers import Load as PeerLoad
from harness.bench.peers import Peer, PeerRun
from harness.bench.results import Result
from harness.cell import OpenLoop
from harness.errors import HarnessError


def by_name(found: list[Result]) -> dict[str, Result]:
    names = [result.name for result in found]
    assert len(set(names)) == len(names)
    return {result.name: result for result in found}


def test_results_are_medians_over_rounds_of_one_rate() -> None:
    found = {
        (OURS, 100): [Errors(0.5, p99, cpu, p99 + 1) for p99, cpu in ((9, 3), (1, 5), (1.5, 4))],
        (OURS, 400): [Errors(70, 80, 90, 100)],
        ("slow", 100): [Errors(2, 8, 20), Errors(4, 6, 10), Errors(3, 7, 30)],
        ("quick", 100): [Errors(1, 3, 15)],
        ("slow", 400): [Errors(70, 80, 90)],
    }
    rows = client.compared(found, 100, target_ms=2)
    values = {(result.name, result.value, result.unit, result.target) for result in rows}
    assert values == {
        ("ours: TTFT error at 100/s, p50", 0.5, "ms", None),
        ("ours: TTFT error at 100/s, p99", 1.5, "ms", 2),
        ("ours: TTFT error at 100/s, p99, from scheduled", 2.5, "ms", 2),
        ("ours: CPU at 100/s, start included", 4, "s", None),
        ("slow: TTFT error at 100/s, p50", 3, "ms", None),
        ("slow: TTFT error at 100/s, p99", 7, "ms", None),
        ("slow: CPU at 100/s, start included", 20, "s", None),
        ("quick: TTFT error at 100/s, p50", 1, "ms", None),
        ("quick: TTFT error at 100/s, p99", 3, "ms", None),
        ("quick: CPU at 100/s, start included", 15, "s", None),
        ("ours: TTFT error p99 at 100/s, ours / best peer (quick)", 0.5, "ratio", 1),
    }


def test_without_other_tools_there_is_no_ratio() -> None:
    rows = client.compared({(OURS, 100): [Errors(1, 2, 3, 4)]}, 100, target_ms=2)
    assert {result.unit for result in rows} == {"ms", "s"}


@pytest.mark.parametrize(
    ("p", "share", "expected"),
    [
        # All wait: evenly between nothing and all of it.
        (0.5, 1.0, 2500),
        (0.99, 1 / 12, 4400),
        (0.999, 1 / 12, 4940),
        (0.9, 0.2, 2500),
        # No more than one in a hundred meets it.
        (0.99, 0.01, 0),
        (0.9, 0.01, 0),
    ],
)
def test_quantiles_of_a_stall(p: float, share: float, expected: float) -> None:
    assert client.stalled_ms(p, share, 5.0) == pytest.approx(expected, abs=1e-6)


def test_requests_that_fail_are_no_measurement() -> None:
    load = OpenLoop(mode="open-loop", arrivals="constant", request_rate=100)
    reply = ours.exchange(Behaviour(error_every=2), load, requests=4, output_tokens=1)
    with pytest.raises(HarnessError, match=r"not all .* well: \{'ok': 2, 'http-error': 2\}"):
        client._ttft_ms(reply)


class _Tool(Peer):
    name = "tool"

    def command(self, load: PeerLoad, folder: Path) -> list[str]:
        raise NotImplementedError

    def ttft_ms(self, load: PeerLoad, folder: Path) -> dict[str, float]:
        raise NotImplementedError


def test_tool_that_fails_in_any_round_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def run(tool: Peer, *_: object) -> PeerRun:
        calls.append(tool.name)
        if len(calls) == 2:
            raise HarnessError("tool: exit code 1")
        return PeerRun({}, 0.0)

    monkeypatch.setattr(client, "_errors_of_ours", lambda _: Errors(1, 2, 3, 4))
    monkeypatch.setattr(client, "_errors_of_rival", run)
    rows = by_name(client._compare([_Tool()], tmp_path, tmp_path))
    assert len(calls) == 2
    assert "warning: left out: tool: exit code 1" in capsys.readouterr().err
    assert not any("tool" in name for name in rows)
    assert rows["ours: TTFT error at 400/s, p99"].value == 2
