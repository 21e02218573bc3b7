import asyncio
import os
import time
from collections.abc import Callable

import pytest
import uvloop

from harness.load.alarm import Alarm

_MS = 1_000_000


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_never_wakes_early(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def run() -> list[int]:
        late_ns = []
        with Alarm() as alarm:
            for milliseconds in (0.0, 0.1, 0.4, 1.0, 1.6, 7.3) * 3:
                due_ns = time.monotonic_ns() + round(milliseconds * _MS)
                await alarm.until(due_ns)
                late_ns.append(time.monotonic_ns() - due_ns)
        return late_ns

    with asyncio.Runner(loop_factory=new_loop) as runner:
        late_ns = runner.run(run())
    assert min(late_ns) >= 0
    # How late it is at most depends on what else the machine does.
    assert min(late_ns) < _MS


def test_many_wait_at_a_time_and_wake_in_order() -> None:
    async def run() -> list[int]:
        woken = []
        start_ns = time.monotonic_ns()

        async def wait(milliseconds: int) -> None:
            due_ns = start_ns + milliseconds * _MS
            await alarm.until(due_ns)
            assert time.monotonic_ns() >= due_ns
            woken.append(milliseconds)

        with Alarm() as alarm:
            await asyncio.gather(*(wait(milliseconds) for milliseconds in (40, 10, 30, 10, 20)))
        return woken

    assert asyncio.run(run()) == [10, 10, 20, 30, 40]


def test_time_that_has_passed_gives_others_their_turn() -> None:
    async def run() -> bool:
        other = asyncio.create_task(asyncio.sleep(0))
        with Alarm() as alarm:
            await alarm.until(time.monotonic_ns() - _MS)
            await alarm.until(0)
        return other.done()

    assert asyncio.run(run())


def test_wait_that_is_cancelled_does_not_hold_up_the_others() -> None:
    async def run() -> None:
        now_ns = time.monotonic_ns()
        with Alarm() as alarm:
            first, second = (
                asyncio.create_task(alarm.until(now_ns + milliseconds * _MS))
                for milliseconds in (30, 60)
            )
            await asyncio.sleep(0)
            first.cancel()
            await second
        assert first.cancelled()
        assert time.monotonic_ns() >= now_ns + 60 * _MS

    asyncio.run(run())


def test_leaves_no_descriptor() -> None:
    async def run() -> None:
        before = len(os.listdir("/proc/self/fd"))
        with Alarm() as alarm:
            await alarm.until(time.monotonic_ns() + _MS)
            assert len(os.listdir("/proc/self/fd")) == before + 1
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())
