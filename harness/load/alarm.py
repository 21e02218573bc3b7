"""Waiting to the kernel's accuracy, where an event loop's own timers are up to a ms early or late.

An open loop that is late counts it as TTFT, and a loop that wakes early burns the rest of the wait.
"""

import asyncio
import contextlib
import ctypes
import heapq
import os
import struct
import time
from types import TracebackType
from typing import Self


class Alarm:
    """One timer of the kernel for any number of waits of the running event loop.

    Raises:
        OSError: if the system has no more timers.

    """

    def __init__(self) -> None:
        # Python has these calls from version 3.13.
        self._libc = ctypes.CDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, flags)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._ring)
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    async def until(self, due_ns: int) -> None:
        """Return when a time of ``time.monotonic_ns`` has come, and others had their turn."""
        if due_ns <= time.monotonic_ns():
            await asyncio.sleep(0)
            return
        self._count += 1
        mine = (due_ns, self._count, self._loop.create_future())
        heapq.heappush(self._waiting, mine)
        if self._waiting[0] is mine:
            self._set()
        await mine[2]

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        now = time.monotonic_ns()
        while self._waiting and self._waiting[0][0] <= now:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)
        if self._waiting:
            self._set()

    def _set(self) -> None:
        absolute = 1
        spec = struct.pack("4l", 0, 0, *divmod(self._waiting[0][0], 10**9))
        self._libc.timerfd_settime(self._fd, absolute, spec, None)
