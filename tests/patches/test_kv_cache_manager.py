"""What reaches the policy through vLLM's real KV cache manager, and through its command line."""

import random
from typing import Any

import pytest
from support.manager import BLOCK_SIZE, Manager

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


@pytest.mark.parametrize("policy", ["arc", "dbl", "slru", "s3fifo"])
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
        remembered |= set(map(get_group_id, [*manager.policy._b1, *manager.policy._b2]))
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
