"""What a policy is told, at random, through vLLM's real KV cache manager of several kinds.

The walks are seeded, since a step is a fraction of a millisecond and a hundred thousand of them are
worth more than an example that shrinks.
"""

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from support.manager import BLOCK_SIZE, Manager
from support.pool import get_ghosts

_CAPACITY = 40
_STEPS = 6500
_KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "window": {"groups": ("full", "window")},
    "two windows, latest only": {"groups": ("window", "full", "window"), "retention": 0},
    "mamba": {"groups": ("full", "mamba")},
}
_POLICIES = ("arc", "dbl", "slru", "s3fifo", "alrfu", "arcleaf")


def _prompt(rng: random.Random) -> list[int]:
    """Return a prompt that begins as others do."""
    family = min(rng.randrange(8), rng.randrange(8))
    shared = rng.randrange(1, 8) * BLOCK_SIZE
    own = rng.choice([1, 5, BLOCK_SIZE, 2 * BLOCK_SIZE + 3])
    start = rng.randrange(10**6, 10**9)
    return [family * 1000 + i for i in range(shared)] + [start + i for i in range(own)]


class _Walk:
    """Requests that come and go, and what the policy was seen to do."""

    def __init__(self, policy: str, seed: int, **kind: Any) -> None:
        self.rng = random.Random(seed)
        self.manager = Manager(_CAPACITY, policy, **kind)
        self.policy, self.pool = self.manager.policy, self.manager.pool
        self.running: list[Any] = []
        self.loading: list[tuple[Any, int]] = []
        self.preempted: list[Any] = []
        self.inserted: list[bytes] = []
        self.due: list[bytes] = []
        self.consumed: list[bytes] = []
        self._p = self._get_p()
        self._spy_map()
        self._spy(self.policy, "consume", before=self._consumes, after=self._has_consumed)
        # alrfu keeps its ghosts where the cached blocks are.
        self._has_runs = policy == "alrfu"
        forgets = "_forget" if self._has_runs else "settle"
        self._spy(self.policy, forgets, before=self._settles, after=self._has_settled)
        self._lost: set[bytes] = set()

    def _spy(
        self,
        of: Any,
        name: str,
        before: Callable[..., None],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        method = getattr(of, name)

        def spied(*args: Any, **kwargs: Any) -> Any:
            before(*args, **kwargs)
            result = method(*args, **kwargs)
            after()
            return result

        setattr(of, name, spied)

    def _spy_map(self) -> None:
        found = self.pool.cached_block_hash_to_block
        self._spy(found, "insert", before=lambda block_hash, _: self._inserts([block_hash]))
        self._spy(found, "insert_blocks", before=lambda _, hashes, *__: self._inserts(hashes))

    def _get_p(self) -> float | None:
        return getattr(self.policy, "p", None)

    def ghosts(self) -> set[bytes]:
        """What the policy remembers."""
        return {block_hash for queue in get_ghosts(self.policy) for block_hash in queue}

    def _inserts(self, block_hashes: list[bytes]) -> None:
        self.inserted += block_hashes
        ghosts = self.ghosts()
        self.due += [block_hash for block_hash in block_hashes if block_hash in ghosts]

    def _consumes(self, blocks: list[Any], block_hashes: list[bytes], __: list[bool]) -> None:
        assert len(blocks) == len(block_hashes)
        assert set(block_hashes) <= set(self.inserted)
        assert self._get_p() == self._p, "p moved, and no ghost was given up"
        ghosts = self.ghosts()
        had = [block_hash for block_hash in block_hashes if block_hash in ghosts]
        self._had = bool(had)
        self.consumed += had

    def _has_consumed(self) -> None:
        if not self._had:
            assert self._get_p() == self._p
        self._p = self._get_p()

    def _settles(self) -> None:
        self._before = self.ghosts()

    def _has_settled(self) -> None:
        # Pushed out by those evicted since.
        self._lost |= self._before - self.ghosts()

    def step(self) -> None:
        """Do something, and check all that must hold."""
        before = self.ghosts()
        self.inserted, self.due, self.consumed, self._lost = [], [], [], set()
        (action,) = self.rng.choices(
            [
                self._start,
                self._continue,
                self._decode,
                self._finish,
                self._preempt,
                self._resume,
                self._loaded,
                self._abort,
                self._evict,
                self._reset,
            ],
            [30, 30, 10, 25, 5, 10, 10, 2, 1, 0.2],
        )
        action()
        if action == self._reset:
            self._p = self._get_p()
            return
        after = self.ghosts()
        assert self._get_p() == self._p, "p moved, and no ghost was given up"
        # Exactly those that were inserted are given up; others are pushed out, or stay.
        if self._has_runs:
            self.consumed = self.due
        assert self.consumed == self.due
        # With several groups a run may keep ghosts that another run has: a Mamba state's block may
        # have several hashes, and a chain may be announced from its middle on.
        is_exact = not self._has_runs or self.manager.groups == ("full",)
        assert before - after - self._lost <= set(self.consumed) or not is_exact
        resident = {block.block_hash for block in self.pool.blocks if block.block_hash}
        assert not resident & after or not is_exact
        held = {id(request) for request in (*self.running, *(one for one, _ in self.loading))}
        assert len(self.policy._requests) == len(held)
        free = self.pool.free_block_queue.get_all_free_blocks()
        assert len(free) == len(set(map(id, free))) == self.pool.get_num_free_blocks()
        used = {block.block_id for block in self.pool.blocks[1:] if block.ref_cnt}
        assert sorted([*used, *(b.block_id for b in free)]) == list(range(1, _CAPACITY + 1))

    def _schedule(self, request: Any) -> bool:
        """Give a new request its first chunk, or the blocks that a load is to fill."""
        manager = self.manager.manager
        hits, hit, _ = manager.get_computed_blocks(request)
        rest = request.num_tokens - hit
        if self.rng.random() < 0.2 and "mamba" not in self.manager.groups:
            external = max(0, rest - 1) // BLOCK_SIZE * BLOCK_SIZE
            if external:
                given = manager.allocate_slots(
                    request,
                    0,
                    hit,
                    hits,
                    num_external_computed_tokens=external,
                    delay_cache_blocks=True,
                )
                if given is None:
                    return False
                self.loading.append((request, hit + external))
                return True
        return self._chunk(request, hit, hit, hits)

    def _chunk(self, request: Any, done: int, new: int = 0, hits: Any = None) -> bool:
        chunk = self.rng.choice([None, 1, BLOCK_SIZE, 24, 40])
        end = self.manager._ends(request.num_tokens, done, chunk)[0]
        manager = self.manager.manager
        manager.new_step_starts()
        if manager.allocate_slots(request, end - done, new, hits) is None:
            return False
        self.manager.run_copies()
        request.num_computed_tokens = end
        if request not in self.running:
            self.running.append(request)
        return True

    def _start(self) -> None:
        self._schedule(self.manager.request_for(_prompt(self.rng)))

    def _continue(self) -> None:
        waiting = [one for one in self.running if one.num_computed_tokens < one.num_tokens]
        if waiting:
            request = self.rng.choice(waiting)
            self._chunk(request, request.num_computed_tokens)

    def _decode(self) -> None:
        done = [one for one in self.running if one.num_computed_tokens == one.num_tokens]
        if done and "mamba" not in self.manager.groups:
            request = self.rng.choice(done)
            for _ in range(self.rng.randrange(1, BLOCK_SIZE)):
                request.append_output_token_ids(self.rng.randrange(10))
                if self.manager.manager.allocate_slots(request, 1) is None:
                    request.num_computed_tokens = request.num_tokens - 1
                    break
                request.num_computed_tokens += 1

    def _finish(self) -> None:
        if self.running:
            self.manager.free(self.running.pop(self.rng.randrange(len(self.running))))

    def _preempt(self) -> None:
        if self.running:
            request = self.running.pop()
            self.manager.preempt(request)
            self.preempted.append(request)

    def _resume(self) -> None:
        if self.preempted and self._schedule(self.preempted[-1]):
            self.preempted.pop()

    def _loaded(self) -> None:
        if self.loading:
            request, done = self.loading.pop(self.rng.randrange(len(self.loading)))
            request.num_computed_tokens = done
            self.manager.manager.cache_blocks(request, done)
            self.running.append(request)

    def _abort(self) -> None:
        if self.loading:
            self.manager.free(self.loading.pop()[0])

    def _evict(self) -> None:
        self.manager.manager.evict_blocks(set(self.rng.sample(range(1, _CAPACITY + 1), 3)))

    def _reset(self) -> None:
        for request in (*self.running, *(one for one, _ in self.loading)):
            self.manager.free(request)
        self.running, self.loading = [], []
        assert self.manager.manager.reset_prefix_cache()
        self._spy_map()
        assert not self.ghosts()


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("policy", _POLICIES)
def test_what_is_told_is_true_at_every_step(policy: str, kind: str) -> None:
    walk = _Walk(policy, seed=17, **_KINDS[kind])
    consumed = 0
    for _ in range(_STEPS):
        walk.step()
        consumed += len(walk.consumed)
    if policy != "slru":
        assert consumed > 20


def _state(manager: Manager) -> dict[str, Any]:
    policy = manager.policy
    policy.settle()
    cached = [block for block in manager.pool.blocks if block.block_hash is not None]
    return {
        # A hash may be in two blocks.
        "lists": sorted((block.block_hash, block.eviction_list) for block in cached),
        "ghosts": get_ghosts(policy),
        **policy.get_stats(),
    }


@pytest.mark.parametrize("policy", _POLICIES)
@pytest.mark.parametrize("chunk", [BLOCK_SIZE, 24, 40])
def test_cutting_a_prefill_changes_no_decision(policy: str, chunk: int) -> None:
    rng = random.Random(chunk)
    # Not of a window, whose blocks are given back between chunks.
    whole, cut = (Manager(_CAPACITY, policy) for _ in range(2))
    for _ in range(300):
        prompt = _prompt(rng)
        for manager, size in ((whole, None), (cut, chunk)):
            request = manager.request_for(prompt)
            assert manager.schedule(request, size) is not None
            manager.free(request)
        assert _state(cut) == _state(whole)


@pytest.mark.parametrize("policy", _POLICIES)
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_cutting_an_allocation_changes_no_decision(policy: str, cut: int) -> None:
    rng = random.Random(cut)
    whole, in_goes = (Manager(_CAPACITY, policy) for _ in range(2))
    get_new_blocks = in_goes.pool.get_new_blocks

    def get_in_goes(num_blocks: int) -> list[Any]:
        goes = [cut] * (num_blocks // cut) + [num_blocks % cut]
        return list(itertools.chain(*(get_new_blocks(go) for go in goes if go)))

    in_goes.pool.get_new_blocks = get_in_goes
    for _ in range(300):
        prompt = _prompt(rng)
        for manager in (whole, in_goes):
            request = manager.request_for(prompt)
            assert manager.schedule(request) is not None
            manager.free(request)
        assert _state(in_goes) == _state(whole)


@pytest.mark.parametrize("kind", ["full", "window"])
@pytest.mark.parametrize("policy", _POLICIES)
def test_a_requests_blocks_do_not_depend_on_who_comes_between(policy: str, kind: str) -> None:
    differed = 0
    for trial in range(60):
        rng = random.Random(trial)
        history = [_prompt(rng) for _ in range(25)]
        prompt, other = _prompt(rng), [9 * 10**9 + i for i in range(BLOCK_SIZE + 1)]
        lists = []
        for is_beside in (False, True):
            manager = Manager(_CAPACITY, policy, **_KINDS[kind])
            for before in history:
                request = manager.request_for(before)
                manager.schedule(request)
                manager.free(request)
            request, between = manager.request_for(prompt), manager.request_for(other)
            hits, hit, _ = manager.manager.get_computed_blocks(request)
            rest = (request.num_tokens - 1 - hit) // BLOCK_SIZE * BLOCK_SIZE
            if not rest:
                continue
            manager.manager.allocate_slots(
                request, 0, hit, hits, num_external_computed_tokens=rest, delay_cache_blocks=True
            )
            if is_beside:
                manager.schedule(between)
            request.num_computed_tokens = hit + rest
            manager.manager.cache_blocks(request, hit + rest)
            lists.append([manager.lists(request, group) for group in range(len(manager.groups))])
        if lists:
            assert lists[0] == lists[1]
            differed += any(len(set(of_group)) > 1 for of_group in lists[0])
    assert differed > 5 or policy == "alrfu"  # which has no lists to choose from
