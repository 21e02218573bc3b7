"""A cell and its requests, made up."""

from harness.cell import Batch, CellSpec
from harness.engines.base import Counters
from harness.measure.records import RequestRecord

SPEC = CellSpec(
    tier="cpu",
    engine="vllm",
    policy="arc",
    workload="w",
    load=Batch(batch_size=1),
    cache_blocks=10,
    block_size=32,
    seed=1,
    model="m",
    dtype="float32",
)


def _row(number: int, ttft_ms: float) -> RequestRecord:
    sent_ns = 1_000_000_000 * number
    return RequestRecord(
        request=number,
        session=None,
        turn=None,
        window=0,
        warm_up=False,
        scheduled_ns=None,
        sent_ns=sent_ns,
        first_byte_ns=None,
        first_token_ns=sent_ns + int(ttft_ms * 1e6),
        end_ns=sent_ns + 500_000_000,
        prompt_tokens=100,
        cached_tokens=32 if number % 2 else 0,
        output_tokens=1,
        queried_blocks=3,
        cached_blocks=1,
        status="ok",
        error=None,
    )


ROWS = [_row(i, ttft) for i, ttft in enumerate((10.0, 20.0, 30.0, 40.0))]
FRESH = Counters(7, 0)
AFTER = Counters(7 + 400, 64)
