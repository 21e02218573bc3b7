"""Equivalent cache: how large LRU's would have to be to hit as often as a policy does.

Points of hit rate cannot be compared across cache sizes and workloads, nor with what they cost;
memory can. It is also how others report: Learned Prefix Caching (Yang et al., NeurIPS '25), which
predicts from the text whether a conversation goes on, needs 18 to 47 % less cache than LRU for as
many hits (its abstract), on conversations of LMSys, ShareGPT and Chatbot-Arena (a page of its
review; which size each of them is at, neither says). So much less for it is 22 to 89 % more for
LRU.
"""

import math
from collections.abc import Sequence

import numpy as np


def lru_tokens(sizes: Sequence[float], hit_rates: Sequence[float], wanted: float) -> float:
    """Return the cache at which LRU hits as much, between sizes on a logarithmic scale.

    Args:
        sizes: Of LRU's caches, in tokens, ascending.
        hit_rates: LRU's, one for each. What a larger cache hits less, if it does, is not counted.
        wanted: The hit rate to reach.

    Returns:
        Tokens; infinite where the largest cache does not hit as much, 0 where the smallest hits
        more; not a number without any size.

    """
    if not len(sizes):
        return math.nan
    rates, first = np.unique(np.maximum.accumulate(hit_rates), return_index=True)
    if wanted > rates[-1]:
        return math.inf
    if wanted < rates[0]:
        return 0
    return float(np.exp(np.interp(wanted, rates, np.log(sizes)[first])))
