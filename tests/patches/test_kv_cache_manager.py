"""What reaches the policy through vLLM's real KV cache manager, and through its command line."""

import random
from typing import Any

import pytest

_BLOCK_SIZE = 16


class Manager:
    """A KV cache manager of a full-attention group, and of a sliding-window group if asked for."""

    def __init__(
        self,
        capacity: int,
        policy: str = "arc",
        sliding_window: int | None = None,
        enable_caching: bool = True,
    ) -> None:
        import torch
        from vllm.v1.core.kv_cache_manager import KVCacheManager
        from vllm.v1.kv_cache_interface import (
            FullAttentionSpec,
            KVCacheConfig,
            KVCacheGroupSpec,
            SlidingWindowSpec,
        )

        shape: dict[str, Any] = {
            "block_size": _BLOCK_SIZE,
            "num_kv_heads": 1,
            "head_size": 1,
            "dtype": torch.float32,
        }
        groups = [KVCacheGroupSpec(["full"], FullAttentionSpec(**shape))]
        if sliding_window is not None:
            window = SlidingWindowSpec(**shape, sliding_window=sliding_window)
            groups.append(KVCacheGroupSpec(["window"], window))
        self.capacity = capacity
        self.manager: Any = KVCacheManager(
            KVCacheConfig(
                num_blocks=capacity + 1,
                kv_cache_tensors=[],
                kv_cache_groups=groups,
                prefix_cache_eviction_policy=policy,
            ),
            max_model_len=4096,
            scheduler_block_size=_BLOCK_SIZE,
            hash_block_size=_BLOCK_SIZE,
            enable_caching=enable_caching,
        )
        self.policy = self.manager.block_pool.eviction_policy

    def request(self, name: str, blocks: int, tail: int = 1) -> Any:
        """Return a request for a document of so many full blocks and a few tokens more."""
        from vllm import SamplingParams
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.request import Request

        init_none_hash(sha256)
        seed = sum(name.encode()) * 1000
        return Request(
            request_id=f"{name}-{id(object())}",
            prompt_token_ids=[seed + i for i in range(blocks * _BLOCK_SIZE + tail)],
            sampling_params=SamplingParams(max_tokens=1),
            pooling_params=None,
            block_hasher=get_request_block_hasher(_BLOCK_SIZE, sha256),
        )

    def schedule(self, request: Any, chunk: int | None = None) -> int | None:
        """Prefill a request, in chunks of so many tokens; return its hit tokens; None: no room."""
        hits, hit_tokens, _ = self.manager.get_computed_blocks(request)
        left = request.num_tokens - hit_tokens
        new, computed = hit_tokens, hits
        while left:
            tokens = min(left, chunk or left)
            if self.manager.allocate_slots(request, tokens, new, computed) is None:
                return None
            request.num_computed_tokens += new + tokens
            left -= tokens
            new, computed = 0, None
        return int(hit_tokens)

    def run(self, name: str, blocks: int, chunk: int | None = None) -> int | None:
        request = self.request(name, blocks)
        hit_tokens = self.schedule(request, chunk)
        self.manager.free(request)
        return hit_tokens


def _sizes(manager: Manager) -> tuple[float, ...]:
    stats = manager.policy.get_stats()
    return stats["t1"], stats["t2"], stats["b1"], stats["b2"]


@pytest.mark.parametrize("chunk", [None, 16, 24, 40])
def test_chunks_of_one_prefill_are_one_use(chunk: int | None) -> None:
    manager = Manager(20)
    assert manager.run("a", 5, chunk) == 0
    assert _sizes(manager) == (5, 0, 0, 0)
    assert manager.run("a", 5, chunk) == 5 * _BLOCK_SIZE
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
    manager.manager.free(running)
    assert manager.schedule(waiting) is not None


def test_preempted_request_coming_back_counts_nothing_twice() -> None:
    manager = Manager(8)
    request = manager.request("a", 5)
    manager.schedule(request)
    manager.manager.free(request)
    request.num_computed_tokens, request.num_preemptions = 0, 1
    manager.run("b", 4)  # Evicts the tail of what was preempted.
    assert _sizes(manager) == (7, 0, 1, 0)
    assert manager.schedule(request) == 3 * _BLOCK_SIZE
    manager.manager.free(request)
    assert manager.policy.p == 0
    assert _sizes(manager)[1] == 0


def test_decoded_blocks_are_cached_and_hit_like_others() -> None:
    manager = Manager(8)
    request = manager.request("a", 2, tail=8)
    manager.schedule(request)
    for token in range(8 + _BLOCK_SIZE):
        request.append_output_token_ids(900_000 + token)
        assert manager.manager.allocate_slots(request, 1) is not None
        request.num_computed_tokens += 1
    manager.manager.free(request)
    assert _sizes(manager) == (4, 0, 0, 0)
    assert manager.manager.block_pool.get_num_free_blocks() == 8


@pytest.mark.parametrize("policy", ["arc", "dbl", "slru", "s3fifo"])
def test_groups_of_several_kinds_share_the_policy(policy: str) -> None:
    manager, stock = (Manager(24, name, sliding_window=2 * _BLOCK_SIZE) for name in (policy, "lru"))
    pool = manager.manager.block_pool
    hits = {}
    for name, under_test in ((policy, manager), ("lru", stock)):
        rng = random.Random("groups")
        # Documents of one length, so that all that differs is what is still there.
        names = rng.choices("abcdefghij", range(10, 0, -1), k=200)
        hits[name] = [under_test.run(document, 6, chunk=40) for document in names]
    free = list(pool.free_block_queue.iter_blocks_after(None))
    assert len(free) == len(set(map(id, free))) == pool.get_num_free_blocks() == 24
    # A hit is a whole prefix in both groups: nothing else is ever reported.
    assert {hit % _BLOCK_SIZE for hit in hits[policy] if hit} == {0}
    assert 0 < sum(filter(None, hits["lru"])) < sum(filter(None, hits[policy])) * 2
    groups = {block.block_hash[-1] for block in pool.blocks if block.block_hash}
    assert groups == {0, 1}
    assert pool.reset_prefix_cache()
    assert manager.run("a", 6) == 0


@pytest.mark.parametrize("chunk", [None, 16, 24, 40])
def test_every_hash_is_announced_once_and_before_its_block_is_given_out(chunk: int | None) -> None:
    manager = Manager(24, sliding_window=2 * _BLOCK_SIZE)
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

    manager = Manager(16, sliding_window=2 * _BLOCK_SIZE)
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
    assert manager.manager.block_pool.get_num_free_blocks() == 8


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
