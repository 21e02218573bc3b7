import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import disturbance
from harness.disturbance import Turn, Watch

_TICKS = os.sysconf("SC_CLK_TCK")


class _Proc:
    """Stands in for ``/proc``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def waited(self, pid: int, delay_ns: int, timeslices: int = 5) -> None:
        folder = self._folder / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "schedstat").write_text(f"123 {delay_ns} {timeslices}\n")

    def end(self, pid: int) -> None:
        shutil.rmtree(self._folder / str(pid))

    def stolen(self, seconds: int) -> None:
        (self._folder / "stat").write_text(f"cpu  1 2 3 4 5 6 7 {seconds * _TICKS} 0 0\ncpu0 9 9\n")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Proc:
    monkeypatch.setattr(disturbance, "_PROC", tmp_path)
    return _Proc(tmp_path)


def _turn(watch: Watch, meanwhile: Callable[[], object] = lambda: None) -> Turn:
    with watch.turn(7):
        meanwhile()
    return watch.turns[-1]


def test_what_processes_waited_and_all_cores_lost_within_the_turn(proc: _Proc) -> None:
    for pid, delay_ns in ((1, 100), (2, 1000), (3, 10_000), (4, 7)):
        proc.waited(pid, delay_ns)
    proc.stolen(4)

    def meanwhile() -> None:
        proc.waited(1, 150)
        proc.end(2)
        proc.waited(3, 10_003)
        # Nobody asked about it.
        proc.waited(4, 99)
        proc.stolen(6)

    turn = _turn(Watch(1, 2, 3), meanwhile)
    assert (turn.first_request, turn.run_delay_ns) == (7, 50 + 3)
    assert turn.steal_ns == 2_000_000_000
    assert turn.start_ns < turn.end_ns


def test_between_turns_nothing_counts(proc: _Proc) -> None:
    proc.waited(1, 100)
    proc.stolen(0)
    watch = Watch(1)
    _turn(watch)
    proc.waited(1, 1000)
    proc.stolen(3)
    _turn(watch)
    assert [(turn.run_delay_ns, turn.steal_ns) for turn in watch.turns] == [(0, 0), (0, 0)]


def test_processes_that_come_later_count_from_the_next_turn_on(proc: _Proc) -> None:
    proc.waited(1, 100)
    proc.waited(2, 1000)
    watch = Watch(1)
    watch.add(2)
    turn = _turn(watch, lambda: proc.waited(2, 1007))
    assert turn.run_delay_ns == 7


def test_kernel_that_does_not_count_says_nothing(proc: _Proc, tmp_path: Path) -> None:
    turn = _turn(Watch(1))
    assert turn.run_delay_ns is turn.steal_ns is None
    proc.waited(1, 0, timeslices=0)
    (tmp_path / "stat").write_text("cpu  1 2 3 4\n")
    turn = _turn(Watch(1))
    assert turn.run_delay_ns is turn.steal_ns is None


def test_without_processes_nothing_is_kept() -> None:
    watch = Watch()
    watch.add(os.getpid())
    with watch.turn(0):
        pass
    assert watch.turns == []


def test_this_kernel_counts_this_process() -> None:
    turn = _turn(Watch(os.getpid()), lambda: sum(range(100_000)))
    assert turn.run_delay_ns is not None
    assert turn.run_delay_ns >= 0
    assert os.getpid() in disturbance.processes_of(os.getpgrp())


def _turns(delay_ns: int | None, steal_ns: int | None) -> list[Turn]:
    """Return two turns of 1000 ns, the second disturbed."""
    quiet = (0 if value is not None else None for value in (delay_ns, steal_ns))
    return [Turn(0, 0, 1000, *quiet), Turn(8, 5000, 6000, delay_ns, steal_ns)]


@pytest.mark.parametrize(
    ("delay_ns", "steal_ns", "shares", "disturbed"),
    [
        (240, 160, (0.12, 0.08), ""),
        (320, 100, (0.16, 0.05), "waiting for a core took 16 % of its time, steal 5 %"),
        (None, 500, (None, 0.25), "waiting for a core took unknown of its time, steal 25 %"),
        (None, None, (None, None), ""),
    ],
)
def test_disturbed_is_what_lost_more_than_a_fifth(
    delay_ns: int | None,
    steal_ns: int | None,
    shares: tuple[float | None, float | None],
    disturbed: str,
) -> None:
    found = disturbance.summary(_turns(delay_ns, steal_ns))
    assert (found["run_delay_share"], found["steal_share"]) == shares
    assert found["disturbed"] == disturbed


def test_without_a_clock_nothing_is_disturbed() -> None:
    expected = {"run_delay_share": None, "steal_share": None, "disturbed": ""}
    assert disturbance.summary([]) == expected
