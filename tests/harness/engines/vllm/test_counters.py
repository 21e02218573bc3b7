import pytest

from harness.engines.base import Counters
from harness.engines.vllm import counters
from harness.errors import HarnessError


def _metric(name: str, *values: float, created: float | None = None) -> str:
    lines = [f"# HELP vllm:{name}_total Tokens.", f"# TYPE vllm:{name}_total counter"]
    lines += [
        f'vllm:{name}_total{{engine="{engine}",model_name="m"}} {value}'
        for engine, value in enumerate(values)
    ]
    if created is not None:
        lines += [f"# HELP vllm:{name}_created Tokens.", f"# TYPE vllm:{name}_created gauge"]
        lines += [
            f'vllm:{name}_created{{engine="{engine}",model_name="m"}} {created + engine}'
            for engine, _ in enumerate(values)
        ]
    return "\n".join(lines) + "\n"


_OTHER = _metric("external_prefix_cache_hits", 5.0) + "# TYPE up gauge\nup 1.0\n"


def test_counters_of_one_engine() -> None:
    text = _OTHER + _metric("prefix_cache_queries", 1024.0, created=1.7e9)
    text += _metric("prefix_cache_hits", 512.0, created=1.8e9)
    assert counters.parse(text) == Counters(1024, 512, created=1.7e9)


def test_engines_are_summed_and_the_youngest_counts() -> None:
    text = _metric("prefix_cache_queries", 1000.0, 24.0, created=1.7e9)
    text += _metric("prefix_cache_hits", 500.0, 12.0, created=1.7e9)
    assert counters.parse(text) == Counters(1024, 512, created=1.7e9 + 1)


def test_large_counts_are_exact() -> None:
    text = _metric("prefix_cache_queries", 1.234567890123e12) + _metric("prefix_cache_hits", 1e6)
    assert counters.parse(text) == Counters(1_234_567_890_123, 1_000_000, created=None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        _OTHER,
        _metric("prefix_cache_queries", 1.0),
        _metric("prefix_cache_hits", 1.0),
        _metric("prefix_cache_queries") + _metric("prefix_cache_hits"),
    ],
)
def test_missing_counters_are_refused(text: str) -> None:
    with pytest.raises(HarnessError, match="have no vllm:prefix_cache_queries and"):
        counters.parse(text)


@pytest.mark.parametrize("text", ["<html>not found</html>", "vllm:prefix_cache_hits_total x\n"])
def test_what_is_no_metrics_text_is_refused(text: str) -> None:
    with pytest.raises(HarnessError):
        counters.parse(text)
