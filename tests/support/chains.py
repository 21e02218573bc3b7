"""Chains of blocks that begin as others do, and what of them is cached."""

import ast
import random
from typing import Any

from support.pool import Pool, chain_hashes


def random_chain(rng: random.Random) -> list[int]:
    """Return a chain that begins as others do: a document, a part of it, and a question."""
    document = min(rng.randrange(12), rng.randrange(12))
    length = rng.randrange(1, 7)
    question = [1000 + rng.randrange(3)] * rng.randrange(2)
    return [document * 10 + i for i in range(length)] + question


def run_chain(pool: Pool, chain: list[int]) -> int:
    """Run a request; return how many of its blocks hit."""
    started = pool.start(chain_hashes(*chain))
    assert started is not None
    pool.finish(started[0])
    return started[1]


def count_unreachable(pool: Pool) -> int:
    """Return how many cached blocks there are with one before them that is not cached."""
    # A test's hash is its chain's contents; all but the last are the one before.
    chains = {b.block_hash[:-4].rstrip(b".") for b in pool.pool.blocks if b.block_hash is not None}
    names = {ast.literal_eval(chain.decode()) for chain in chains}
    return sum(len(name) > 1 and name[:-1] not in names for name in names)


def count_evictions_while_reachable(pool: Pool, rng: random.Random, batch_size: int) -> int:
    """Run requests so many at a time, and see each time that all that is cached can be reached."""
    running: list[list[Any]] = []
    for _ in range(1500):
        if len(running) == batch_size:
            pool.finish(running.pop(rng.randrange(batch_size)))
        started = pool.start(chain_hashes(*random_chain(rng)), partial_blocks=rng.randrange(2))
        assert started is not None
        running.append(started[0])
        assert count_unreachable(pool) == 0
    return int(pool.policy.num_evictions)
