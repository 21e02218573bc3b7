"""vLLM's own counters and state, from a server's metrics in Prometheus' text format."""

from harness.engines import metrics
from harness.engines.base import Counters
from harness.errors import HarnessError

_STATE = "vllm:prefix_cache_policy_state"
_QUERIES, _HITS = "vllm:prefix_cache_queries", "vllm:prefix_cache_hits"


def parse(text: str) -> Counters:
    """Return the prefix-cache counters, in tokens, summed over a server's engines.

    Raises:
        HarnessError: if they are not in the text, or it is none of that format.

    """
    samples = metrics.samples(text)
    found = {
        name: [sample.value for sample in samples if sample.name == name]
        for name in (f"{_QUERIES}_total", f"{_HITS}_total", f"{_QUERIES}_created")
    }
    queries, hits, created = found.values()
    if not queries or not hits:
        raise HarnessError(f"the server's metrics have no {_QUERIES} and {_HITS}: is it vLLM?")
    return Counters(int(sum(queries)), int(sum(hits)), created=max(created, default=None))


def policy_state(text: str) -> dict[str, float]:
    """Return the state of the eviction policy, which has none if it is LRU; raises as ``parse``."""
    return metrics.states(text, _STATE)
