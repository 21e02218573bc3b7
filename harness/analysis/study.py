"""The answer to the question of one traffic's owner: which policy, and what it is worth.

Every interval is of 95 %, over what other requests of the same kind would have it: sessions are
drawn anew or, of requests that are in none, blocks of consecutive ones, the same ones in all cells.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.analysis import equivalent, maps
from harness.analysis.policies import INFINITE, OPTIMUM
from harness.analysis.results import Results, not_run
from harness.analysis.stats import Interval, Sums, blocks
from harness.analysis.traffic import Traffic
from harness.config import Study
from harness.errors import HarnessError
from harness.policies import POLICIES

_BASE = "lru"
# With fewer sessions, an interval over them says little.
_LEAST_SESSIONS = 20
# With fewer requests, nothing that is measured is more than these requests.
_LEAST_REQUESTS = 20
_UNCLEAR = " The interval of points holds zero: this traffic cannot tell the two apart."
COLUMNS = (
    "policy",
    "kind",
    "cache_tokens",
    "cache_gib",
    *(
        f"{name}{end}"
        for name in ("hit_rate", "points_over_lru", "ttft_ms", "ttft_percent_of_lru", "lru_tokens")
        for end in ("", "_low", "_high")
    ),
)

_Array = npt.NDArray[np.float64]


class Answer(BaseModel):
    """What the page says first.

    ``traffic`` is what was asked of the engine, ``sentences`` the answer, ``remarks`` what a reader
    should know of the numbers, ``policy`` the one to take.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str
    traffic: str
    sentences: list[str]
    remarks: list[str]


def answer(
    results: Results, traffic: Traffic, shipped: pd.DataFrame | None = None
) -> tuple[Answer, pd.DataFrame]:
    """Answer from the results of a config that has a ``study``.

    Args:
        results: Of the config's run.
        traffic: What was asked.
        shipped: A map (``maps``) to say where the traffic lies on; None: it is not said.

    Returns:
        The answer, and a row for each policy, bound and cache size (``COLUMNS``): ``hit_rate`` as a
        fraction; ``points_over_lru``; ``ttft_ms``, predicted, and its ``ttft_percent_of_lru`` less
        100; ``lru_tokens``, the cache at which LRU would hit as much, interpolated between the
        sizes on a logarithmic scale, infinite beyond the largest, 0 below the smallest.
        With ``_low`` and ``_high``, the ends of its interval; not a number where there is none.

    Raises:
        HarnessError: if there are no valid cells, or files of theirs are damaged.

    """
    study = results.config.study
    assert study is not None
    ((workload, _),) = results.config.replayed
    found = results.of("replay", workload)
    if reason := not_run(found):
        raise HarnessError(f"{workload}: {reason}")
    cells = found[found["valid"]].sort_values(["cache_tokens", "policy"])
    if cells.empty:
        raise HarnessError(f"{workload}: no cell is valid; {results.folder}/cells.csv says why")
    table = pd.DataFrame(
        [*_rows(results, study, cells), *_bounds(results, study, workload)], columns=list(COLUMNS)
    )
    said = _said(study, traffic, table, results)
    # Where no policy can differ from another, the map, where they do, says nothing.
    if shipped is not None and not _why_alike(traffic, study.cache_tokens):
        where = maps.sentence(shipped, traffic, study.cache_tokens)
        said = said.model_copy(update={"sentences": [*said.sentences, where]})
    return said, table


def _rows(results: Results, study: Study, cells: pd.DataFrame) -> list[dict[str, Any]]:
    requests = {
        (str(cell["policy"]), int(cell["cache_tokens"])): results.requests(cell)
        for _, cell in cells.iterrows()
    }
    first = next(iter(requests.values()))
    keys = list(requests)
    columns = np.column_stack(
        [
            np.ones(len(first)),
            first["prompt_tokens"],
            *(own["cached_tokens"] for own in requests.values()),
        ]
    )
    sums = Sums(columns, clusters(first))
    at = {key: 2 + place for place, key in enumerate(keys)}
    lru = {size: at[policy, size] for policy, size in keys if policy == _BASE}

    rows = []
    for policy, size in keys:
        place, base = at[policy, size], lru.get(size)
        row: dict[str, Any] = {"policy": policy, "kind": "engine"} | _size(study, size)
        row |= _ends("hit_rate", sums.interval(partial(_hit_rate, place)))
        row |= _ends("ttft_ms", sums.interval(partial(_ttft, study, place)))
        if base is not None and policy != _BASE:
            statistics = {
                "points_over_lru": partial(_points, place, base),
                "ttft_percent_of_lru": partial(_percent_of, study, place, base),
                "lru_tokens": partial(_lru_tokens, place, lru),
            }
            for name, statistic in statistics.items():
                row |= _ends(name, sums.interval(statistic))
        rows.append(row)
    return rows


