"""What reaches the policy through vLLM's real KV cache manager, and through its command line."""

import random
from itertools import chain
from typing import Any

import pytest
from support.manager import BLOCK_SIZE, Manager
from support.pool import get_ghosts


def _sizes(manager: Manager) -> tuple[float, ...]:
    stats = manager.policy.get_stats()
    return stats["t1"], stats["t2"], stats["b1"], stats["b2"]


@pytest.mark.parametrize("chunk", [None, 16, 24, 40])
def test_chunks_of_one_prefill_are_one_use(chunk: int | None) -> None:
    manager = Manager(20)
    assert manager.run("a", 5, chunk) == 0
    assert _sizes(manager) == (5, 0, 0, 0)
    assert manager.run("a", 5, chunk) == 5 * BLOCK_SIZE
    assert _sizes(manager) == (0, 5, 0, 0)


@pytest.mark.parametrize("chunk", [None, 16, 24, 40])
def test_ghosts_of_a_request_adapt_p_and_enter_t2_in_whatever_chunks(chunk: int | None) -> None:
    manager = Manager(8)
    manager.run("hot", 3)
    manager.run("hot", 3)
    manager.run("a", 4)
    manager.run("b", 4)
    assert manager.policy.p == 0
    t1, t2, b1, b2 = _sizes(manager)
    assert (t1 + t2, b1) == (7, 4)  # "a" was evicted for "b", but for the block of b's tail
    manager.run("a", 4, chunk)
    # Four hits in B1 moved p; what they named is in T2 with "hot".
    assert manager.policy.p >= 4
    assert manager.policy.get_stats()["t2"] >= 4
    assert b2 == 0


def test_waiting_request_that_looks_up_again_and_again_counts_once() -> None:
    manager = Manager(8)
    manager.run("hot", 3)
    running = manager.request("big", 6)
    assert manager.schedule(running) == 0
    waiting = manager.request("hot", 3, tail=40)
    before = manager.policy.get_stats()
    for _ in range(5):
        assert manager.schedule(waiting) is None
    assert manager.policy.get_stats() == before
    manager.free(running)
    assert manager.schedule(waiting) is not None


def test_preempted_request_coming_back_counts_nothing_twice() -> None:
    manager = Manager(8)
    request = manager.request("a", 5)
    manager.schedule(request)
    manager.preempt(request)
    manager.run("b", 4)  # Evicts the tail of what was preempted.
    assert _sizes(manager) == (7, 0, 1, 0)
    assert manager.schedule(request) == 3 * BLOCK_SIZE
    manager.free(request)
    assert manager.policy.p == 0
    assert _sizes(manager)[1] == 0


def test_decoded_blocks_are_cached_and_hit_like_others() -> None:
    manager = Manager(8)
    request = manager.request("a", 2, tail=8)
    manager.schedule(request)
    for token in range(8 + BLOCK_SIZE):
        request.append_output_token_ids(900_000 + token)
        assert manager.manager.allocate_slots(request, 1) is not None
        request.num_computed_tokens += 1
    manager.free(request)
    assert _sizes(manager) == (4, 0, 0, 0)
    assert manager.pool.get_num_free_blocks() == 8


@pytest.mark.parametrize("policy", ["arc", "dbl", "slru", "s3fifo", "alrfu", "arcleaf"])
def test_groups_of_several_kinds_share_the_policy(policy: str) -> None:
    manager, stock = (Manager(24, name, groups=("full", "window")) for name in (policy, "lru"))
    pool = manager.pool
    hits = {}
    for name, under_test in ((policy, manager), ("lru", stock)):
        rng = random.Random("groups")
        # Documents of one length, so that all that differs is what is still there.
        names = rng.choices("abcdefghij", range(10, 0, -1), k=200)
        hits[name] = [under_test.run(document, 6, chunk=40) for document in names]
    free = list(pool.free_block_queue.iter_blocks_after(None))
    assert len(free) == len(set(map(id, free))) == pool.get_num_free_blocks() == 24
    # A hit is a whole prefix in both groups: nothing else is ever reported.
    assert {hit % BLOCK_SIZE for hit in hits[policy] if hit} == {0}
    assert 0 < sum(filter(None, hits["lru"])) < sum(filter(None, hits[policy])) * 2
    groups = {block.block_hash[-1] for block in pool.blocks if block.block_hash}
    assert groups == {0, 1}
    assert pool.reset_prefix_cache()
    assert manager.run("a", 6) == 0


