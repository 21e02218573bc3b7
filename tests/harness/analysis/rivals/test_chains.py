"""Each policy against one that has a row for each block and looks at all of them every time."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.bounds import Bounds
from harness.analysis.hitrate import HitCounter, HitRate
from harness.analysis.rivals import KINDS, Rivals, tlru
from harness.analysis.rivals.chains import Chains, PrefixCache, replay
from harness.analysis.rivals.lrfu import LRFU
from harness.errors import HarnessError
from workloads.file import BlockRequest, BlockWorkload, Header

_BLOCK = 4

Prompt = Sequence[int]


def _workload(
    prompts: Sequence[Prompt], *, warm_up: int = 0, documents: tuple[int, ...] = ()
) -> BlockWorkload:
    """Make requests of these blocks and of a token more, which takes a block of room, too."""
    requests = tuple(
        BlockRequest(
            request=number,
            prompt_tokens=_BLOCK * len(prompt) + 1,
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
        document_tokens=documents,
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
    ids: dict[int, int] = {}  # numbered as they come, as in a workload
    prompts = []
    for last in draw(st.lists(st.integers(0, size - 1), min_size=20, max_size=60)):
        path = [last]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        prompts.append([ids.setdefault(block, len(ids)) for block in reversed(path)])
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
        self.users: dict[int, list[int]] = {}  # of each block, to come, too
        for number, prompt in enumerate(prompts):
            for block in prompt:
                self.users.setdefault(block, []).append(number)

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
        for number, prompt in enumerate(self.prompts):
            self.number = number
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
            while len(self.cached) - len(found) + len(prompt) + 1 > self.size:
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


class _LRU2(_ByBlock):
    def key(self, block: int) -> float:
        return self.before[block][-2] if len(self.before[block]) > 1 else -math.inf


class _LRFU(_ByBlock):
    def key(self, block: int) -> float:
        half_life = 4 * self.size
        return sum(2 ** ((use - self.now) / half_life) for use in self.cached[block].uses)


class _HitsPerToken(_ByBlock):
    def key(self, block: int) -> float:
        return (len(self.cached[block].uses) - 1) / len(self._node(block))

    def _node(self, block: int) -> list[int]:
        return [other for other in self.cached if self.users[other] == self.users[block]]

    def victims(self) -> list[int]:
        return self._node(*super().victims())


class _FrequencyCost(_ByBlock):
    def key(self, block: int) -> float:
        row = self.cached[block]
        return len(row.uses) / (self.now - row.uses[0]) * row.depth**2


class _GhostSLRU(_ByBlock):
    def __init__(self, prompts: Sequence[Prompt], size: int) -> None:
        super().__init__(prompts, size)
        self.probation: list[int] = []
        self.protected: list[int] = []
        self.ghosts: list[int] = []

    def key(self, block: int) -> tuple[bool, int]:
        is_protected = block in self.protected
        return is_protected, (self.protected if is_protected else self.probation).index(block)

    def used(self, block: int) -> None:
        (self.protected if block in self.protected else self.probation).remove(block)
        self._protect(block)

    def entered(self, block: int) -> None:
        if block in self.ghosts:
            self.ghosts.remove(block)
            self._protect(block)
        else:
            self.probation.append(block)

    def _protect(self, block: int) -> None:
        self.protected.append(block)
        if len(self.protected) > int(0.8 * self.size):
            self.probation.append(self.protected.pop(0))

    def left(self, block: int) -> None:
        if block in self.protected:
            self.protected.remove(block)
            self.ghosts = [*self.ghosts, block][-self.size :]
        else:
            self.probation.remove(block)


class _Told(_ByBlock):
    def __init__(self, prompts: Sequence[Prompt], size: int) -> None:
        super().__init__(prompts, size)
        self.previous = [self._goes_on_from(number) for number in range(len(prompts))]

    def _goes_on_from(self, number: int) -> int | None:
        """Return the longest earlier prompt that this one begins with, the latest of equals."""
        prompt = self.prompts[number]
        begins = [i for i in range(number) if prompt[: len(self.prompts[i])] == self.prompts[i]]
        return max(begins, key=lambda i: (len(self.prompts[i]), i), default=None)


class _TailLRU(_Told):
    def key(self, block: int) -> bool:
        row = self.cached[block]
        if row.user not in self.previous:
            return False
        following = self.previous.index(row.user)
        # Without it, what is before it and no more is cached.
        to_compute = _BLOCK * len(self.prompts[following]) + 1 - _BLOCK * (row.depth - 1)
        return to_compute > _BUDGET


class _WorkloadAware(_Told):
    def __init__(self, prompts: Sequence[Prompt], size: int) -> None:
        super().__init__(prompts, size)
        self.stays: list[tuple[int, int]] = []  # number of the request, stay
        self.turns = [self._turn(number) for number in range(len(prompts))]
        starts = [sum(map(len, prompts[:number])) for number in range(len(prompts))]
        self.gaps: dict[int, list[float]] = {}  # [turn]: until each block is used again
        for number, prompt in enumerate(prompts):
            for block in prompt:
                later = (i for i in range(number + 1, len(prompts)) if block in prompts[i])
                gap = next((starts[i] - starts[number] for i in later), math.inf)
                self.gaps.setdefault(self.turns[number], []).append(gap)

    def _turn(self, number: int) -> int:
        before = self.previous[number]
        return 1 if before is None else min(10, 1 + self._turn(before))

    def left(self, block: int) -> None:
        self.stays.append((self.number, self.now - self.cached[block].uses[-1]))

    def key(self, block: int) -> tuple[float, int]:
        row = self.cached[block]
        gaps = self.gaps[self.turns[row.user]]
        again = [gap for gap in gaps if gap < math.inf]
        stays = [stay for number, stay in self.stays if number < self.number]
        stay = sum(stays) / len(stays) if stays else self.size
        age = self.now - row.uses[-1]
        if not again:
            return 0, -row.depth
        rate = len(again) / sum(again)
        within = math.exp(-rate * age) - math.exp(-rate * (age + stay))
        return len(again) / len(gaps) * within, -row.depth


_BUDGET = 9
_BY_BLOCK: dict[str, type[_ByBlock]] = {
    "lru-2": _LRU2,
    "lrfu-4": _LRFU,
    "hits-per-token": _HitsPerToken,
    "frequency-cost": _FrequencyCost,
    "slru-ghosts": _GhostSLRU,
    "t-lru": _TailLRU,
    "workload-aware": _WorkloadAware,
}


@pytest.fixture(autouse=True)
def _small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlru, "_budget", lambda: _BUDGET)


@pytest.mark.parametrize("name", _BY_BLOCK)
@given(prompts=_prompts(), room=st.integers(0, 12))
@settings(deadline=None, max_examples=150)
def test_policy_is_what_it_is_block_by_block(
    name: str, prompts: list[list[int]], room: int
) -> None:
    size = max(map(len, prompts)) + 1 + room
    assert Rivals(_workload(prompts)).replay(name, size) == _BY_BLOCK[name](prompts, size).run()


@pytest.mark.parametrize("name", _BY_BLOCK)
@pytest.mark.parametrize("size", [24, 40])
def test_policy_is_what_it_is_on_long_documents(name: str, size: int) -> None:
    rng = random.Random(size)
    lengths = [rng.randint(1, 16) for _ in range(12)]
    prompts = []
    for fresh in range(1000, 1300):
        # Some of a document or all of it, and often a question.
        document = int(12 * rng.random() ** 2)
        length = rng.choice([lengths[document], rng.randint(1, lengths[document])])
        prompts.append(
            [*range(20 * document, 20 * document + length), *[fresh][rng.randint(0, 1) :]]
        )
    assert Rivals(_workload(prompts)).replay(name, size) == _BY_BLOCK[name](prompts, size).run()


@given(prompts=_prompts(), room=st.integers(0, 12))
@settings(deadline=None)
def test_without_a_policy_it_is_lru(prompts: list[list[int]], room: int) -> None:
    size = max(map(len, prompts)) + 1 + room
    assert _replay(PrefixCache, prompts, size) == _ByBlock(prompts, size).run()


def _replay(policy: type[PrefixCache], prompts: Sequence[Prompt], size: int) -> HitRate:
    chains = Chains(_workload(prompts))
    return replay(chains, policy(chains, size))


@given(prompts=_prompts(), room=st.integers(0, 12))
@settings(deadline=None)
def test_lrfu_of_a_short_half_life_is_lru(prompts: list[list[int]], room: int) -> None:
    class Short(LRFU):
        turnovers = 1e-6

    size = max(map(len, prompts)) + 1 + room
    assert _replay(Short, prompts, size) == _replay(PrefixCache, prompts, size)


@pytest.mark.parametrize("name", ["t-lru", "workload-aware"])
@given(prompts=_prompts(), room=st.integers(0, 12))
@settings(deadline=None)
def test_told_nothing_it_is_lru(name: str, prompts: list[list[int]], room: int) -> None:
    size = max(map(len, prompts)) + 1 + room
    # Documents are no conversations.
    rivals = Rivals(_workload(prompts, documents=(10,)))
    assert rivals.replay(name, size) == _replay(PrefixCache, prompts, size)


def _hits(name: str, prompts: Sequence[Prompt], size: int) -> int:
    """Return how many blocks the last prompt hits."""
    rate = Rivals(_workload(prompts, warm_up=len(prompts) - 1)).replay(name, size)
    return round(rate.per_block * len(prompts[-1]))


_HOT, _SCAN = range(5), [range(10 + 5 * i, 15 + 5 * i) for i in range(4)]


@pytest.mark.parametrize("name", ["lru-2", "lrfu-16", "hits-per-token", "slru-ghosts"])
def test_scan_does_not_flush_what_is_hot(name: str) -> None:
    prompts = [_HOT, _HOT, _HOT, *_SCAN, _HOT]
    assert _hits(name, prompts, 15) == 5
    assert _hits("lrfu-1", [*prompts[:-1], *_SCAN, *_SCAN, _HOT], 15) == 0


def test_lru2_remembers_what_was_evicted() -> None:
    # Used again long after it went, and twice then: so it outlives another scan.
    prompts = [_HOT, *_SCAN, _HOT, *[range(100 + 5 * i, 105 + 5 * i) for i in range(4)], _HOT]
    assert _hits("lru-2", prompts, 15) == 5
    assert _hits("lrfu-16", prompts, 15) == 0


def test_ghost_is_protected_at_once() -> None:
    other, large = range(10, 15), range(20, 35)
    fresh = [range(100 + 5 * i, 105 + 5 * i) for i in range(4)]
    # What is hot goes for want of anything else, and comes back.
    assert _hits("slru-ghosts", [_HOT, _HOT, other, other, large, _HOT, *fresh, _HOT], 20) == 5
    assert _hits("slru-ghosts", [_HOT, other, other, large, _HOT, *fresh, _HOT], 20) == 0


def test_of_equal_hits_the_smaller_stays() -> None:
    small, large, fresh = range(2), range(10, 18), range(30, 38)
    assert _hits("hits-per-token", [small, small, large, large, fresh, fresh, small], 18) == 2
    assert _hits("frequency-cost", [large, large, small, small, fresh, fresh, large], 18) == 8


def test_conversation_that_is_over_goes_first() -> None:
    over, going_on, fresh = range(5), range(10, 20), range(30, 40)
    # Of its 45 tokens, the next turn may compute 9: it needs 9 blocks.
    prompts = [going_on, over, fresh, [*going_on, 20]]
    assert _hits("t-lru", prompts, 22) == 9
    assert _hits("lrfu-1", prompts, 22) == 6


def test_turn_that_is_never_the_last_outlives_one_that_always_is() -> None:
    first, ended = range(5), range(10, 18)
    prompts = [first, ended[:5], ended, range(20, 25), [*first, 30, 31, 32]]
    assert _hits("workload-aware", prompts, 14) == 5
    assert _hits("lrfu-1", prompts, 14) == 0


def test_no_rival_beats_the_optimum() -> None:
    prompts = [range(7 * (i * i % 11), 7 * (i * i % 11) + 3 + i % 4) for i in range(200)]
    workload = _workload(prompts)
    best, rivals = Bounds(workload).optimum(30), Rivals(workload)
    rates = {name: rivals.replay(name, 30) for name, kind in KINDS.items() if kind != "blocks"}
    assert all(0 < rate.prefix <= best.prefix for rate in rates.values())
    assert len(set(rates.values())) > 3


def test_warm_up_is_not_counted_and_room_is_needed() -> None:
    workload = _workload([range(4), range(4)], warm_up=1)
    assert Rivals(workload).replay("lru-2", 5).prefix == 16 / 17
    with pytest.raises(HarnessError, match=r"request 0 needs 5 blocks, but the cache has 4"):
        Rivals(workload).replay("lru-2", 4)
    with pytest.raises(HarnessError, match=r"no policy 'clock'.*lru-2"):
        Rivals(workload).replay("clock", 5)
