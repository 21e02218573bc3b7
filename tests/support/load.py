"""What the tests of the load drivers share: workloads, a stand-in for a server, its truth."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil

from harness.bench import mock
from harness.bench.mock import Behaviour, Mock, Truth
from harness.engines.vllm.server import VLLMServer
from harness.load.client import Body, Client, Outcome, body, connect
from workloads.file import Header, TextRequest, TextWorkload

T = TypeVar("T")
PROMPT_TOKENS = 40


class Stand(VLLMServer):
    """A mock, as the load drivers know a server."""

    def __init__(self, server: Mock) -> None:
        super().__init__(server.url, server._process)
        self.mock = server

    @property
    def version(self) -> str:
        return "mock"

    def warm_up(self, prompts: list[list[int]]) -> None:
        """Do nothing, since it would not forget them."""


@contextmanager
def stand(behaviour: Behaviour, folder: Path) -> Iterator[Stand]:
    folder.mkdir(exist_ok=True)
    with mock.running(behaviour, folder) as server:
        yield Stand(server)


def workload(
    requests: int, sessions: int | None = None, output_tokens: int = 2, warm_up: int = 0
) -> TextWorkload:
    """Return requests that are dealt to sessions in turn; without, each stands alone."""
    made = tuple(
        TextRequest(
            request=i,
            session=None if sessions is None else i % sessions,
            turn=None if sessions is None else i // sessions,
            prompt_tokens=PROMPT_TOKENS,
            output_tokens=output_tokens,
            parts=("a",),
        )
        for i in range(requests)
    )
    header = Header(
        content="text", name="w", seed=1, texts=1, requests=requests, warm_up=warm_up, params={}
    )
    return TextWorkload(header, made, {"a": "b"})


def prompts(count: int) -> list[list[int]]:
    """Return prompts of which every other has its first block in common."""
    return [[i % 2] * 16 + [i] * (PROMPT_TOKENS - 16) for i in range(count)]


def bodies(count: int, output_tokens: int = 2) -> list[Body]:
    return [body("mock", prompt, output_tokens) for prompt in prompts(count)]


def with_client(url: str, do: Callable[[Client], Awaitable[T]], silence_seconds: float = 30.0) -> T:
    async def run() -> T:
        async with connect(url, silence_seconds) as client:
            return await do(client)

    return asyncio.run(run())


def one_by_one(url: str, count: int, silence_seconds: float = 30.0) -> list[Outcome]:
    async def run(client: Client) -> list[Outcome]:
        return [await client.complete(i, asked) for i, asked in enumerate(bodies(count))]

    return with_client(url, run, silence_seconds)


def by_request(truths: Sequence[Truth]) -> dict[int, Truth]:
    """Return truths by the number of the request; each must be there once."""
    found: dict[int, Truth] = {}
    for truth in truths:
        assert truth.x_request_id is not None
        request = int(truth.x_request_id.removeprefix("request-"))
        assert request not in found, f"request {request} was sent twice"
        found[request] = truth
    return found


def in_order(outcome: Outcome, scheduled_ns: int | None = None) -> bool:
    """Say whether the times that there are follow each other."""
    times = [
        scheduled_ns,
        outcome.sent_ns,
        outcome.first_byte_ns,
        outcome.first_token_ns,
        outcome.end_ns,
    ]
    known = [time for time in times if time is not None]
    return known == sorted(known)


def left_over(mark: str) -> list[str]:
    """Return the command lines of processes that still run and have the mark in them."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or [])
        if mark in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(command)
    return found
