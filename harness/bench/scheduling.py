"""Times the scheduler under one or several policies; run by ``harness.bench.eviction``.

A process of its own, since the engine that it imports is decided by its search path. Its argument
is an ``Order`` as JSON, its last line of output the ``Timing``s as a JSON list.
"""

import contextlib
import hashlib
import json
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import torch
from vllm import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    SlidingWindowSpec,
)
from vllm.v1.request import Request

from harness.bench.eviction import Order, Timing
from harness.engines.vllm.replay import HashedPrompt, Replay

_BLOCK_SIZE = 16
# Running requests, and the tokens that each makes.
_DECODING, _STEPS = 128, 64
_LONG_PROMPTS, _LONG_BLOCKS, _CHUNK = 40, 1024, 2048
_EMPTY_POOL_PROMPTS = 3
# Of the paper's doc-QA on QuALITY: the mean prompt; a window of 512 requests.
_MEAN_BLOCKS, _WINDOW = 360, 512
_STANDARD_DEVIATION = 94  # as of QuALITY's lengths, a quarter of the mean


def main() -> None:
    """Run the order given on the command line."""
    order = Order.model_validate_json(sys.argv[1])
    init_none_hash(sha256)
    timings = [timing for _ in range(order.repetitions) for timing in _time(order)]
    print(json.dumps([timing.model_dump() for timing in timings]))


def _time(order: Order) -> list[Timing]:
    """Time all policies in turn at every step, so that what slows the machine slows them all; each
    after any other, since who comes after one of much the same code finds that warm.
    """
    steps = {
        policy: {"prefill": _prefill, "decode": _decode, "hybrid": _hybrid}[order.work](
            order, policy
        )
        for policy in order.policies
    }
    spent: dict[str | None, list[float]] = {policy: [] for policy in order.policies}
    in_turn, rng = list(order.policies), random.Random("turns")
    with contextlib.suppress(StopIteration):
        while True:
            if order.in_turns:
                print(flush=True)
                sys.stdin.readline()
            for policy in in_turn:
                spent[policy].append(next(steps[policy]))
            rng.shuffle(in_turn)
    return [
        Timing(policy=policy, us_per_request=statistics.mean(seconds) * 1e6)
        for policy, seconds in spent.items()
    ]


def _prefill(order: Order, policy: str | None) -> Iterator[float]:
    """Yield the CPU seconds of each request."""
    longest = max(_lengths(order.documents)) + 2
    engine = Replay(
        str(order.model), policy, order.cache_blocks, _BLOCK_SIZE, max_tokens=longest * _BLOCK_SIZE
    )
    warm_up = 2 * order.cache_blocks // _MEAN_BLOCKS
    for i, prompt in enumerate(_prompts(order.documents, warm_up + order.requests)):
        start = time.process_time()
        engine.run([prompt])
        if i >= warm_up:
            yield time.process_time() - start


def _decode(__: Order, policy: str | None) -> Iterator[float]:
    """Yield the CPU seconds to give a running request room for one more token."""
    manager = _manager(policy, _DECODING * 16 + 512, windows=0)
    requests = [_request(str(i), 4) for i in range(_DECODING)]
    for request in requests:
        manager.get_computed_blocks(request)
        manager.allocate_slots(request, request.num_tokens)
        request.num_computed_tokens = request.num_tokens
    for _ in range(_STEPS):
        for request in requests:
            request.append_output_token_ids(0)
        start = time.process_time()
        for request in requests:
            manager.allocate_slots(request, 1)
        yield (time.process_time() - start) / _DECODING
        for request in requests:
            request.num_computed_tokens += 1


def _hybrid(__: Order, policy: str | None) -> Iterator[float]:
    """Yield the CPU seconds to give a long prompt its blocks, in chunks."""
    manager = _manager(policy, 3 * _LONG_BLOCKS + 400, windows=4)
    for i in range(_LONG_PROMPTS):
        request = _request(str(i), _LONG_BLOCKS)
        manager.get_computed_blocks(request)
        start = time.process_time()
        for _ in range(0, request.num_tokens, _CHUNK):
            tokens = min(_CHUNK, request.num_tokens - request.num_computed_tokens)
            manager.allocate_slots(request, tokens)
            request.num_computed_tokens += tokens
        # The first ones find the pool empty.
        if i >= _EMPTY_POOL_PROMPTS:
            yield time.process_time() - start
        manager.free(request)


def _manager(policy: str | None, cache_blocks: int, windows: int) -> Any:
    """Return a KV cache manager of full attention and so many sliding windows of 128 tokens."""
    shape: dict[str, Any] = {
        "block_size": _BLOCK_SIZE,
        "num_kv_heads": 1,
        "head_size": 1,
        "dtype": torch.float32,
    }
    specs: list[Any] = [FullAttentionSpec(**shape)]
    specs += [SlidingWindowSpec(**shape, sliding_window=128) for _ in range(windows)]
    chosen = {} if policy is None else {"prefix_cache_eviction_policy": policy}
    return KVCacheManager(
        KVCacheConfig(
            num_blocks=cache_blocks + 1,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec([str(i)], spec) for i, spec in enumerate(specs)],
            # The engine's default: of windows only what a repeated prompt needs is cached.
            prefix_cache_retention_interval=0 if windows else None,
            **chosen,
        ),
        max_model_len=_LONG_BLOCKS * _BLOCK_SIZE * 2,
        max_in_flight_tokens=8192,
        scheduler_block_size=_BLOCK_SIZE,
        hash_block_size=_BLOCK_SIZE,
        enable_caching=True,
    )


def _request(name: str, blocks: int) -> Request:
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return Request(
        request_id=name,
        prompt_token_ids=list(range(first, first + blocks * _BLOCK_SIZE + 1)),
        sampling_params=SamplingParams(max_tokens=2 * _STEPS),
        pooling_params=None,
        block_hasher=get_request_block_hasher(_BLOCK_SIZE, sha256),
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
