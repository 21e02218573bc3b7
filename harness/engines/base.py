"""What a load driver needs of an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Prompt:
    """A request as an engine takes it."""

    token_ids: list[int]
    output_tokens: int


@dataclass(frozen=True)
class Completion:
    """What became of a prompt. Times in ns on the monotonic clock.

    ``cached_tokens`` is the contiguous prefix found in the cache. ``cached_blocks`` of
    ``queried_blocks`` full blocks were in the cache, whether or not the blocks before them were.
    """

    arrived_ns: int
    first_token_ns: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queried_blocks: int
    cached_blocks: int


@dataclass(frozen=True)
class Counters:
    """The engine's own count of prompt tokens looked up in its prefix cache, since it started."""

    queried_tokens: int
    hit_tokens: int


class Engine(Protocol):
    """An engine that runs; it ends with its process."""

    version: str
    imported_from: str

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Run the prompts as one batch and return when all have finished, in their order."""
        ...

    def reset_cache(self) -> None:
        """Empty the prefix cache, and the policy's memory with it."""
        ...

    def counters(self) -> Counters:
        """Return the engine's prefix-cache counters."""
        ...

    def policy_state(self) -> Mapping[str, float] | None:
        """Return the eviction policy's state; None if the policy keeps none."""
        ...

    def metrics_text(self) -> str:
        """Return the engine's metrics in Prometheus' text format."""
        ...
