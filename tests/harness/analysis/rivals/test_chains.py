"""Each policy against one that has a row for each block and looks at all of them every time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.bounds import Bounds
from harness.analysis.hitrate import HitCounter, HitRate
from harness.analysis.rivals import KINDS, Rivals, tlru, workloadaware
from harness.analysis.rivals.chains import Chains, PrefixCache, replay
from harness.analysis.rivals.hpt import HitsPerToken
from harness.analysis.rivals.lrfu import LRFU, LRFU1
from harness.analysis.rivals.lru2 import LRU2
from harness.analysis.rivals.slru import GhostSLRU
from harness.errors import HarnessError
from workloads.file import BlockRequest, BlockWorkload, Header

_BLOCK = 4

Prompt = Sequence[int]


def _workload(prompts: Sequence[Prompt], *, warm_up: int = 0, rest: int = 1) -> BlockWorkload:
    """Make requests of these blocks, and of ``rest`` tokens that are no full block."""
    requests = tuple(
        BlockRequest(
            request=number,
            prompt_tokens=_BLOCK * len(prompt) + rest,
            output_tokens=1,
            runs=tuple(_runs(prompt)),
        )
        for number, prompt in enumerate(prompts)
    )
    header = Header(
        content="blocks",
        name="w",
        seed=1,
        block_size=_BLOCK,
        requests=len(prompts),
        warm_up=warm_up,
        params={},
    )
    return BlockWorkload(header, requests)


def _runs(prompt: Prompt) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for block in prompt:
        if runs and sum(runs[-1]) == block:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return runs


@st.composite
def _prompts(draw: st.DrawFn) -> list[list[int]]:
    """Draw prompts that go down one tree, in which an id comes after one and the same."""
    size = draw(st.integers(3, 24))
    # Rather long than bushy.
    parents = [
        i - 1 if i and draw(st.integers(0, 3)) else draw(st.integers(-1, i - 1))
        for i in range(size)
    ]
    prompts = []
    for last in draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=30)):
        prompt = []
        while last >= 0:
            prompt.append(last)
            last = parents[last]
        prompts.append(prompt[::-1])
    return prompts


@dataclass
class _Block:
    depth: int
    parent: int | None
    uses: list[int] = field(default_factory=list)  # times, since it came in
    user: int = -1


class _ByBlock:
    """Evicts block by block; the key of each is worked out anew every time."""

    def __init__(self, prompts: Sequence[Prompt], size: int) -> None:
        self.prompts, self.size = prompts, size
        self.now = self.number = 0
        self.cached: dict[int, _Block] = {}
        self.before: dict[int, list[int]] = {}  # all uses of each block, cached or not

    def key(self, block: int) -> Any:
        return 0

    def entered(self, block: int) -> None: ...

    def used(self, block: int) -> None: ...

    def left(self, block: int) -> None: ...

    def victims(self) -> list[int]:
        parents = {each.parent for each in self.cached.values()}
        leaves = [
            block
            for block, row in self.cached.items()
            if block not in parents and row.user != self.number
        ]
        return [min(leaves, key=lambda block: (self.key(block), self.cached[block].uses[-1]))]

    def run(self) -> HitRate:
        counter = HitCounter(_BLOCK)
        for self.number, prompt in enumerate(self.prompts):
            found = [block for block in prompt if block in self.cached]
            assert found == list(prompt[: len(found)])
            counter.count(_BLOCK * len(prompt) + 1, len(found), len(found))
            for block in prompt:
                self.before.setdefault(block, []).append(self.now)
            for block in found:
                self.cached[block].user = self.number
                self.cached[block].uses.append(self.now)
            for block in reversed(found):
                self.used(block)
            while len(self.cached) - len(found) + len(prompt) + (1 if _REST else 0) > self.size:
                for block in self.victims():
                    self.left(block)
                    del self.cached[block]
            new = [
                (block, _Block(depth, prompt[depth - 2] if depth > 1 else None))
                for depth, block in enumerate(prompt, start=1)
                if block not in self.cached
            ]
            for block, row in reversed(new):
                self.cached[block] = row
                row.user = self.number
                row.uses.append(self.now)
                self.entered(block)
            self.now += len(prompt)
        return counter.rate


# Tokens beyond the full blocks; the last is no input.
_REST = 1
