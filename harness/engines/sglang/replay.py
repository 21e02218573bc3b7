"""Tier replay on SGLang: its radix cache and KV pool, one request after the other, and no model."""

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
import sglang

from harness.cell import CellSpec
from harness.engines.base import Completion, Counters
from harness.engines.sglang.cache import Cache
from workloads.file import BlockRequest, BlockWorkload, longest

# A token's number has 64 bits here, one of them the sign; nothing reads it but the tree.
_TOKEN_MASK = (1 << 62) - 1
# Of tokens that are in no full block, and so in nobody else's prompt.
_OWN_TOKENS = 1 << 62


def token_ids(request: BlockRequest, page_size: int) -> "array[int]":
    """Return a prompt in which all tokens of a page are the name of its block."""
    runs = [np.arange(count) + (first & _TOKEN_MASK) for first, count in request.runs]
    tokens = np.repeat(np.concatenate(runs), page_size) if runs else np.empty(0, int)
    own = np.full(request.prompt_tokens - len(tokens), _OWN_TOKENS + request.request)
    return array("q", np.concatenate([tokens, own]).astype(np.int64).tobytes())


class ReplayEngine:
    """An engine in which a request takes what it would of the cache, and no time.

    See ``base.Engine``. A block's tokens are all its name, so that pages are equal where blocks
    are.

    Args:
        spec: The cell.
        model: Not read.
        workload: The requests to come, in blocks of the cell's size.

    """

    def __init__(self, spec: CellSpec, model: str, workload: BlockWorkload) -> None:
        self.version, self.imported_from = str(sglang.__version__), str(sglang.__file__)
        most = longest(workload.requests)
        self._page_size = spec.block_size
        self._cache = Cache(
            spec.policy,
            spec.cache_blocks,
            spec.block_size,
            max_tokens=most.prompt_tokens + most.output_tokens,
            is_generous=True,
        )
        self._counters = Counters(queried_tokens=0, hit_tokens=0)

    def warm_up(self) -> None:
        """Do nothing: there are no times to spoil."""

    def generate(self, requests: Sequence[BlockRequest]) -> list[Completion]:
        """Run a batch, which is of one request."""
        (request,) = requests
        cached_tokens = self._cache.run(
            token_ids(request, self._page_size),
            [_OWN_TOKENS + request.request] * (request.output_tokens - 1),
        )
        self._counters = Counters(
            self._counters.queried_tokens + request.prompt_tokens,
            self._counters.hit_tokens + cached_tokens,
        )
        return [
            Completion(
                arrived_ns=None,
                first_token_ns=None,
                end_ns=None,
                prompt_tokens=request.prompt_tokens,
                cached_tokens=cached_tokens,
                output_tokens=request.output_tokens,
                queried_blocks=request.num_blocks,
                # A tree has no block without all blocks before it.
                cached_blocks=cached_tokens // self._page_size,
            )
        ]

    def counters(self) -> Counters:
        """Return the sums of what was looked up and found: the tree itself counts nothing."""
        return self._counters

    def policy_state(self) -> Mapping[str, float] | None:
        """Return the eviction policy's state, in blocks; None of one that keeps none."""
        state = self._cache.tree.get_policy_state()
        return {name: value / self._page_size for name, value in state.items()} or None

    def metrics_text(self) -> None:
        """Return nothing: there is no server to ask."""
