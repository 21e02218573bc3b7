"""Times SGLang's radix cache under several policies; run by ``harness.bench.sglang``.

A process of its own, in SGLang's environment. Its argument is an ``Order`` as JSON, its last line
of output the us of CPU time a request, of each of the order's caches, as a JSON list.
"""

import json
import statistics
import sys
import time
from array import array
from collections import deque

from harness.bench.sglang import Order
from harness.engines.sglang.cache import Cache
from harness.engines.sglang.replay import token_ids
from workloads import file
from workloads.file import BlockWorkload, longest


def main() -> None:
    """Run the order given on the command line."""
    order = Order.model_validate_json(sys.argv[1])
    workload = file.read(order.workload)
    assert isinstance(workload, BlockWorkload)
    page_size = workload.header.block_size
    assert page_size is not None
    most = longest(workload.requests)
    caches = [
        Cache(
            policy,
            order.cache_tokens // page_size,
            page_size,
            max_tokens=most.prompt_tokens + most.output_tokens,
            is_generous=True,
            tree_core_backend=core,
        )
        for policy, core in order.caches
    ]
    spent: list[list[float]] = [[] for _ in caches]
    # In turn at every request, so that what slows the machine slows them all.
    in_turn = deque(range(len(caches)))
    for request in workload.requests[: order.warm_up + order.requests]:
        tokens = token_ids(request, page_size)
        for i in in_turn:
            seconds = _seconds(caches[i], tokens)
            if request.request >= order.warm_up:
                spent[i].append(seconds)
        in_turn.rotate()
    print(json.dumps([statistics.mean(seconds) * 1e6 for seconds in spent]))


def _seconds(cache: Cache, tokens: "array[int]") -> float:
    """Return the CPU time of what the scheduler does with the cache for a request."""
    request = cache.make_request(tokens)
    start = time.process_time()
    cache.begin(tokens, request)
    cache.publish(request)
    cache.finish(request)
    return time.process_time() - start


if __name__ == "__main__":
    main()
