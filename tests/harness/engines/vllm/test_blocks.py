import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.engines.vllm.blocks import BlockHits, Prefixes
from workloads.blocks import runs


def test_hits_are_the_prefix_found_and_what_is_cached_after_it() -> None:
    hashes = [bytes([i]) for i in range(6)]
    request = SimpleNamespace(request_id="7-ab", num_preemptions=0, block_hashes=hashes)
    found = (SimpleNamespace(blocks=([object()] * 2,)), 32, 0)
    # A gap at 2; that 4 is asked about with its group, too, is vLLM's.
    cached = {own + bytes(4) for own in (*hashes[:2], hashes[4])}
    pool = SimpleNamespace(cached_block_hash_to_block=SimpleNamespace(_cache=cached))
    manager: Any = SimpleNamespace(block_pool=pool, get_computed_blocks=lambda _: found)
    hits = BlockHits(manager)
    assert manager.get_computed_blocks(request) is found
    assert hits.of("7") == (6, 3)
    # A request that goes on after it made way finds its own blocks, which are no hits.
    request.num_preemptions = 1
    cached |= {own + bytes(4) for own in hashes}
    manager.get_computed_blocks(request)
    assert hits.of("7") == (6, 3)


def _unreachable(before: dict[int, int | None], ids: set[int]) -> int:
    """Count, by walking back from each block."""

    def is_reached(block: int | None) -> bool:
        return block is None or (block in ids and is_reached(before[block]))

    return sum(not is_reached(block) for block in ids)


@pytest.mark.parametrize("seed", range(8))
def test_what_cannot_be_reached_is_what_walking_back_says(seed: int) -> None:
    rng = random.Random(seed)
    names = list(range(400))
    # In the order of prompts, as most workloads have it, or in none.
    if seed % 2:
        rng.shuffle(names)
    before: dict[int, int | None] = {}
    prompts: list[list[int]] = []
    prefixes = Prefixes()
    while names:
        prompt = list(rng.choice(prompts)[: rng.randint(1, 20)]) if prompts else []
        for _ in range(min(len(names), rng.randint(1, 12))):
            block = names.pop(0)
            before[block] = prompt[-1] if prompt else None
            prompt.append(block)
        prompts.append(prompt)
        if rng.random() < 0.2:
            prompts.append([])
        prefixes.add(runs(prompt))
        for keep in (0.5, 0.9, 0.99, 1.0):
            cached = {block for block in before if rng.random() < keep}
            ids = np.array(rng.sample(sorted(cached), len(cached)), np.int64)
            assert prefixes.unreachable(ids) == _unreachable(before, cached)


def test_first_block_that_is_gone_leaves_nothing() -> None:
    prefixes = Prefixes()
    # In one run or in several, as a file of one's own may have it.
    prefixes.add([(0, 4), (4, 4)])
    prefixes.add([(0, 2), (8, 2)])
    assert prefixes.unreachable(np.array([], np.int64)) == 0
    assert prefixes.unreachable(np.arange(10)) == 0
    assert prefixes.unreachable(np.arange(1, 10)) == 9
    # After block 1, which is there.
    assert prefixes.unreachable(np.array([0, 1, 8, 9, 3, 4])) == 2
