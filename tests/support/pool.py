"""Drives a patched BlockPool the way the KV cache manager does, without a model or a scheduler."""

import itertools
from typing import Any

BLOCK_SIZE = 16


class FakeRequest:
    """What BlockPool reads of a request."""

    def __init__(self, block_hashes: list[bytes], request_id: str = "unknown") -> None:
        self.block_hashes, self.request_id = block_hashes, request_id


def chain_hashes(*contents: int) -> list[bytes]:
    """Return one hash a block that, as vLLM's, names the block and all before it."""
    names = [str(contents[: i + 1]) for i in range(len(contents))]
    return [name.encode().ljust(32, b".") for name in names]


def get_ghosts(policy: Any) -> list[list[bytes]]:
    """Return what a policy remembers, queue by queue and the oldest first."""
    if ghosts := getattr(policy, "_ghosts", None):
        return [list(queue) for queue in ghosts.queues]
    if runs := getattr(policy, "_runs", None):
        gone = (h for run in runs.values() for h in run.hashes[len(run.blocks) :])
        return [[block_hash for block_hash in gone if block_hash not in policy._copies]]
    return [list(getattr(policy, "history", ()))]


class Pool:
    """A pool of ``capacity`` usable blocks and the running requests in it."""

    def __init__(self, policy: str, capacity: int) -> None:
        from vllm.v1.core.block_pool import BlockPool

        self.pool: Any = BlockPool(
            capacity + 1, enable_caching=True, hash_block_size=BLOCK_SIZE, eviction_policy=policy
        )
        self.policy = self.pool.eviction_policy
        self._numbers = itertools.count()
        # Of the blocks of each running request, their list's id.
        self._running: dict[int, str] = {}

    def start(
        self, hashes: list[bytes], partial_blocks: int = 0, num_own: int = 0
    ) -> tuple[list[Any], int] | None:
        """Give a request its blocks; return them and how many were hits; None if there is no room.

        Args:
            hashes: Of its full blocks.
            partial_blocks: Number of blocks beyond these that have no hash.
            num_own: So many of them it had before it was preempted.

        """
        hits: list[Any] = []
        for block_hash in hashes:
            found = self.pool.get_cached_block(block_hash, [0])
            if found is None:
                break
            hits += found
        needed = len(hashes) + partial_blocks - len(hits)
        if needed + sum(block.ref_cnt == 0 for block in hits) > self.pool.get_num_free_blocks():
            return None
        request = FakeRequest(hashes, f"request {next(self._numbers)}")
        if self.policy is not None:
            self._announce(request, hits, num_own)
        self.pool.touch(hits)
        blocks = hits + self.pool.get_new_blocks(needed)
        self.pool.cache_full_blocks(request, blocks, len(hits), len(hashes), BLOCK_SIZE, 0)
        self._running[id(blocks)] = request.request_id
        return blocks, len(hits)

    def _announce(self, request: FakeRequest, hits: list[Any], num_own: int) -> None:
        from vllm.v1.core.eviction.base import NewBlocks
        from vllm.v1.core.kv_cache_utils import make_block_hashes_with_group_id

        start = len(hits)
        new_hashes: Any = make_block_hashes_with_group_id(request.block_hashes[start:], 0)
        end = len(request.block_hashes)
        new = NewBlocks(0, start, end, range(start, end), new_hashes, max(0, num_own - start))
        self.policy.announce(request.request_id, [new], num_own * BLOCK_SIZE)
        self.policy.use(request.request_id, hits, 0, BLOCK_SIZE)

    def finish(self, blocks: list[Any]) -> None:
        """Free a request's blocks, tail first."""
        request_id = self._running.pop(id(blocks), None)
        if self.policy is not None and request_id is not None:
            self.policy.forget(request_id)
        self.pool.free_blocks(reversed(blocks))

    def access(self, content: int) -> bool:
        """Run a request of one block; return whether it hit."""
        started = self.start(chain_hashes(content))
        assert started is not None
        self.finish(started[0])
        return started[1] == 1
