"""The measured cost line: TTFT from what had to be computed, fitted on the cells of one group.

A policy changes TTFT through what is cached, so its effect is the line's value at what it left to
compute, over the line's at what LRU left, request by request. What a machine does meanwhile moves
single requests, and a mean of theirs with it, but hardly a line through all requests of all cells
of the group: on five runs the estimate differed by a fifth to two thirds of what the ratio of means
did. In a batch, a request waits for all that is computed before its own first token: that counts
(``work``). Means of batches in the place of requests will not do: what a batch's mean TTFT is of
depends on how the engine cut the batch into steps, and a slope from a regressor that is wrong by
chance is too flat (-4.5 to -6.5 % in three runs of batches of 32, for -5.3 to -5.9 % by this one).

A line for each engine by itself tells how sure that is: the engines are independent, and all see
the same requests. (``costmodel`` is another line, through the paper's points.)
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from statsmodels.robust.norms import HuberT
from statsmodels.robust.robust_linear_model import RLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning, SingularMatrixWarning

# First tokens of one step are that close, as a share of TTFT; steps are further apart.
_ONE_STEP = 0.03
# Fewer batches with equal hits say nothing.
_LEAST_EQUAL = 8
_PARAMETERS = 3

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What a policy does to mean TTFT, in percent of LRU's, less 100.

    ``value`` is through hits, by the line of all cells; ``of_engines`` the same by the line of each
    cell alone. ``plain`` is the ratio of means. ``equal_hits`` is that over batches that computed
    as much under both: the policy's own cost, 0 if it has none; ``did`` the difference in
    differences, the effect on the others less that on these, weighted by how many they are, which
    needs no line; both None where too few are equal. ``residuals`` has of each cell of LRU the
    logarithm of its mean TTFT over the line's, and ``own_cost`` the policy's less their mean, in
    percent: how much slower it is than its hits say.
    """

    value: float
    of_engines: tuple[float, ...]
    plain: float
    equal_hits: float | None
    did: float | None
    residuals: tuple[float, ...]
    own_cost: float


def effect(
    base: Sequence[pd.DataFrame], policy: Sequence[pd.DataFrame], batch_size: int
) -> Effect | None:
    """Compare a policy's cells with LRU's; None of so few requests that there is no line.

    Args:
        base: The requests of each cell of LRU (``Results.requests``), the same in all.
        policy: Those of each cell of the policy.
        batch_size: Requests sent together.

    """
    return compare(*([work(requests, batch_size) for requests in part] for part in (base, policy)))


def compare(base: Sequence[pd.DataFrame], policy: Sequence[pd.DataFrame]) -> Effect | None:
    """Compare the ``work`` of a policy's cells with that of LRU's; see ``effect``."""
    of_cells = [*base, *policy]
    if of_cells[0]["batch"].nunique() <= _PARAMETERS:
        return None
    at_base = np.mean([terms(one).mean(axis=0) for one in base], axis=0)
    at_policy = np.mean([terms(one).mean(axis=0) for one in policy], axis=0)
    line = fit(of_cells)

    def through_hits(parameters: _Array) -> float:
        return float(100 * (at_policy @ parameters / (at_base @ parameters) - 1))

    residuals = [
        float(np.log(one["ttft_ms"].mean() / (terms(one) @ line).mean())) for one in of_cells
    ]
    of_base = residuals[: len(base)]
    means = [one.groupby("batch")[["ttft_ms", "own"]].mean() for one in of_cells]
    ttft_base, ttft_policy = (
        np.mean([one["ttft_ms"] for one in part], axis=0)
        for part in (means[: len(base)], means[len(base) :])
    )
    equal = np.all([one["own"] == means[0]["own"] for one in means], axis=0)
    equal_hits = did = None
    if equal.sum() >= _LEAST_EQUAL:
        own = ttft_policy[equal].mean() - ttft_base[equal].mean()
        equal_hits = float(100 * own / ttft_base[equal].mean())
        if not equal.all():
            rest = (ttft_policy - ttft_base)[~equal].mean() - own
            did = float(100 * rest * (~equal).mean() / ttft_base.mean())
    return Effect(
        value=through_hits(line),
        of_engines=tuple(through_hits(fit([one])) for one in of_cells),
        plain=float(100 * (ttft_policy.mean() / ttft_base.mean() - 1)),
        equal_hits=equal_hits,
        did=did,
        residuals=tuple(of_base),
        own_cost=float(100 * np.expm1(np.mean(residuals[len(base) :]) - np.mean(of_base))),
    )


def work(requests: pd.DataFrame, batch_size: int) -> pd.DataFrame:
    """Return what an engine computed until each request's first token.

    That is the request's own tokens and those of all of its batch whose first token was not later:
    first tokens of one step come almost together.

    Returns:
        A row a request: ``ttft_ms``; its ``batch``; ``own`` uncached tokens; ``uncached``, those
        computed until then; ``uncached_prompt``, the sum of these, each times its prompt's length.

    """
    ttft = requests["ttft_ms"].to_numpy(float)
    prompt = requests["prompt_tokens"].to_numpy(float)
    own = prompt - requests["cached_tokens"].to_numpy(float)
    batch = np.arange(len(requests)) // batch_size
    uncached, uncached_prompt = own.copy(), own * prompt
    for start in range(0, len(requests), batch_size) if batch_size > 1 else ():
        of_batch = slice(start, start + batch_size)
        is_before = ttft[of_batch] <= (1 + _ONE_STEP) * ttft[of_batch, None]
        uncached[of_batch] = is_before @ own[of_batch]
        uncached_prompt[of_batch] = is_before @ (own * prompt)[of_batch]
    return pd.DataFrame(
        {
            "ttft_ms": ttft,
            "batch": batch,
            "own": own,
            "uncached": uncached,
            "uncached_prompt": uncached_prompt,
        }
    )


def terms(of_cell: pd.DataFrame) -> _Array:
    """Return what the line is a sum of: a constant, the linear layers' work, attention's."""
    computed = of_cell[["uncached", "uncached_prompt"]].to_numpy(float)
    return np.column_stack([np.ones(len(computed)), computed])


def fit(of_cells: Sequence[pd.DataFrame]) -> _Array:
    """Fit the line robustly (Huber, *Annals of Mathematical Statistics* 35, 1964)."""
    computed = np.concatenate([terms(one) for one in of_cells])
    ttft = np.concatenate([one["ttft_ms"].to_numpy(float) for one in of_cells])
    # Terms of one size, or the fit is ill-conditioned.
    size = np.maximum(computed.mean(axis=0), 1e-9)
    with warnings.catch_warnings():
        # Of points on a line there is no scale to be robust against; of prompts of one length, two
        # terms are the same.
        for kind in (ConvergenceWarning, RuntimeWarning, SingularMatrixWarning):
            warnings.simplefilter("ignore", kind)
        found: _Array = np.asarray(RLM(ttft, computed / size, M=HuberT()).fit().params) / size
    if not np.isfinite(found).all():
        found = np.linalg.lstsq(computed / size, ttft, rcond=None)[0] / size
    return found
