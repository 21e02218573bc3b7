"""Drives a patched BlockPool the way the KV cache manager does, without a model or a scheduler."""

from typing import Any

BLOCK_SIZE = 16


class FakeRequest:
    """What BlockPool reads of a request."""

    def __init__(self, block_hashes: list[bytes]) -> None:
        self.block_hashes = block_hashes


def chain_hashes(*contents: int) -> list[bytes]:
    """Return one hash a block that, as vLLM's, names the block and all before it."""
    names = [str(contents[: i + 1]) for i in range(len(contents))]
    return [name.encode().ljust(32, b".") for name in names]


class Pool:
    """A pool of ``capacity`` usable blocks and the running requests in it."""

    def __init__(self, policy: str, capacity: int) -> None:
        from vllm.v1.core.block_pool import BlockPool

        self.pool: Any = BlockPool(
            capacity + 1, enable_caching=True, hash_block_size=BLOCK_SIZE, eviction_policy=policy
        )
        self.policy = self.pool.eviction_policy

    def start(
        self, hashes: list[bytes], partial_blocks: int = 0, is_resumed: bool = False
    ) -> tuple[list[Any], int] | None:
        """Give a request its blocks; return them and how many were hits; None if there is no room.

        Args:
            hashes: Of its full blocks.
            partial_blocks: Number of blocks beyond these that have no hash.
            is_resumed: Whether it was preempted before.

        """
        from vllm.v1.core.kv_cache_utils import make_block_hashes_with_group_id

        hits: list[Any] = []
        for block_hash in hashes:
            found = self.pool.get_cached_block(block_hash, [0])
            if found is None:
                break
            hits += found
        needed = len(hashes) + partial_blocks - len(hits)
        if needed + sum(block.ref_cnt == 0 for block in hits) > self.pool.get_num_free_blocks():
            return None
        if self.policy is not None:
            new_hashes = make_block_hashes_with_group_id(hashes[len(hits) :], 0)
            self.pool.announce(hits, {0: new_hashes}, is_resumed)
        self.pool.touch(hits)
        blocks = hits + self.pool.get_new_blocks(needed)
        self.pool.cache_full_blocks(
            FakeRequest(hashes), blocks, len(hits), len(hashes), BLOCK_SIZE, 0
        )
        return blocks, len(hits)

    def finish(self, blocks: list[Any]) -> None:
        """Free a request's blocks, tail first."""
        self.pool.free_blocks(reversed(blocks))

    def access(self, content: int) -> bool:
        """Run a request of one block; return whether it hit."""
        started = self.start(chain_hashes(content))
        assert started is not None
        self.finish(started[0])
        return started[1] == 1
