"""The eviction policies as libcachesim has them: implementations that are not ours."""

from typing import Any

import libcachesim
from libcachesim.cache import CacheBase, _create_common_params
from libcachesim.libcachesim_python import SLRU_init

# libcachesim's S3-FIFO takes no object if a tenth of the cache is less than two blocks.
MIN_CAPACITY = {"lru": 1, "arc": 1, "slru": 5, "s3fifo": 20}
# Its hash table, as a power of two; by default it is of 128 MiB.
_HASH_POWER = 12


class _TwoSegmentSLRU(CacheBase):
    """libcachesim's own class has four segments of one size; its core can have others."""

    def __init__(self, capacity: int, hashpower: int) -> None:
        params = _create_common_params(capacity, hashpower=hashpower)
        cache = SLRU_init(params, "seg-size=1:4")
        super().__init__(_cache=cache)


class IndependentCache:
    """A cache of ``capacity`` objects of one size under a policy of libcachesim's."""

    def __init__(self, policy: str, capacity: int) -> None:
        classes: dict[str, Any] = {
            "lru": libcachesim.LRU,
            "arc": libcachesim.ARC,
            "slru": _TwoSegmentSLRU,
            "s3fifo": libcachesim.S3FIFO,
        }
        self._cache = classes[policy](capacity, hashpower=_HASH_POWER)
        self._time = 0

    def access(self, content: int) -> bool:
        """Return whether the content hit, and make it resident."""
        self._time += 1
        request = libcachesim.Request(obj_id=content + 1, obj_size=1, clock_time=self._time)
        return bool(self._cache.get(request))
