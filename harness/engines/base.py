"""What an engine is to those that measure it."""

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from harness import patching
from harness.cell import Tier
from workloads.file import Request

# Requests are split as little as that allows: TTFT is then one forward pass.
_MIN_BATCHED_TOKENS = 8192
_WARM_UP_REQUESTS = 3
_ROOT = Path(__file__).parents[2]
# What the engine of a tier has to be built for.
_DEVICES = {"cpu": "CPUs", "gpu": "CUDA"}
UNREACHABLE = "unreachable"
"""Name, in a policy's state, of the share of cached blocks that no request can use."""


def max_batched_tokens(max_model_len: int) -> int:
    """Return how many tokens an engine may compute in one step; the same in every tier."""
    return max(_MIN_BATCHED_TOKENS, max_model_len)


@dataclass(frozen=True)
class Kind:
    """An engine, by the name that configs and cells have for it.

    ``package`` is what is imported, patched or not, and ``project`` what its authors call it;
    ``description`` is for captions; ``environment`` are variables of the process that imports it.
    ``offline`` names the class of ``Engine`` that runs in process and ``server`` that of
    ``Server``, both as ``module:name``, since to import them is to import the engine; None: it has
    none. ``venv`` is the environment that has the package, if that is not this one.
    """

    name: str
    package: str
    project: str
    description: str
    tiers: Sequence[Tier]
    policies: Sequence[str]
    is_patched: bool
    environment: Mapping[str, str]
    offline: str | None
    server: str | None
    venv: str | None = None

    @property
    def python(self) -> str:
        """The interpreter that the package is imported in."""
        if self.venv is None:
            return sys.executable
        return str(_ROOT / self.venv / "bin" / "python")

    @property
    def is_installed(self) -> bool:
        """Whether there is such an interpreter."""
        return Path(self.python).exists()

    def lacks(self, tier: Tier) -> str | None:
        """Say what it lacks here to run in a tier, and what to do; None if nothing.

        Whether there is a GPU is another question: another node of a cluster may have one.
        """
        if not self.is_installed:
            return (
                f"{self.project}'s environment, {self.venv}, is not there; "
                f"`make env-{self.package}`"
            )
        if self.venv is None and tier != "replay":
            is_for_cpus = "cpu" in patching.find_package(self.package).build
            if is_for_cpus != (tier == "cpu"):
                found = "the one for CPUs" if is_for_cpus else "another one"
                make = (
                    "make env-cuda" if is_for_cpus else "python3.11 env/bootstrap.py --target cpu"
                )
                return (
                    f"tier {tier} needs {self.project}'s build for {_DEVICES[tier]}, and {found} "
                    f"is installed; `{make}`"
                )
        return None


R = TypeVar("R", bound=Request, contravariant=True)


@dataclass(frozen=True)
class Completion:
    """What became of a request. Times in ns on the monotonic clock; None: there are none.

    ``cached_tokens`` is the contiguous prefix found in the cache. ``cached_blocks`` of
    ``queried_blocks`` full blocks were in the cache, whether or not the blocks before them were.
    """

    arrived_ns: int | None
    first_token_ns: int | None
    end_ns: int | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queried_blocks: int
    cached_blocks: int


@dataclass(frozen=True)
class Counters:
    """The engine's own count of prompt tokens looked up in its prefix cache, since it started.

    ``created`` is when a server began to count, in s since 1970; another value is another server.
    """

    queried_tokens: int
    hit_tokens: int
    created: float | None = None


class Engine(Protocol[R]):
    """An engine that runs, with the prompts of one workload at hand; it ends with its process."""

    version: str
    imported_from: str

    def warm_up(self) -> None:
        """Run what shares nothing with the workload, so that the first request costs no more."""
        ...

    def generate(self, requests: Sequence[R]) -> list[Completion]:
        """Run the requests as one batch and return when all have finished, in their order."""
        ...

    def counters(self) -> Counters:
        """Return the engine's prefix-cache counters."""
        ...

    def policy_state(self) -> Mapping[str, float] | None:
        """Return the eviction policy's state; None for vLLM's own, which keeps none."""
        ...

    def metrics_text(self) -> str | None:
        """Return the engine's metrics in Prometheus' text format; None if it keeps none."""
        ...


def warm_up_prompts(lengths: Sequence[int], vocabulary: int, seed: int) -> list[list[int]]:
    """Return prompts of the shortest, the median and the longest length, of random tokens."""
    rng = random.Random(f"{seed}/warm-up")
    ordered = sorted(lengths)
    places = ((len(ordered) - 1) * i // (_WARM_UP_REQUESTS - 1) for i in range(_WARM_UP_REQUESTS))
    return [rng.choices(range(vocabulary), k=ordered[place]) for place in places]
