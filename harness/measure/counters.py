"""An engine's own counters and state, from its metrics in Prometheus' text format."""

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from harness.engines.base import Counters
from harness.errors import HarnessError

_STATE = "vllm:prefix_cache_policy_state"
_QUERIES, _HITS = "vllm:prefix_cache_queries", "vllm:prefix_cache_hits"


def parse(text: str) -> Counters:
    """Return the prefix-cache counters, in tokens, summed over a server's engines.

    Raises:
        HarnessError: if they are not in the text, or it is none of that format.

    """
    samples = _samples(text)
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
    return {
        sample.labels["state"]: sample.value for sample in _samples(text) if sample.name == _STATE
    }


def _samples(text: str) -> list[Sample]:
    try:
        return [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]
    except ValueError as error:
        raise HarnessError(f"the server's metrics are no metrics: {str(error)[:80]!r}") from None