def clusters(requests: pd.DataFrame) -> npt.NDArray[Any]:
    """Return the cluster of each request: its session, or a block of consecutive requests."""
    sessions = requests["session"]
    if sessions.isna().any() or sessions.nunique() < _LEAST_SESSIONS:
        return blocks(len(requests))
    return np.asarray(sessions)


# Statistics of sums: of requests, their prompt tokens, and at each place a cell's cached tokens.


def _hit_rate(place: int, total: _Array) -> _Array:
    return np.asarray(total[..., place] / total[..., 1])


def _points(place: int, base: int, total: _Array) -> _Array:
    return 100 * (_hit_rate(place, total) - _hit_rate(base, total))


def _ttft(study: Study, place: int, total: _Array) -> _Array:
    computed = (total[..., 1] - total[..., place]) / total[..., 0]
    return np.asarray(study.base_ms + study.ms_per_token * computed)


def _percent_of(study: Study, place: int, base: int, total: _Array) -> _Array:
    return 100 * (_ttft(study, place, total) / _ttft(study, base, total) - 1)


def _lru_tokens(place: int, lru: Mapping[int, int], total: _Array) -> _Array:
    """Return the cache at which LRU would hit as much as a policy."""
    sizes = sorted(lru)
    hits = np.stack([total[..., lru[size]] for size in sizes], -1).reshape(-1, len(sizes))
    wanted = total[..., place]
    found = [
        equivalent.lru_tokens(sizes, list(own), hit)
        for own, hit in zip(hits, np.atleast_1d(wanted), strict=True)
    ]
    return np.reshape(found, np.shape(wanted))


def _bounds(results: Results, study: Study, workload: str) -> list[dict[str, Any]]:
    table = results.policies
    bounds = table[(table["workload"] == workload) & (table["kind"] == "bound")]
    return [
        {"policy": row["policy"], "kind": "bound", "hit_rate": row["hit_rate"]}
        | _size(study, int(row["cache_tokens"]))
        for _, row in bounds.iterrows()
    ]


def _size(study: Study, tokens: int) -> dict[str, float]:
    return {"cache_tokens": tokens, "cache_gib": study.gib(tokens)}


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def _said(study: Study, traffic: Traffic, table: pd.DataFrame, results: Results) -> Answer:
    sizes = sorted(set(table[table["kind"] == "engine"]["cache_tokens"]))
    chosen = min(sizes, key=lambda size: abs(size - study.cache_tokens))
    here = table[table["cache_tokens"] == chosen]
    own = here[here["kind"] == "engine"]
    # Of those that hit as much, LRU is the one to take: it is what there is.
    order = own.assign(other=own["policy"] != _BASE).sort_values(
        ["hit_rate", "other"], ascending=[False, True]
    )
    by_policy: dict[str, dict[str, Any]] = {str(row["policy"]): row for row in _records(order)}
    best, row = next(iter(by_policy.items()))
    bounds = here[here["kind"] == "bound"].set_index("policy")["hit_rate"]
    said = [f"{_label(best)} hits {_percent(row, 'hit_rate', 100, '')} of all prompt tokens"]
    if len(by_policy) > 1 and own["hit_rate"].nunique() == 1:
        said[0] += f", as do all {len(by_policy)} policies"
    elif len(by_policy) > 1:
        said[0] += f", the most of {len(by_policy)} policies"
        second, other = list(by_policy.items())[1]
        said.append(f"next is {_label(second)} with {100 * other['hit_rate']:.1f} %")
        if _BASE in by_policy and _BASE not in (best, second):
            said.append(f"LRU hits {100 * by_policy[_BASE]['hit_rate']:.1f} %")
    said += [
        f"{what} would hit {100 * bounds[name]:.1f} %"
        for name, what in ((OPTIMUM, "the offline optimum"), (INFINITE, "an endless cache"))
        if name in bounds
    ]
    gib = f"{study.gib(chosen):.3g} GiB of KV cache for {study.model}"
    first = f"At {chosen:,} tokens ({gib}), {'; '.join(said)}."
    sentences = [first, *_why_alike(traffic, chosen), *_worth(study, by_policy, best, sizes)]
    remarks = [
        "In brackets: 95 % intervals over "
        + (
            "sessions"
            if traffic.sessions is not None and traffic.sessions >= _LEAST_SESSIONS
            else "blocks of consecutive requests"
        )
        + " drawn anew, within which other traffic of the same kind would have it. The hit rates "
        "themselves repeat exactly.",
        f"TTFT is predicted: {study.base_ms:.0f} ms + {1000 * study.ms_per_token:.1f} ms for each "
        f"thousand prompt tokens that are not cached, by {study.ttft_from}; waiting is not in it.",
        "Requests are replayed one at a time, in their order, and ask for one token each: an "
        "answer is in the cache once a later prompt has it.",
    ]
    if traffic.requests < _LEAST_REQUESTS:
        remarks.insert(
            0,
            f"The log has {traffic.requests} request{'s' if traffic.requests > 1 else ''}, too few "
            "to say anything of other traffic: take a longer one.",
        )
    invalid = int((~results.cells["valid"].astype(bool)).sum())
    if invalid:
        remarks.append(f"{invalid} cells are not valid and not in it; cells.csv says why.")
    return Answer(policy=best, traffic=traffic.sentence, sentences=sentences, remarks=remarks)


