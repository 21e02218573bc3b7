"""Times the scheduler under one or several policies; run by ``harness.bench.eviction``.

A process of its own, since the engine that it imports is decided by its search path. Its argument
is an ``Order`` as JSON, its last line of output the ``Timing``s as a JSON list.
"""

import hashlib
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Iterator

from harness.bench.eviction import Order, Timing
from harness.engines.replay import HashedPrompt, Replay

_BLOCK_SIZE = 16
# Of the paper's doc-QA on QuALITY: the mean prompt; a window of 512 requests.
_MEAN_BLOCKS, _WINDOW = 360, 512
_STANDARD_DEVIATION = 94  # as of QuALITY's lengths, a quarter of the mean


def main() -> None:
    """Run the order given on the command line."""
    order = Order.model_validate_json(sys.argv[1])
    timings = [_time(order, policy) for _ in range(order.repetitions) for policy in order.policies]
    print(json.dumps([timing.model_dump() for timing in timings]))


def _time(order: Order, policy: str | None) -> Timing:
    longest = max(_lengths(order.documents)) + 2
    engine = Replay(
        str(order.model), policy, order.cache_blocks, _BLOCK_SIZE, max_tokens=longest * _BLOCK_SIZE
    )
    warm_up = 2 * order.cache_blocks // _MEAN_BLOCKS
    spent = 0.0
    cached = prompt_tokens = 0
    for i, prompt in enumerate(_prompts(order.documents, warm_up + order.requests)):
        start = time.process_time()
        (hit_tokens,) = engine.run([prompt])
        if i >= warm_up:
            spent += time.process_time() - start
            cached += hit_tokens
            prompt_tokens += prompt.num_tokens
    return Timing(
        policy=policy,
        us_per_request=spent / order.requests * 1e6,
        hit_rate=cached / prompt_tokens,
    )


def _lengths(documents: int) -> list[int]:
    """Return the documents' lengths in blocks."""
    rng = random.Random("lengths")
    return [max(8, round(rng.gauss(_MEAN_BLOCKS, _STANDARD_DEVIATION))) for _ in range(documents)]


def _prompts(documents: int, requests: int) -> Iterator[HashedPrompt]:
    """Yield doc-QA prompts: Zipf over documents, reshuffled in each window; a question each."""
    rng = random.Random("prompts")
    lengths = _lengths(documents)
    weights = [1 / (rank + 1) for rank in range(documents)]
    ranked = list(range(documents))
    for i in range(requests):
        if i % _WINDOW == 0:
            rng.shuffle(ranked)
        (document,) = rng.choices(ranked, weights)
        names = [f"{document}/{j}" for j in range(lengths[document])] + [f"question {i}"]
        hashes = [hashlib.sha256(name.encode()).digest() for name in names]
        yield HashedPrompt(hashes, num_tokens=len(hashes) * _BLOCK_SIZE + 1)


def bytes_per_ghost(num_ghosts: int) -> float:
    """Return how much memory ``arc`` needs for each hash that it remembers."""
    from vllm.v1.core.block_pool import BlockPool

    pool = BlockPool(num_ghosts + 1, True, _BLOCK_SIZE, eviction_policy="arc")
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    group = bytes(4)
    pool.eviction_policy.remember(
        [[], [hashlib.sha256(str(i).encode()).digest() + group for i in range(num_ghosts)], []]
    )
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / num_ghosts


if __name__ == "__main__":
    main()
