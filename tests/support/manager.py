"""Drives vLLM's real KV cache manager under a policy, as its scheduler does, without a model."""

import itertools
from typing import Any

BLOCK_SIZE = 16
WINDOW = 2 * BLOCK_SIZE
# A Mamba state is that of a larger block; within it, hashes are of BLOCK_SIZE tokens.
MAMBA_BLOCK_SIZE = 4 * BLOCK_SIZE


class Manager:
    """A manager of some KV cache groups.

    Args:
        capacity: Usable blocks.
        policy: Eviction policy.
        groups: "full" attention, sliding "window", or "mamba", which has all block sizes be its.
        retention: As of ``CacheConfig.prefix_cache_retention_interval``.
        enable_caching: Whether prefixes are cached.

    """

    def __init__(
        self,
        capacity: int,
        policy: str = "arc",
        groups: tuple[str, ...] = ("full",),
        retention: int | None = None,
        enable_caching: bool = True,
    ) -> None:
        import torch
        from vllm.v1.core.kv_cache_manager import KVCacheManager
        from vllm.v1.kv_cache_interface import (
            FullAttentionSpec,
            KVCacheConfig,
            KVCacheGroupSpec,
            MambaSpec,
            SlidingWindowSpec,
        )

        self.block_size = MAMBA_BLOCK_SIZE if "mamba" in groups else BLOCK_SIZE
        shape: dict[str, Any] = {
            "block_size": self.block_size,
            "num_kv_heads": 1,
            "head_size": 1,
            "dtype": torch.float32,
        }
        mamba: Any = MambaSpec(
            block_size=self.block_size,
            shapes=((1,),),
            dtypes=(torch.float32,),
            mamba_cache_mode="align",
        )
        specs: dict[str, Any] = {
            "full": FullAttentionSpec(**shape),
            "window": SlidingWindowSpec(**shape, sliding_window=WINDOW),
            "mamba": mamba,
        }
        self.capacity, self.groups = capacity, groups
        self.manager: Any = KVCacheManager(
            KVCacheConfig(
                num_blocks=capacity + 1,
                kv_cache_tensors=[],
                kv_cache_groups=[
                    KVCacheGroupSpec([f"{kind}{i}"], specs[kind]) for i, kind in enumerate(groups)
                ],
                prefix_cache_eviction_policy=policy,
                prefix_cache_retention_interval=retention,
            ),
            max_model_len=4096,
            scheduler_block_size=self.block_size,
            hash_block_size=BLOCK_SIZE,
            enable_caching=enable_caching,
        )
        self.pool = self.manager.block_pool
        self.policy = self.pool.eviction_policy
        self._numbers = itertools.count()

    def request(self, name: str, blocks: int, tail: int = 1) -> Any:
        """Return a request for a document of so many full blocks and a few tokens more."""
        seed = sum(name.encode()) * 1000
        return self.request_for([seed + i for i in range(blocks * BLOCK_SIZE + tail)], name)

    def request_for(self, tokens: list[int], name: str = "request") -> Any:
        """Return a request for some tokens."""
        from vllm import SamplingParams
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.request import Request

        init_none_hash(sha256)
        return Request(
            request_id=f"{name}-{next(self._numbers)}",
            prompt_token_ids=tokens,
            sampling_params=SamplingParams(max_tokens=64),
            pooling_params=None,
            block_hasher=get_request_block_hasher(BLOCK_SIZE, sha256),
        )

    def schedule(self, request: Any, chunk: int | None = None) -> int | None:
        """Prefill a request, in chunks of so many tokens; return its hit tokens; None: no room."""
        hits, hit_tokens, _ = self.manager.get_computed_blocks(request)
        ends = self._ends(request.num_tokens, hit_tokens, chunk)
        done, new, computed = hit_tokens, hit_tokens, hits
        for end in ends:
            self.manager.new_step_starts()
            if self.manager.allocate_slots(request, end - done, new, computed) is None:
                return None
            self.run_copies()
            request.num_computed_tokens = done = end
            new, computed = 0, None
        return int(hit_tokens)

    def _ends(self, num_tokens: int, done: int, chunk: int | None) -> list[int]:
        """Return where chunks end; with Mamba, also where a state is to be kept."""
        ends = set(range(done + chunk, num_tokens, chunk)) if chunk else set()
        if "mamba" in self.groups:
            last = (num_tokens - 1) // BLOCK_SIZE * BLOCK_SIZE
            size = self.block_size
            ends = {end // size * size for end in ends} | {last // size * size, last}
        return sorted(end for end in ends | {num_tokens} if done < end)

    def run_copies(self) -> None:
        """Let go of the blocks that were kept for copies, as when these have run."""
        _, retained = self.manager.take_kv_cache_block_copies()
        self.pool.free_blocks(retained)

    def free(self, request: Any) -> None:
        """Let a request end."""
        self.manager.free(request)

    def preempt(self, request: Any) -> None:
        """Take a running request's blocks away; it may be scheduled again."""
        self.manager.free(request)
        request.num_computed_tokens = 0
        request.num_preemptions += 1

    def run(self, name: str, blocks: int, chunk: int | None = None) -> int | None:
        """Run a request from its start to its end; return its hit tokens."""
        request = self.request(name, blocks)
        hit_tokens = self.schedule(request, chunk)
        self.manager.free(request)
        return hit_tokens

    def lists(self, request: Any, group: int = 0) -> list[int]:
        """Return the lists that a running request's cached blocks are in."""
        manager = self.manager.coordinator.single_type_managers[group]
        blocks = manager.req_to_blocks[request.request_id]
        return [block.eviction_list for block in blocks if block.block_hash is not None]
