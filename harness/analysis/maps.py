"""Where policies help: what they gain over LRU, by kind of traffic and size of the cache.

There are two maps. One is of *documents*: how skewed their use is, and the cache as a share of the
working set, which is all distinct tokens asked for. One is of *conversations*: how long users
think, and so how many sessions are live, and the cache as a multiple of what live sessions hold.
All but the Zipf exponent and the think time, which configs give, is measured of the requests
(``traffic``), so that other traffic can be put on a map by the same measures.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.results import Results
from harness.analysis.traffic import Traffic
from harness.errors import HarnessError
from harness.policies import POLICIES
from workloads.docqa import DocQA
from workloads.sharegpt import ShareGPT

SHIPPED = Path(__file__).parents[2] / "reference" / "map" / "map.csv"
"""The table of a run of ``config/map.yaml``."""

Kind = Literal["documents", "conversations"]
COLUMNS = (
    "kind",
    "size",
    "workload",
    "given",
    "measure",
    "holds_tokens",
    "cache_tokens",
    "share",
    "arc",
    "best",
    "best_policy",
)
# Requests a session, from which on traffic is taken for conversations: half are of later turns.
_TURNS = 2
# A cache so many times smaller or larger than any on the map is beyond it.
_FAR = 1.5


def kind_of(traffic: Traffic) -> Kind:
    """Return the map that traffic belongs to: that of conversations if most requests go on one."""
    many = traffic.sessions is not None and traffic.requests >= _TURNS * traffic.sessions
    return "conversations" if many and traffic.live_sessions else "documents"


def holds_tokens(traffic: Traffic, kind: Kind) -> float:
    """Return what a cache is held against: the working set, or what live sessions hold."""
    if kind == "documents":
        return traffic.working_set_tokens
    assert traffic.live_tokens is not None
    return traffic.live_tokens


def measure(traffic: Traffic, kind: Kind) -> float:
    """Return what tells traffic of one kind apart: ``top_tenth``, or ``live_sessions``."""
    if kind == "documents":
        return traffic.top_tenth
    assert traffic.live_sessions is not None
    return traffic.live_sessions


def table(results: Results, traffics: Sequence[Traffic]) -> pd.DataFrame:
    """Return the map of a config that has one.

    Args:
        results: Of the config's run.
        traffics: Of its workloads of tier replay; those that are missing are not on the map.

    Returns:
        A row for each workload and cache size (``COLUMNS``): ``size`` is *reduced*, *full* or, of
        a real trace, *trace*; ``given`` the Zipf exponent or the mean think time in seconds, not a
        number of a trace; ``measure`` and ``holds_tokens`` of the functions of that name; ``share``
        the cache over the latter; ``arc`` and ``best`` the points over LRU of ARC and of the best
        policy but LRU, whose name is ``best_policy``.

    Raises:
        HarnessError: if there is nothing to draw.

    """
    asked = results.config.map
    assert asked is not None
    found = results.policies
    gains = found[
        (found["kind"] == "engine") & (found["policy"] != "lru") & found["points_over_lru"].notna()
    ]
    rows = []
    for traffic in traffics:
        params = results.config.workloads[traffic.name]
        size, given, kind = "trace", np.nan, kind_of(traffic)
        if isinstance(params, DocQA | ShareGPT):
            size = "full" if traffic.name in asked.full_size else "reduced"
        if isinstance(params, DocQA):
            kind, given = "documents", params.zipf_exponent
        elif isinstance(params, ShareGPT):
            kind, given = "conversations", params.think_time_mean
        holds = holds_tokens(traffic, kind)
        own = gains[gains["workload"] == traffic.name]
        for tokens, at_size in own.groupby("cache_tokens"):
            points = at_size.set_index("policy")["points_over_lru"]
            rows.append(
                {
                    "kind": kind,
                    "size": size,
                    "workload": traffic.name,
                    "given": given,
                    "measure": measure(traffic, kind),
                    "holds_tokens": holds,
                    "cache_tokens": tokens,
                    "share": float(str(tokens)) / holds,
                    "arc": points.get("arc"),
                    "best": points.max(),
                    "best_policy": points.idxmax(),
                }
            )
    made = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(
        ["kind", "size", "given", "workload", "cache_tokens"], ignore_index=True
    )
    if made[made["size"] == "reduced"].empty:
        raise HarnessError(f"{results.folder}: no valid cells to make a map of")
    return made


def write(made: pd.DataFrame, path: Path) -> None:
    """Write what ``table`` made as CSV, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(made.to_csv(index=False, float_format="%.6g"))
    os.replace(partial, path)


