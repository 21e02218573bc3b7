"""Mean TTFT predicted from the hit rate, for tiers that have no clock.

Prefill computes what the cache does not hold, so with requests that do not wait for each other
mean TTFT is close to linear in the hit rate. The line is fitted by least squares on the paper's
LRU points of a workload; its ARC and DBL points are not used, so that they can check it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.analysis import paper
from harness.errors import HarnessError
from workloads.docqa import DocQA

FITTED_ON = "lru"


@dataclass(frozen=True)
class CostModel:
    """TTFT in ms = ``cold_ms`` - ``saved_ms`` x hit rate (contiguous prefix, fraction)."""

    cold_ms: float
    saved_ms: float

    def ttft_ms(self, hit_rate: float) -> float:
        """Return the predicted mean TTFT in ms."""
        return self.cold_ms - self.saved_ms * hit_rate


def fit(points: pd.DataFrame) -> CostModel:
    """Fit the line to points with ``hit_rate`` and ``ttft_mean`` (ms); at least two."""
    slope, intercept = np.polyfit(points["hit_rate"], points["ttft_mean"], deg=1)
    return CostModel(cold_ms=float(intercept), saved_ms=float(-slope))


def of_paper(workload: str) -> CostModel | None:
    """Return the model fitted on the paper's LRU points of a workload; None if it has none."""
    points = paper.joined(workload)
    points = points[points["policy"] == FITTED_ON]
    return None if points.empty else fit(points)


def check(workload: str) -> pd.DataFrame:
    """Compare the model with the paper's points that it was not fitted on.

    Returns:
        ``policy``, ``cache_tokens``, ``ttft_mean`` (ms, the paper's), ``predicted`` (ms), ``error``
        (fraction of the paper's).

    """
    model = of_paper(workload)
    points = paper.joined(workload)
    unseen = points[points["policy"] != FITTED_ON]
    if model is None:
        return unseen.assign(predicted=[], error=[])
    predicted = unseen["hit_rate"].map(model.ttft_ms)
    return unseen.assign(predicted=predicted, error=predicted / unseen["ttft_mean"] - 1).drop(
        columns="hit_rate"
    )


@dataclass(frozen=True)
class TokenLine:
    """TTFT in ms = ``base_ms`` + ``ms_per_token`` x tokens that were not cached.

    ``source`` says where the line is from.
    """

    base_ms: float
    ms_per_token: float
    source: str


# Mean prompt of the doc-QA that the paper's line is of.
_PAPERS_WORKLOAD, _PAPERS_PROMPT = "docqa-quality", DocQA().length_mean


def of_papers_tokens() -> TokenLine:
    """Return the paper's line by tokens computed, for prompts of any length."""
    model = of_paper(_PAPERS_WORKLOAD)
    assert model is not None
    return TokenLine(
        model.cold_ms - model.saved_ms,
        model.saved_ms / _PAPERS_PROMPT,
        f"the paper's line ({paper.SETTING})",
    )


def of_points(text: str) -> TokenLine:
    """Return the line through two points of one's own, as ``1000:80,15000:900``.

    Args:
        text: Twice prompt tokens, none of them cached, and mean TTFT in ms.

    Raises:
        HarnessError: if it is something else, or the longer prompt is not slower.

    """
    try:
        (few, fast), (many, slow) = sorted(
            tuple(map(float, point.split(":", 1))) for point in text.split(",")
        )
        return _line([few, many], [fast, slow], "your two points")
    except ValueError:
        raise HarnessError(
            f"TTFT {text}: not two points of prompt tokens and ms, as 1000:80,15000:900, of which "
            "the longer prompt is slower"
        ) from None


def of_bench(path: Path) -> TokenLine:
    """Return the line through the requests of a result of ``vllm bench serve``.

    Its prompts have to be of different lengths and share nothing, as those of ``--dataset-name
    random --random-range-ratio 0.9`` do, and few at a time, so that none waits.

    Raises:
        HarnessError: if it is none, or has no details of its requests.

    """
    try:
        found = json.loads(path.read_text())
        lengths, ttfts = found["input_lens"], found["ttfts"]
        # Of a request that failed it is 0.
        pairs = [(n, 1000 * t) for n, t in zip(lengths, ttfts, strict=True) if t]
        return _line(
            [tokens for tokens, _ in pairs],
            [ms for _, ms in pairs],
            f"{path.name} of vllm bench serve",
        )
    except OSError as error:
        raise HarnessError(f"{path}: no result of vllm bench serve: {error.strerror}") from None
    except (KeyError, TypeError) as error:
        raise HarnessError(
            f"{path}: a result without its requests ({error}): run vllm bench serve with "
            "--save-result --save-detailed"
        ) from None
    except ValueError as error:
        raise HarnessError(
            f"{path}: no line from prompt length to TTFT: {error}; send prompts of different "
            "lengths that share nothing, as with --dataset-name random --random-range-ratio 0.9"
        ) from None


def _line(tokens: list[float], ttft_ms: list[float], source: str) -> TokenLine:
    if len(set(tokens)) < 2:
        raise ValueError("all prompts have one length")
    slope, intercept = np.polyfit(tokens, ttft_ms, deg=1)
    if not slope > 0:
        raise ValueError("longer prompts are not slower")
    # What is below 0 is the curve of a prefill that is not quite linear.
    return TokenLine(max(0.0, float(intercept)), float(slope), source)
