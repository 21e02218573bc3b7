"""Policies that others propose, replayed outside the engine: a file each.

Those of ``libcachesim`` see single blocks and know no prefixes. The others see chains of blocks
(``chains``) and are written from what their authors say. ``KINDS`` has what each is told:

- ``blocks``: which blocks are asked for;
- ``chains``: of which prompts they are;
- ``told``: what no engine knows, such as the length of a turn to come. What such a policy reaches
  is a bound on what it would reach with guesses.
"""

from collections.abc import Mapping

from harness.analysis.hitrate import HitRate
from harness.analysis.rivals import libcachesim
from harness.analysis.rivals.chains import Chains, PrefixCache, replay
from harness.analysis.rivals.freqcost import FrequencyCost
from harness.analysis.rivals.hpt import HitsPerToken
from harness.analysis.rivals.lrfu import LRFU1, LRFU4, LRFU16
from harness.analysis.rivals.lru2 import LRU2
from harness.analysis.rivals.slru import GhostSLRU
from harness.analysis.rivals.tlru import TailLRU
from harness.analysis.rivals.workloadaware import WorkloadAware
from harness.errors import HarnessError
from workloads.file import BlockWorkload

_CHAINS: Mapping[str, type[PrefixCache]] = {
    "lru-2": LRU2,
    "lrfu-1": LRFU1,
    "lrfu-4": LRFU4,
    "lrfu-16": LRFU16,
    "hits-per-token": HitsPerToken,
    "frequency-cost": FrequencyCost,
    "slru-ghosts": GhostSLRU,
}
_TOLD: Mapping[str, type[PrefixCache]] = {"t-lru": TailLRU, "workload-aware": WorkloadAware}
KINDS: Mapping[str, str] = (
    dict.fromkeys(libcachesim.NAMES, "blocks")
    | dict.fromkeys(_CHAINS, "chains")
    | dict.fromkeys(_TOLD, "told")
)


class Rivals:
    """The rivals on one workload.

    Args:
        workload: A workload of blocks. Its warm-up is replayed but not counted.

    """

    def __init__(self, workload: BlockWorkload) -> None:
        self._workload = workload
        self._chains = Chains(workload)

    def replay(self, name: str, cache_blocks: int) -> HitRate:
        """Replay the workload through a policy and return its hit rates.

        Args:
            name: One of ``KINDS``.
            cache_blocks: Blocks of the cache.

        Raises:
            HarnessError: if the policy is not known or the cache too small for it.

        """
        if name not in KINDS:
            raise HarnessError(f"no policy {name!r} to compare with; there are {', '.join(KINDS)}")
        if name in libcachesim.NAMES:
            return libcachesim.replay(self._workload, name, cache_blocks)
        policy = {**_CHAINS, **_TOLD}[name]
        return replay(self._chains, policy(self._chains, cache_blocks))