def read(path: Path) -> pd.DataFrame:
    """Read what ``write`` wrote.

    Raises:
        HarnessError: if it is missing or something else.

    """
    try:
        found = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: no map: {error}") from None
    if list(found.columns) != list(COLUMNS):
        raise HarnessError(f"{path}: columns {list(found.columns)}, not {list(COLUMNS)}")
    return found


def of(made: pd.DataFrame, kind: Kind, size: str) -> pd.DataFrame:
    """Return the rows of a kind and size."""
    return made[(made["kind"] == kind) & (made["size"] == size)]


def given(made: pd.DataFrame, kind: Kind, own: float) -> float:
    """Return the exponent or think time at which the map's own workloads have a measure.

    It is interpolated between them; at the map's edge for a measure beyond it.
    """
    known = of(made, kind, "reduced").drop_duplicates("workload").sort_values("measure")
    if kind == "documents":
        return float(np.interp(own, known["measure"], known["given"]))
    # Of sessions and seconds, it is ratios that count.
    logs = np.interp(np.log(own), np.log(known["measure"]), np.log(known["given"]))
    return float(np.exp(logs))


def between(
    own: pd.DataFrame, shares: npt.NDArray[np.float64], column: str
) -> npt.NDArray[np.float64]:
    """Return one workload's values at other shares, interpolated between its own on a logarithmic
    scale; not a number beyond these.
    """
    own = own.sort_values("share")
    x = np.log(own["share"])
    # What was computed twice may differ in its last digit.
    at = np.log(shares)
    inside = (at > x.iloc[0] - 1e-6) & (at < x.iloc[-1] + 1e-6)
    return np.where(inside, np.interp(at, x, own[column]), np.nan)


def rms(made: pd.DataFrame, kind: Kind, column: str) -> tuple[float, int]:
    """Return by how much points at full size differ from the map: root mean square, and of how
    many.
    """
    reduced = of(made, kind, "reduced")
    differences = [
        own[column].to_numpy()
        - between(reduced[reduced["given"] == value], own["share"].to_numpy(), column)
        for value, own in of(made, kind, "full").groupby("given")
        if (reduced["given"] == value).any()
    ]
    found = np.concatenate([np.empty(0), *differences])
    found = found[~np.isnan(found)]
    return (float(np.sqrt(np.mean(found**2))) if len(found) else np.nan), len(found)


def sentence(made: pd.DataFrame, traffic: Traffic, cache_tokens: int) -> str:
    """Say what the map has at its point that is nearest to traffic and a cache."""
    kind = kind_of(traffic)
    own = measure(traffic, kind)
    share = cache_tokens / holds_tokens(traffic, kind)
    reduced = of(made, kind, "reduced")
    if reduced.empty:
        return f"The map has no {kind} to hold this traffic against."
    near = reduced[reduced["given"] == _nearest(reduced["given"], given(made, kind, own))]
    row: Any = near[near["share"] == _nearest(near["share"], share)].iloc[0]
    best = POLICIES[row["best_policy"]].label if row["best_policy"] in POLICIES else "another"
    where, nearest = (
        (
            f"{share:.2g} of its working set, of whose blocks the most used tenth gets "
            f"{100 * own:.0f} % of look-ups",
            f"documents of Zipf exponent {row['given']:g}, {100 * row['measure']:.0f} % and "
            f"{row['share']:.2g}",
        )
        if kind == "documents"
        else (
            f"{share:.2g} times what its {own:.3g} live sessions hold",
            f"conversations with {row['measure']:.3g} live sessions, {row['share']:.2g} times",
        )
    )
    edge = (
        " It lies beyond the map's edge."
        if not reduced["measure"].min() <= own <= reduced["measure"].max()
        or not near["share"].min() / _FAR <= share <= near["share"].max() * _FAR
        else ""
    )
    said = (
        f"On the map of {kind}, where this cache is {where}, the nearest point ({nearest}) has ARC "
        f"at {row['arc']:+.1f} points over LRU and the best other policy, {best}, at "
        f"{row['best']:+.1f}.{edge}"
    )
    return re.sub(r"-(?=\d)", "\N{MINUS SIGN}", said)


def _nearest(values: "pd.Series[float]", wanted: float) -> float:
    """Return the value that is nearest, by ratio where all are above 0."""
    known = values.to_numpy()
    by_ratio = (known > 0).all()
    away = np.abs(np.log(known / wanted)) if by_ratio else np.abs(known - wanted)
    return float(known[away.argmin()])