@pytest.mark.parametrize("chunk", [None, 16, 24, 40])
def test_every_hash_is_announced_once_and_before_its_block_is_given_out(chunk: int | None) -> None:
    manager = Manager(24, groups=("full", "window"))
    announced: list[bytes] = []
    taken_after: list[int] = []
    admit, take = manager.policy.admit, manager.policy.take

    def noting_admit(block_hashes: list[bytes], is_resumed: bool) -> Any:
        announced.extend(block_hashes)
        return admit(block_hashes, is_resumed)

    def noting_take(blocks: list[Any]) -> None:
        taken_after.append(len(announced))
        take(blocks)

    manager.policy.admit, manager.policy.take = noting_admit, noting_take
    manager.run("a", 6, chunk)
    assert len(announced) == len(set(announced)) == 2 * 6
    # Nothing is announced after the last block was given out.
    assert taken_after[-1] == len(announced)


def test_ghosts_of_groups_are_apart() -> None:
    from vllm.v1.core.kv_cache_utils import get_group_id

    manager = Manager(16, groups=("full", "window"))
    remembered: set[int] = set()
    for name in "aabcdefg":
        manager.run(name, 6)
        manager.policy.settle()
        remembered |= set(map(get_group_id, chain(*get_ghosts(manager.policy))))
    assert remembered == {0, 1}


def test_without_prefix_caching_nothing_is_announced() -> None:
    manager = Manager(8, enable_caching=False)
    assert manager.policy is None
    for name in "aab":
        assert manager.run(name, 5) == 0
    assert manager.pool.get_num_free_blocks() == 8


def test_policy_is_chosen_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    given = parser.parse_args(["--prefix-cache-eviction-policy", "arc"])
    assert EngineArgs.from_cli_args(given).prefix_cache_eviction_policy == "arc"
    assert EngineArgs.from_cli_args(parser.parse_args([])).prefix_cache_eviction_policy == "lru"
    with pytest.raises(SystemExit):
        parser.parse_args(["--prefix-cache-eviction-policy", "mru"])
    assert "invalid choice: 'mru'" in capsys.readouterr().err


def _tokens(seed: int, blocks: int, tail: int = 0) -> list[int]:
    return [seed * 1_000_000 + i for i in range(blocks * BLOCK_SIZE + tail)]


def _run(manager: Manager, tokens: list[int]) -> None:
    request = manager.request_for(tokens)
    manager.schedule(request)
    manager.free(request)


def _cached(manager: Manager, block_hash: bytes) -> bool:
    return manager.pool.cached_block_hash_to_block.get_one_block(block_hash) is not None


def _keys(manager: Manager, request: Any, group: int = 0) -> list[bytes]:
    """Return the hashes of a request's blocks in a group."""
    from vllm.v1.core.kv_cache_utils import make_block_hashes_with_group_id, resolve_block_hashes

    hashes = resolve_block_hashes(request.block_hashes, BLOCK_SIZE, manager.block_size)
    return list(make_block_hashes_with_group_id(list(hashes), group))


