"""SGLang's radix cache and KV pool without a model, used as its scheduler uses them."""

from array import array
from collections.abc import Sequence
from types import SimpleNamespace

import torch

from harness.engines.sglang import shim

shim.install()

from sglang.srt.managers.schedule_batch import FINISH_LENGTH, Req  # noqa: E402
from sglang.srt.mem_cache import common  # noqa: E402
from sglang.srt.mem_cache.allocator import (  # noqa: E402
    PagedTokenToKVPoolAllocator,
    TokenToKVPoolAllocator,
)
from sglang.srt.mem_cache.cache_init_params import CacheInitParams  # noqa: E402
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool  # noqa: E402
from sglang.srt.mem_cache.unified_cache.components.base import ComponentType  # noqa: E402
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache  # noqa: E402
from sglang.srt.sampling.sampling_params import SamplingParams  # noqa: E402
from sglang.srt.server_args import (  # noqa: E402
    ServerArgs,
    set_global_server_args_for_scheduler,
)

_MAX_REQUESTS = 16


def make_params(
    policy: str, num_pages: int, page_size: int, max_tokens: int = 1024, **changes: object
) -> CacheInitParams:
    """Make what a cache with a pool of that many pages is made from."""
    set_global_server_args_for_scheduler(ServerArgs(model_path="none", page_size=page_size))
    pool = {
        "size": num_pages * page_size,
        "dtype": torch.bfloat16,
        "device": "cpu",
        "kvcache": None,
        "need_sort": False,
    }
    allocator = (
        TokenToKVPoolAllocator(**pool)
        if page_size == 1
        else PagedTokenToKVPoolAllocator(page_size=page_size, **pool)
    )
    return CacheInitParams(
        disable=False,
        req_to_token_pool=ReqToTokenPool(_MAX_REQUESTS, max_tokens, "cpu", False),
        token_to_kv_pool_allocator=allocator,
        page_size=page_size,
        eviction_policy=policy,
        tree_components=(ComponentType.FULL,),
        **{"tree_core_backend": "python", **changes},
    )


class Cache:
    """A radix cache with its pool, and the steps in which the scheduler takes a request.

    Args:
        policy: The eviction policy.
        num_pages: Pages of the pool.
        page_size: Tokens a page.
        max_tokens: Longest request, with what it makes.
        is_generous: Whether a prefill makes room for a page more than its tokens, as those of
            SGLang's scheduler do, or for the pages that it takes.
        changes: Of ``CacheInitParams``.

    """

    def __init__(
        self,
        policy: str,
        num_pages: int,
        page_size: int,
        max_tokens: int = 1024,
        is_generous: bool = False,
        **changes: object,
    ) -> None:
        params = make_params(policy, num_pages, page_size, max_tokens, **changes)
        self._max_tokens, self._is_generous = max_tokens, is_generous
        self.num_pages, self.page_size = num_pages, page_size
        self.pool, self.rows = params.token_to_kv_pool_allocator, params.req_to_token_pool
        self.tree = UnifiedRadixCache(params)
        self.core = self.tree.tree_core

    @property
    def state(self) -> SimpleNamespace:
        """The policy's, in pages."""
        state = self.tree.get_policy_state()
        return SimpleNamespace(**{key: value / self.page_size for key, value in state.items()})

    @property
    def evictable_pages(self) -> int:
        """Pages that a request can have at most."""
        tokens: int = self.pool.available_size() + self.tree.evictable_size()
        return tokens // self.page_size

    def make_request(self, tokens: Sequence[int]) -> Req:
        """Make a request of a prompt; it is not begun yet."""
        sampling = SamplingParams(temperature=0, max_new_tokens=self._max_tokens)
        return Req("request", "", array("q", tokens), sampling)

    def begin(self, tokens: Sequence[int], request: Req | None = None) -> Req:
        """Look a request up, hold what it hits, and give it its slots; evicts for them.

        Args:
            tokens: The prompt.
            request: If it was made before, or retracted, the request; its own prompt counts.

        """
        request = request or self.make_request(tokens)
        request.init_next_round_input(self.tree)
        request.lock = self.tree.lock(request.last_node)
        request.extend_end = len(request.full_untruncated_fill_ids)
        self.rows.alloc([request])
        if self._is_generous:
            num_tokens = request.extend_end - request.prefix_len + self.page_size
            common.evict_from_tree_cache(self.tree, num_tokens)
        self._allocate(request, request.prefix_len, request.extend_end)
        hit = self.tree.path_device_indices(request.last_node)
        self.rows.write((request.kv.req_pool_idx, slice(0, request.prefix_len)), hit)
        return request

    def publish(self, request: Req) -> None:
        """Insert what was computed."""
        common.checkpoint_kv_cache(request, self.tree)

    def decode(self, request: Req, token: int) -> None:
        """Give a request the slot of one more token."""
        request.output_ids.append(token)
        request.refresh_fill_ids()
        length = request.kv.kv_committed_len
        self._allocate(request, length, length + 1)

    def finish(self, request: Req) -> None:
        """End a request; the tree keeps what it computed."""
        request.finished_reason = FINISH_LENGTH(length=0)
        common.release_kv_cache(request, self.tree, checkpoint=True)
        self.rows.free_slots.sort()

    def abort(self, request: Req) -> None:
        """End a request; the tree keeps no more than it has."""
        common.release_kv_cache(request, self.tree, checkpoint=False)

    def retract(self, request: Req) -> None:
        """Take a request's slots away, to begin it again later."""
        common.release_kv_cache(request, self.tree, checkpoint=False)
        request.reset_for_retract()

    def run(self, tokens: Sequence[int], output: Sequence[int] = ()) -> int:
        """Run a request from begin to end; return the tokens that it hit.

        Args:
            tokens: The prompt.
            output: What it makes, but for the last token, of which nothing is kept.

        """
        request = self.begin(tokens)
        hit: int = request.prefix_len
        self.publish(request)
        for token in output:
            self.decode(request, token)
        self.finish(request)
        return hit

    def check(self, running: Sequence[Req] = ()) -> None:
        """Assert that no slot is lost and nothing contradicts itself."""
        self.core.sanity_check([], [])
        used = self.num_pages * self.page_size - self.pool.available_size()
        page = self.page_size
        own = sum(
            -(-request.kv.kv_allocated_len // page) * page - request.kv.cache_protected_len
            for request in running
        )
        assert used == self.core.total_size()[0] + own

    def _allocate(self, request: Req, start: int, end: int) -> None:
        page = self.page_size
        # The last page of what is there may have room.
        first = -(-start // page) * page
        num_tokens = max(-(-end // page) * page - first, 0)
        row = request.kv.req_pool_idx
        if num_tokens:
            common.evict_from_tree_cache(self.tree, num_tokens)
            slots = self.pool.alloc(num_tokens)
            assert slots is not None
            room = self.rows.req_to_token.shape[1]
            self.rows.write((row, slice(first, first + num_tokens)), slots[: room - first])
        request.kv.kv_allocated_len = request.kv.kv_committed_len = end
