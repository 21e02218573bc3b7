"""A pytest plugin for a run of vLLM's tests: gives ``arc`` to every pool that would take ``lru``.

That is how tests reach it that know nothing of policies. HiSparse's own pools, a subclass, stay
with ``lru``, as they do in the engine; without prefix caching there is no policy.
"""

from functools import wraps
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.eviction.arc import ARCPolicy

    original = BlockPool.__init__

    @wraps(original)
    def init(self: Any, *args: Any, eviction_policy: str = "lru", **kwargs: Any) -> None:
        if type(self) is BlockPool and eviction_policy == "lru":
            eviction_policy = "arc"
        original(self, *args, eviction_policy=eviction_policy, **kwargs)

    BlockPool.__init__ = init
    for enable_caching, expected in (True, ARCPolicy), (False, type(None)):
        pool = BlockPool(2, enable_caching=enable_caching, hash_block_size=16)
        assert type(pool.eviction_policy) is expected
