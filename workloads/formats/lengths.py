"""Logs with times and lengths alone: BurstGPT, Azure's traces of LLM inference, and LMBench's.

They are tables in CSV::

    Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
    TIMESTAMP,ContextTokens,GeneratedTokens

They say when requests came and how long they were, and not what they have in common.
"""

from collections.abc import Iterator

from workloads.formats.asked import Asked, Length, Record, Unusable, needed, number, time_ms

_TIMES = ("Timestamp", "TIMESTAMP", "timestamp", "launch_time", "arrival_time", "arrived_at")
_INPUTS = (
    *("Request tokens", "ContextTokens", "context_tokens", "input_length", "input_tokens"),
    *("prompt_tokens", "num_prefill_tokens", "prompt_len"),
)
_OUTPUTS = (
    *("Response tokens", "GeneratedTokens", "generated_tokens", "output_length", "output_tokens"),
    *("generation_tokens", "completion_tokens", "num_decode_tokens", "output_len"),
)


def fits(record: Record) -> bool:
    """Whether the record has a length in tokens."""
    return any(name in record for name in _INPUTS)


def read(record: Record) -> Iterator[Asked]:
    """Read a row.

    Raises:
        BadRecord: if it lacks something or has something impossible.

    """
    outputs = number(record, _OUTPUTS)
    tokens = needed(record, _INPUTS)
    if not tokens:
        raise Unusable("requests of no tokens")
    yield Asked(
        prompt=Length(tokens),
        time=time_ms(record, 1e3, _TIMES),
        output_tokens=None if outputs is None else int(outputs),
    )