def _why_alike(traffic: Traffic, chosen: int) -> list[str]:
    """Say why no policy can differ from another, if it is plain from the traffic."""
    if not traffic.seen_before:
        return ["No block of the prompts was asked for twice: no cache of any size can hit."]
    if chosen >= traffic.working_set_tokens:
        return ["It holds all that was asked for: no policy evicts anything."]
    return []


def _worth(
    study: Study, own: Mapping[str, Mapping[str, Any]], best: str, sizes: Sequence[int]
) -> list[str]:
    if _BASE not in own:
        return ["LRU was not replayed, so what that gains is not known."]
    others = [policy for policy in own if policy != _BASE]
    if best == _BASE:
        if not others:
            return ["No other policy was replayed."]
        if all(row["hit_rate"] == own[_BASE]["hit_rate"] for row in own.values()):
            return ["So no other policy gains anything over LRU here, nor saves it any cache."]
        row = own[others[0]]
        unclear = _UNCLEAR if row["points_over_lru_high"] >= 0 else ""
        return [
            f"The nearest, {_label(others[0])}, changes the hit rate by "
            f"{_number(row, 'points_over_lru', ' points')} and predicted mean TTFT by "
            f"{_percent(row, 'ttft_percent_of_lru', 1, '+')}.{unclear}",
            "So no other policy saves LRU any cache here.",
        ]
    row, base = own[best], own[_BASE]
    unclear = _UNCLEAR if row["points_over_lru_low"] <= 0 else ""
    gain = (
        f"Over LRU it gains {_number(row, 'points_over_lru', ' points')} and changes predicted "
        f"mean TTFT by {_percent(row, 'ttft_percent_of_lru', 1, '+')}, from "
        f"{base['ttft_ms']:,.0f} to {row['ttft_ms']:,.0f} ms.{unclear}"
    )
    size, largest = float(row["cache_tokens"]), max(sizes)
    if math.isinf(row["lru_tokens"]):
        needs = (
            f"For as many hits LRU would need more than {largest:,} tokens, the largest size "
            f"replayed: over {largest / size:.2g} times the cache."
        )
    else:
        low, high = row["lru_tokens_low"], row["lru_tokens_high"]
        top = f"over {largest:,}" if math.isinf(high) else _tokens(high)
        bottom = _tokens(low) if low else f"under {min(sizes):,}"
        between = "" if math.isnan(low) else f" [{bottom} to {top}]"
        needs = (
            f"For as many hits LRU would need {_tokens(row['lru_tokens'])} tokens{between}, "
            f"{row['lru_tokens'] / size:.2f} times the cache "
            f"({study.gib(row['lru_tokens'] - size):.3g} GiB more)."
        )
    return [gain, needs]


def _label(policy: str) -> str:
    return POLICIES[policy].label if policy in POLICIES else policy


def _tokens(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.0f}"


def _percent(row: Mapping[str, Any], name: str, factor: float, sign: str) -> str:
    return _number(row, name, " %", factor, sign)


def _number(
    row: Mapping[str, Any], name: str, unit: str, factor: float = 1, sign: str = "+"
) -> str:
    """Write a value with its unit and its interval, if it has one."""
    value, low, high = (factor * float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    ends = "" if math.isnan(low) else f" [{low:{sign}.1f} to {high:{sign}.1f}]"
    return f"{value:{sign}.1f}{unit}{ends}".replace("-", "\N{MINUS SIGN}")


def write(found: Answer, table: pd.DataFrame, path: Path, csv: Path) -> None:
    """Write an answer as JSON and its table as CSV, each whole or not at all."""
    for file, content in (
        (csv, table.to_csv(index=False)),
        (path, json.dumps(found.model_dump(), indent=2, ensure_ascii=False) + "\n"),
    ):
        unfinished = file.with_name(f".{file.name}.partial")
        unfinished.write_text(content, "utf-8")
        os.replace(unfinished, file)


def read(path: Path) -> Answer:
    """Read what ``write`` wrote.

    Raises:
        HarnessError: if it is missing or damaged.

    """
    try:
        return Answer.model_validate_json(path.read_text("utf-8"))
    except (OSError, ValidationError) as error:
        raise HarnessError(
            f"{path}: no answer: {error}; remove it and run the same command again"
        ) from None


def read_table(path: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of the table that ``write`` wrote; raises as ``read``."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: not readable: {error}") from None
    if list(table.columns) != list(COLUMNS):
        raise HarnessError(f"{path}: columns {list(table.columns)}, not {list(COLUMNS)}")
    return _records(table.astype(object).where(table.notna(), None))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for _, row in table.iterrows()]
