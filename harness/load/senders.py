"""Several processes that send the requests of an open loop, where one core is not enough.

Requests are dealt to them in turn. Each reads its own from a file and says that it is ready; then,
for each turn, it is told which of them to send and the instant that their times count from. The
clock is the machine's, so that instant is the same to all. They answer with a record a request.

Each is this module, run as ``python -m harness.load.senders URL FILE``. Pipes carry lines of JSON.
In go, for each turn, the number of its first request, that of the first after it, and the instant;
out come ``ready``, records, and, when nothing more comes in, the CPU seconds that it all took.
"""

import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from harness.errors import HarnessError
from harness.load import collector, open_loop
from harness.load.client import Body, Outcome, connect, from_record, record
from harness.load.limits import raise_stream_limit
from harness.load.open_loop import Due
from harness.processes import die_with, ended

_MODULE = "harness.load.senders"
_READY = b"ready\n"


@dataclass(frozen=True)
class Senders:
    """Processes that are ready to send; made by ``started``."""

    processes: Sequence[Process]
    done: Callable[[], object]

    @property
    def pids(self) -> list[int]:
        """Their process numbers."""
        return [process.pid for process in self.processes]

    async def send(self, part: range, begin_ns: int) -> list[Outcome]:
        """Have requests sent; see ``open_loop.drive``.

        Raises:
            HarnessError: if a process ends, or has a record of what it was not to send.

        """
        outcomes: dict[int, Outcome] = {}
        order = json.dumps([part.start, part.stop, begin_ns]).encode() + b"\n"

        async def receive(index: int) -> None:
            missing = {request for request in part if self._owner(request) == index}
            while missing:
                request, outcome = from_record(json.loads(await self._line(index)))
                if request not in missing:
                    raise HarnessError(f"request {request} has two records: it was sent twice")
                missing.remove(request)
                outcomes[request] = outcome
                self.done()

        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(order)
        await asyncio.gather(*map(receive, range(len(self.processes))))
        return [outcomes[request] for request in part]

    async def finish(self) -> float:
        """Let them end, and return the CPU seconds that sending took them in all."""
        cpu_seconds = 0.0
        for index, process in enumerate(self.processes):
            assert process.stdin is not None
            process.stdin.close()
            cpu_seconds += float(await self._line(index))
            await process.wait()
        return cpu_seconds

    async def ready(self) -> None:
        """Return when all are."""
        for index in range(len(self.processes)):
            await self._line(index)

    def _owner(self, request: int) -> int:
        """Return which process sends a request."""
        return request % len(self.processes)

    async def _line(self, index: int) -> bytes:
        """Return the next line that a process says."""
        process = self.processes[index]
        assert process.stdout is not None
        if line := await process.stdout.readline():
            return line
        how = ended(await process.wait())
        of = len(self.processes)
        raise HarnessError(f"process {index + 1} of the client's {of} {how}")


@contextlib.asynccontextmanager
async def started(
    url: str,
    bodies: Sequence[Body],
    offsets_ns: Sequence[int],
    processes: int,
    folder: Path,
    done: Callable[[], object],
) -> AsyncIterator[Senders]:
    """Start processes that send an open loop's requests; none outlives this block.

    Args:
        url: Of the server.
        bodies: What to send.
        offsets_ns: When each is due, in ns after an instant that ``Senders.send`` is given.
        processes: How many.
        folder: For files that are only needed meanwhile.
        done: Called after each answer.

    Raises:
        HarnessError: if one cannot be started.

    """
    running: list[Process] = []
    try:
        for index in range(processes):
            own = folder / f"sender-{index}.jsonl"
            _write(own, bodies, offsets_ns, range(index, len(bodies), processes))
            command = [sys.executable, "-m", _MODULE, url, str(own)]
            running.append(
                await asyncio.create_subprocess_exec(
                    *command,
                    stdin=PIPE,
                    stdout=PIPE,
                    # Ctrl-C is for this process, which ends them.
                    start_new_session=True,
                )
            )
        senders = Senders(running, done)
        await senders.ready()
        yield senders
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in running:
            await process.wait()


def _write(path: Path, bodies: Sequence[Body], offsets_ns: Sequence[int], requests: range) -> None:
    with path.open("w") as file:
        for request in requests:
            asked = bodies[request]
            row = [
                *(request, offsets_ns[request]),
                *(asked.content.decode(), asked.prompt_tokens, asked.output_tokens),
            ]
            file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class _Planned:
    """A request, and how long after a turn's instant it is due."""

    request: int
    content: Body
    offset_ns: int


def _read(path: Path) -> list[_Planned]:
    planned = []
    with path.open() as lines:
        for line in lines:
            request, offset_ns, content, *tokens = json.loads(line)
            planned.append(_Planned(request, Body(content.encode(), *tokens), offset_ns))
    return planned


async def _serve(url: str, planned: Sequence[_Planned]) -> None:
    """Send what each line of standard input says, until there are no more."""
    max_streams = raise_stream_limit()
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    # Does not wait for the reader, who may be busy.
    records, _ = await loop.connect_write_pipe(
        asyncio.BaseProtocol, os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    )

    def answered(request: int, outcome: Outcome) -> None:
        records.write(json.dumps(record(request, outcome)).encode() + b"\n")

    async with connect(url) as client:
        records.write(_READY)
        while line := await orders.readline():
            first, stop, begin_ns = json.loads(line)
            due = [
                Due(one.request, one.content, begin_ns + one.offset_ns)
                for one in planned
                if first <= one.request < stop
            ]
            await open_loop.send(client, due, max_streams, answered)


def main() -> None:
    """Send a share of the requests."""
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    url, path = sys.argv[1:]
    planned = _read(Path(path))
    with collector.stopped():
        cpu_start = time.process_time()
        uvloop.run(_serve(url, planned))
        cpu_seconds = time.process_time() - cpu_start
    # The records have all been read by now, or nobody would have ended this.
    print(cpu_seconds)


if __name__ == "__main__":
    main()
