"""SGLang's own counters and state, from a server's metrics in Prometheus' text format."""

from harness.engines import metrics
from harness.engines.base import Counters

_PROMPT, _CACHED = "sglang:prompt_tokens", "sglang:cached_tokens"
_STATE = "sglang:eviction_policy_state"


def parse(text: str) -> Counters:
    """Return the counters of prompt tokens, 0 before the first request.

    Raises:
        HarnessError: if the text is none of that format.

    """
    samples = metrics.samples(text)
    prompt, cached = (
        sum(int(sample.value) for sample in samples if sample.name == f"{name}_total")
        for name in (_PROMPT, _CACHED)
    )
    return Counters(prompt, cached)


def policy_state(text: str) -> dict[str, float]:
    """Return the state of the eviction policy, of which lru and slru have none; as ``parse``."""
    return metrics.states(text, _STATE)
