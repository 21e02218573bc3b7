"""Print what random requests hit under each of SGLang's own policies and cores, as JSON."""

import json
import random

from harness.engines.sglang.cache import Cache

found = {}
for policy in ("lru", "lfu", "slru", "priority"):
    for core in ("python", "rust"):
        for page_size in (1, 16):
            rng = random.Random(0)
            cache = Cache(policy, 64, page_size, tree_core_backend=core)
            running = []
            hits = found[f"{policy} {core} {page_size}"] = []
            for _ in range(300):
                if len(running) == 3:
                    request = running.pop(0)
                    for _ in range(rng.randrange(3)):
                        cache.decode(request, 1)
                    end = rng.choice([cache.finish, cache.finish, cache.abort, cache.retract])
                    end(request)
                    if end == cache.retract:
                        running.append(cache.begin([], request))
                else:
                    content = rng.randrange(12)
                    numbers = [content % (i + 2) for i in range(rng.randrange(1, 10))]
                    tokens = [number for number in numbers for _ in range(page_size)] + [99]
                    running.append(cache.begin(tokens))
                hits.append(running[-1].prefix_len)
                cache.publish(running[-1])
                assert cache.pool.available_size() + cache.core.total_size()[0] <= 64 * page_size
print(json.dumps(found))