def _make_ghosts(manager: Manager, tokens: list[int], groups: tuple[int, ...]) -> None:
    """Run a request, and others until none of its blocks is cached."""
    hot = _tokens(99, manager.capacity // 4, 1)
    _run(manager, hot)
    _run(manager, hot)  # T2, so that B1 has room
    _run(manager, tokens)
    keys = [key for group in groups for key in _keys(manager, manager.request_for(tokens), group)]
    for seed in range(10, 90):
        if not any(_cached(manager, key) for key in keys):
            break
        _run(manager, _tokens(seed, 3, 1))
    manager.policy.settle()
    assert set(keys) <= set(get_ghosts(manager.policy)[0])


def test_block_that_a_partial_hit_leaves_to_be_completed_is_announced() -> None:
    manager = Manager(40, groups=("full", "mamba"))
    shared = _tokens(1, 5)  # one block and a quarter
    document = [*shared, *_tokens(2, 7), 1]
    _make_ghosts(manager, document, groups=(0,))
    _run(manager, [*shared, 7])
    request = manager.request_for(document)
    keys = _keys(manager, request)
    was_ghost = [key in get_ghosts(manager.policy)[0] for key in keys]
    p = manager.policy.p
    assert manager.schedule(request) == len(shared)
    assert was_ghost == [False, True, True]
    assert manager.lists(request) == [2, 2, 2]
    assert manager.policy.p >= p + 2
    assert not set(keys) & set(get_ghosts(manager.policy)[0])


def test_what_a_load_skips_is_not_announced() -> None:
    manager = Manager(80, groups=("full", "window"))
    tokens = _tokens(1, 10, 1)
    _make_ghosts(manager, tokens, groups=(0, 1))
    request = manager.request_for(tokens)
    hits, hit, _ = manager.manager.get_computed_blocks(request)
    manager.manager.allocate_slots(
        request,
        0,
        hit,
        hits,
        num_external_computed_tokens=10 * BLOCK_SIZE,
        delay_cache_blocks=True,
    )
    returning = manager.policy._requests[request.request_id].returning
    # The window has two blocks, of which the last token of the load is in the second.
    assert set(returning) == {*_keys(manager, request), *_keys(manager, request, 1)[-2:]}
    assert manager.policy.p == 0
    request.num_computed_tokens = 10 * BLOCK_SIZE
    manager.manager.cache_blocks(request, 10 * BLOCK_SIZE)
    assert manager.policy.p == 12
    assert not returning


def test_what_a_load_brings_back_is_not_forgotten_meanwhile() -> None:
    adapted = []
    for others in (0, 30):
        manager = Manager(40)
        tokens = _tokens(1, 10, 1)
        _make_ghosts(manager, tokens, groups=(0,))
        request = manager.request_for(tokens)
        hits, hit, _ = manager.manager.get_computed_blocks(request)
        manager.manager.allocate_slots(
            request,
            0,
            hit,
            hits,
            num_external_computed_tokens=10 * BLOCK_SIZE,
            delay_cache_blocks=True,
        )
        # Long enough to push all that was remembered out.
        for i in range(others):
            _run(manager, _tokens(1000 + i, 4, 1))
        assert set(_keys(manager, request)) <= set(get_ghosts(manager.policy)[0])
        request.num_computed_tokens = 10 * BLOCK_SIZE
        manager.manager.cache_blocks(request, 10 * BLOCK_SIZE)
        assert manager.lists(request) == [2] * 10
        adapted.append(manager.policy.p)
        assert not set(_keys(manager, request)) & set(get_ghosts(manager.policy)[0])
    assert adapted == [10, 10]


def test_prompt_that_grows_is_announced_again() -> None:
    evictions = []
    for is_grown in (False, True):
        manager = Manager(60)
        first, second = _tokens(1, 2), _tokens(2, 6)
        _make_ghosts(manager, [*first, *second, 1], groups=(0,))
        request = manager.request_for([*first, 5] if is_grown else [*first, *second, 1])
        if is_grown:
            manager.schedule(request)
            # As Scheduler._update_request_as_session() does.
            del request._all_token_ids[len(first) :], request.block_hashes[2:]
            request._all_token_ids.extend([*second, 1])
            request.prompt_token_ids[:] = request._all_token_ids
            request.num_prompt_tokens = len(request.prompt_token_ids)
            request.update_block_hashes()
            request.num_computed_tokens = len(first)
            nothing = manager.manager.empty_kv_cache_blocks
            manager.manager.allocate_slots(request, len(second) + 1, 0, nothing)
        else:
            manager.schedule(request)
        evictions.append(manager.policy.get_stats())
        assert manager.lists(request)[2:] == [2] * 6
    assert evictions[0]["p"] == evictions[1]["p"]


def test_what_a_grown_prompt_no_longer_brings_back_is_not_waited_for() -> None:
    from vllm.v1.core.eviction.base import NewBlocks

    manager = Manager(40)
    _make_ghosts(manager, _tokens(1, 3, 1), groups=(0,))
    policy = manager.policy
    hashes = _keys(manager, manager.request_for(_tokens(1, 3, 1)))
    blocks = manager.pool.get_new_blocks(2)
    policy.announce("a", [NewBlocks(0, 0, 3, range(3), hashes, 0)])
    policy.take(blocks)
    policy._requests["a"].num_taken = 2
    assert policy.get_num_pending() == 2
    policy.announce("a", [NewBlocks(0, 0, 2, range(2), hashes[:2], 0)])
    assert policy.get_num_pending() == 2
    policy.announce("a", [])
    assert policy.get_num_pending() == 0


def test_hashes_are_those_of_the_tokens_as_they_are_now() -> None:
    manager = Manager(40)
    request = manager.request_for(_tokens(1, 6, 1))
    hits, hit, _ = manager.manager.get_computed_blocks(request)
    manager.manager.allocate_slots(request, 2 * BLOCK_SIZE, hit, hits)
    request.num_computed_tokens = 2 * BLOCK_SIZE
    del request._all_token_ids[2 * BLOCK_SIZE :], request.block_hashes[2:]
    request._all_token_ids.extend(_tokens(7, 4, 1))
    request.update_block_hashes()
    manager.manager.allocate_slots(request, 4 * BLOCK_SIZE + 1)
    before = manager.request_for(_tokens(1, 6, 1))
    assert manager.manager.get_computed_blocks(before)[1] == 2 * BLOCK_SIZE
    assert [_cached(manager, key) for key in _keys(manager, request)] == [True] * 6


@pytest.mark.parametrize("policy", ["arc", "slru"])
def test_content_that_is_computed_anew_keeps_its_order(policy: str) -> None:
    manager = Manager(20, policy)
    _run(manager, _tokens(1, 4, 1))
    chain = manager.pool.cached_block_hash_to_block
    request = manager.request_for(_tokens(1, 4, 1))
    blocks = [chain.get_one_block(key).block_id for key in _keys(manager, request)]
    request.skip_reading_prefix_cache = True
    manager.schedule(request)
    free = [block.block_id for block in manager.pool.free_block_queue.get_all_free_blocks()]
    assert [block_id for block_id in free if block_id in blocks] == blocks[::-1]


def test_offloads_own_pool_stays_with_lru() -> None:
    import torch
    from vllm.v1.kv_cache_interface import (
        FullAttentionSpec,
        KVCacheConfig,
        KVCacheGroupSpec,
        KVCacheTensor,
    )
    from vllm.v1.simple_kv_offload.manager import SimpleCPUOffloadScheduler

    spec = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=1, dtype=torch.float32)
    on_gpu = KVCacheConfig(
        num_blocks=10,
        kv_cache_tensors=[
            KVCacheTensor(size=1000, layers=[], layer_stride=0, block_stride=0, offset=0)
        ],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        prefix_cache_eviction_policy="arc",
    )
    on_cpu = SimpleCPUOffloadScheduler._derive_cpu_config(on_gpu, 20_000)
    assert on_cpu.prefix_cache_eviction_policy == "lru"


def test_pool_without_announcements_remembers_no_more_than_it_holds() -> None:
    from support.pool import Pool, chain_hashes

    pool = Pool("arc", 10).pool
    for i in range(300):
        blocks = pool.get_new_blocks(5)
        for j, block in enumerate(blocks):
            pool._insert_block_hash(chain_hashes(i, j)[1] + bytes(4), block, num_tokens=16)
        pool.free_blocks(blocks)
    policy = pool.eviction_policy
    assert sum(map(len, policy._evicted)) + sum(map(len, get_ghosts(policy))) <= 20
