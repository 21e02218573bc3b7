"""What policies remember of evicted content, against an ordered dict for each queue."""

from collections import OrderedDict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

_ALL = [str(i).encode() for i in range(30)]
_HASHES = st.sampled_from(_ALL)
_QUEUES = st.integers(0, 1)


class GhostsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        from vllm.v1.core.eviction.base import GhostTable

        super().__init__()
        self.table = GhostTable(2)
        self.model: list[OrderedDict[bytes, None]] = [OrderedDict(), OrderedDict()]

    @rule(hashes=st.lists(_HASHES), queue=_QUEUES)
    def add(self, hashes: list[bytes], queue: int) -> None:
        new = [h for h in hashes if not any(h in one for one in self.model)]
        self.table.queues[queue].add(new)
        for block_hash in new:
            self.model[queue][block_hash] = None
            self.model[queue].move_to_end(block_hash)

    @rule(hashes=st.lists(_HASHES, max_size=4, unique=True))
    def discard(self, hashes: list[bytes]) -> None:
        expected = self.table.get_queues(hashes)
        assert self.table.discard(hashes) == expected
        for block_hash in hashes:
            for one in self.model:
                one.pop(block_hash, None)

    @rule(max_ghosts=st.integers(0, 12), queue=_QUEUES, kept=st.sets(_HASHES, max_size=4))
    def forget_oldest(self, max_ghosts: int, queue: int, kept: set[bytes]) -> None:
        self.table.queues[queue].forget_oldest(max_ghosts, kept)
        ghosts, renewed = self.model[queue], []
        num_left = len(ghosts) - max_ghosts
        for block_hash in list(ghosts):
            if num_left <= 0:
                break
            del ghosts[block_hash]
            if block_hash in kept:
                renewed.append(block_hash)
            else:
                num_left -= 1
        ghosts.update(dict.fromkeys(renewed))

    @invariant()
    def remembers_the_same_in_the_same_order(self) -> None:
        assert list(map(list, self.table.queues)) == list(map(list, self.model))
        assert list(map(len, self.table.queues)) == list(map(len, self.model))

    @invariant()
    def finds_the_same(self) -> None:
        first, second = self.table.queues
        assert [h for h in _ALL if h in first] == [h for h in _ALL if h in self.model[0]]
        found = [h for h in _ALL if any(h in one for one in self.model)]
        assert self.table.find(_ALL) == found
        assert self.table.isdisjoint(_ALL) == (not found)
        queues = [first if h in self.model[0] else second for h in found]
        assert self.table.get_queues(found) == queues
        assert self.table.get_queues(set(_ALL) - set(found)) == [None] * (30 - len(found))


def test_ghosts() -> None:
    case = GhostsMachine.TestCase
    case.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
    case("runTest").runTest()


def test_many_that_come_and_go_take_no_more_room() -> None:
    from vllm.v1.core.eviction.base import GhostTable

    table = GhostTable()
    [ghosts] = table.queues
    for i in range(5000):
        ghosts.add([str(i).encode()])
        if i % 10:
            table.discard([str(i).encode()])
        if i % 3 == 0:
            ghosts.forget_oldest(300)
        held = sum(len(batch.block_hashes) for batch in ghosts._own_batches)
        assert held == ghosts._num_held <= 4 * (len(ghosts) + 2) + 64
        assert len(ghosts._own_batches) <= held
    assert list(ghosts) == [str(i).encode() for i in range(2000, 5000, 10)]
