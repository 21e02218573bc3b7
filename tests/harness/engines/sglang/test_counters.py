import pytest

from harness.engines.base import Counters
from harness.engines.sglang import counters
from harness.errors import HarnessError

_METRICS = """# HELP sglang:prompt_tokens_total Tokens.
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="model",dp_rank="0"} 640.0
sglang:prompt_tokens_total{model_name="model",dp_rank="1"} 60.0
# HELP sglang:cached_tokens_total Tokens.
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{cache_source="device",model_name="model"} 320.0
# HELP sglang:eviction_policy_state State.
# TYPE sglang:eviction_policy_state gauge
sglang:eviction_policy_state{policy="arc",state="t1"} 96.0
sglang:eviction_policy_state{policy="arc",state="p"} 8.5
"""


def test_counters_and_state_of_a_server() -> None:
    assert counters.parse(_METRICS) == Counters(700, 320)
    assert counters.policy_state(_METRICS) == {"t1": 96.0, "p": 8.5}


def test_before_the_first_request_there_are_no_counters() -> None:
    assert counters.parse("# TYPE up gauge\nup 1.0\n") == Counters(0, 0)
    assert counters.policy_state("") == {}


def test_no_metrics() -> None:
    with pytest.raises(HarnessError, match="the server's metrics are no metrics"):
        counters.parse('<html>"no')
