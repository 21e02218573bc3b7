"""Policies against each other and against the bounds: one table a workload.

The rows of ``policies.csv`` are of tier replay at batch size 1. ``kind`` says what a row is:

- ``engine``: the policy in the patched engine.
- ``bound``: what no policy reaches (``bounds``).
- ``chains``, ``told``, ``blocks``: a policy that others propose, replayed outside the engine, which
  sees chains of blocks, is told more than an engine knows, or sees single blocks (``rivals``).
"""

import csv
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness import kvcache
from harness.analysis import equivalent
from harness.analysis.bounds import Bounds, known_popularity
from harness.analysis.hitrate import HitRate
from harness.analysis.rivals import KINDS, Rivals
from harness.analysis.stats import mean_interval
from harness.engines.registry import ENGINES
from harness.errors import HarnessError
from workloads.corpus import QUESTIONS_PER_DOCUMENT
from workloads.docqa import DocQA
from workloads.file import BlockWorkload

OPTIMUM, INFINITE, KNOWN_POPULARITY = "optimum", "infinite", "known-popularity"
_BOUND_COLUMNS = (
    "workload",
    "seed",
    "cache_tokens",
    "policy",
    "kind",
    "hit_rate",
    "hit_rate_per_block",
)
_GROUP = ["workload", "cache_tokens", "kind", "policy"]
# In this order.
_KINDS = {"bound": 0, "engine": 1, "chains": 2, "told": 3, "blocks": 4}


def write_bounds(
    workload: BlockWorkload,
    params: object,
    cache_blocks: Sequence[int],
    *,
    rivals: bool,
    path: Path,
    report: Callable[[str], object],
) -> None:
    """Work out bounds and rivals for one workload and seed, and write them as CSV.

    Args:
        workload: The workload; without requests there are no rows.
        params: What the config says of it; doc-QA also has a bound by popularity.
        cache_blocks: Cache sizes in blocks.
        rivals: Whether to work out the rivals, too.
        path: The CSV file.
        report: Called with a line on the progress.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    block_size = workload.header.block_size
    assert block_size is not None
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_BOUND_COLUMNS)
        for blocks, kind, name, rate in _rates(workload, params, cache_blocks, rivals):
            report(f"{blocks * block_size} tokens, {name}: hit rate {rate.prefix:.3f}")
            tokens = blocks * block_size
            header = workload.header
            writer.writerow(
                [header.name, header.seed, tokens, name, kind, rate.prefix, rate.per_block]
            )
    os.replace(partial, path)


def _rates(
    workload: BlockWorkload, params: object, cache_blocks: Sequence[int], rivals: bool
) -> Iterator[tuple[int, str, str, HitRate]]:
    if not workload.requests:
        return
    bounds = Bounds(workload)
    infinite = bounds.infinite()
    others = Rivals(workload) if rivals else None
    for blocks in cache_blocks:
        yield blocks, "bound", INFINITE, infinite
        yield blocks, "bound", OPTIMUM, bounds.optimum(blocks)
        if isinstance(params, DocQA):
            yield blocks, "bound", KNOWN_POPULARITY, _known_popularity(workload, params, blocks)
        if others is not None:
            for name, kind in KINDS.items():
                yield blocks, kind, name, others.replay(name, blocks)


def _known_popularity(workload: BlockWorkload, params: DocQA, cache_blocks: int) -> HitRate:
    header = workload.header
    block_size = header.block_size
    assert block_size is not None
    lengths = header.document_tokens
    prompt = sum(request.prompt_tokens for request in workload.requests) / len(workload.requests)
    question = prompt - sum(lengths) / len(lengths)
    windows = []
    rankings = params.rankings(header.seed, range(len(lengths)))
    for _, ranking in zip(range(0, len(workload.requests), params.window), rankings, strict=False):
        share = dict(zip(ranking, params.popularity, strict=True))
        # Each document, then the questions about it, all alike.
        documents = [share[i] for i in range(len(lengths))]
        windows.append(
            documents
            + [p / QUESTIONS_PER_DOCUMENT for p in documents for _ in range(QUESTIONS_PER_DOCUMENT)]
        )
    num_questions = QUESTIONS_PER_DOCUMENT * len(lengths)
    return known_popularity(
        windows,
        [length // block_size for length in lengths] + [question / block_size] * num_questions,
        [*lengths, *[question] * num_questions],
        cache_blocks,
        block_size,
    )


def read_bounds(path: Path) -> pd.DataFrame:
    """Read what ``write_bounds`` wrote.

    Raises:
        HarnessError: if it is missing or something else.

    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: no table of bounds: {error}") from None
    if list(table.columns) != list(_BOUND_COLUMNS):
        raise HarnessError(f"{path}: columns {list(table.columns)}, not {list(_BOUND_COLUMNS)}")
    return table


def compare(cells: pd.DataFrame, bounds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return each policy's hit rates, its gain over LRU, and how much of what is possible that is.

    Args:
        cells: Of ``tables.read_cells``.
        bounds: Of ``read_bounds``.

    Returns:
        A row for each workload, cache size and policy: number of ``seeds``; ``hit_rate`` and
        ``hit_rate_per_block``, means over the seeds; ``hit_rate_ci95``, half the width of its
        interval; ``points_over_lru``, the mean over the seeds that both have, and
        ``points_ci95``; ``gap_closed``, that gain as a share of the optimum's where that is known;
        ``lru_tokens``, the cache at which LRU would hit as much (``equivalent``), the geometric
        mean over these seeds; ``unreachable``, of policies in the engine the share of cached blocks
        that no request can use, since not all before them are cached.

    """
    of_one = (cells["mode"] == "batch") & (cells["batch_size"] == 1)
    replayed = cells[(cells["tier"] == "replay") & cells["valid"] & of_one]
    # Another engine's policies have the same names.
    replayed = replayed[replayed["engine"].map(lambda name: ENGINES[name].package) == "vllm"]
    # Of a workload whose data cannot be had there are none, and its columns would not be numbers.
    found = [table.assign(unreachable=np.nan) for table in bounds if not table.empty]
    rows = pd.concat([replayed.assign(kind="engine"), *found], join="inner", ignore_index=True)
    at = ["workload", "cache_tokens", "seed"]
    engine = rows[rows["kind"] == "engine"]
    lru = engine[engine["policy"] == "lru"].set_index(at)["hit_rate"]
    optimum = rows[rows["policy"] == OPTIMUM].set_index(at)["hit_rate"]
    rows = rows.join(lru.rename("lru"), on=at).join(optimum.rename("optimum"), on=at)
    rows["points"] = 100 * (rows["hit_rate"] - rows["lru"])
    rows["lru_tokens"] = _lru_tokens(rows)
    rows["possible"] = 100 * (rows["optimum"] - rows["lru"])
    compared = [
        _compare(dict(zip(_GROUP, key, strict=True)), group) for key, group in rows.groupby(_GROUP)
    ]
    table = pd.DataFrame(compared)
    if table.empty:
        return table.reindex(columns=[*_GROUP, *_COMPARED])
    table["order"] = table["kind"].map(_KINDS)
    table = table.sort_values(
        ["workload", "cache_tokens", "order", "hit_rate"], ascending=[True, True, True, False]
    )
    return table.drop(columns="order").reset_index(drop=True)


def _lru_tokens(rows: pd.DataFrame) -> "pd.Series[float]":
    is_lru = (rows["kind"] == "engine") & (rows["policy"] == "lru")
    curves = {
        key: (list(own["cache_tokens"]), list(own["hit_rate"]))
        for key, own in rows[is_lru].sort_values("cache_tokens").groupby(["workload", "seed"])
    }
    none: tuple[list[float], list[float]] = ([], [])
    found = []
    for workload, seed, hit_rate in zip(
        rows["workload"], rows["seed"], rows["hit_rate"], strict=True
    ):
        sizes, rates = curves.get((workload, seed), none)
        found.append(equivalent.lru_tokens(sizes, rates, hit_rate))
    # Where a larger cache of its own hits no more, it would need less.
    return pd.Series(found, rows.index, dtype=float).mask(is_lru, rows["cache_tokens"])


_COMPARED = (
    "seeds",
    "hit_rate",
    "hit_rate_ci95",
    "hit_rate_per_block",
    "points_over_lru",
    "points_ci95",
    "gap_closed",
    "lru_tokens",
    "unreachable",
)


def _compare(key: dict[str, object], group: pd.DataFrame) -> dict[str, object]:
    mean, half = mean_interval(list(group["hit_rate"]))
    paired = group.dropna(subset=["points"])
    # A config may be without bounds.
    bounded = paired.dropna(subset=["possible"])
    points, points_half = (
        mean_interval(list(paired["points"])) if len(paired) else (float("nan"), float("nan"))
    )
    # An endless cache is no way to close it.
    possible = float("nan") if key["policy"] == INFINITE else bounded["possible"].mean()
    values = (
        len(group),
        mean,
        half,
        group["hit_rate_per_block"].mean(),
        points,
        points_half,
        bounded["points"].mean() / possible if possible else float("nan"),
        _geometric_mean(group["lru_tokens"].dropna()),
        group["unreachable"].astype(float).mean(),
    )
    return {**key, **dict(zip(_COMPARED, values, strict=True))}


def _geometric_mean(values: "pd.Series[float]") -> float:
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(values).mean()).round()) if len(values) else float("nan")


def write(table: pd.DataFrame, csv_path: Path, markdown: Path) -> None:
    """Write what ``compare`` found as CSV and, one table a workload, as Markdown."""
    for path, content in ((csv_path, table.to_csv(index=False)), (markdown, _markdown(table))):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(content)
        os.replace(partial, path)


_INTRODUCTION = """# Policies against each other and against the bounds

Tier replay, batch size 1. Hit rates are fractions, means over the seeds, \N{PLUS-MINUS SIGN} half
the 95 % interval where there are several. *Points* are percentage points over LRU on the same
seeds; *gap* is the share of the way from LRU to the optimum. *Bounds*: the offline optimum knows
all requests to come; known popularity knows each document's, and is a bound on the expectation;
infinite never evicts. *LRU needs*: the cache at which LRU would hit as much, interpolated between
its sizes, and how much more that is, also in GiB of {model}'s KV cache ({bytes:,} bytes a token).
*Unreachable*: cached blocks that are of no use, since not all blocks before them are cached.

Kinds: *engine* is the policy in the patched engine. The others are policies that others propose,
replayed outside it, one request at a time: *chains* see of which prompts blocks are; *told* see
that, too, and are told what no engine knows; *blocks* are libcachesim's, which see single blocks,
know no prefixes and hold nothing for running requests.

For scale: Learned Prefix Caching (Yang et al., NeurIPS '25), which reads the prompts, reports 18 to
47 % less cache than LRU's for as many hits on LMSys, ShareGPT and Chatbot-Arena: LRU would need 22
to 89 % more.
"""


def _markdown(table: pd.DataFrame) -> str:
    model, size = kvcache.DEFAULT, kvcache.MODELS[kvcache.DEFAULT].bytes_per_token
    parts = [_INTRODUCTION.format(model=model, bytes=size)]
    for workload, of_workload in table.groupby("workload", sort=False):
        parts.append(f"## {workload}\n")
        parts.append(
            "| cache, tokens | policy | kind | seeds | hit rate | per block | points | gap "
            "| LRU needs, tokens | unreachable |\n"
            "|---:|---|---|---:|---:|---:|---:|---:|---|---:|"
        )
        rows = of_workload.assign(lru_needs=lru_needs(of_workload))
        parts += [_line(row) for _, row in rows.iterrows()]
        parts.append("")
    return "\n".join(parts)


def _line(row: "pd.Series[Any]") -> str:
    def number(value: object, form: str) -> str:
        return "" if pd.isna(value) else format(value, form)  # type: ignore[call-overload]

    def interval(value: object, half: object, form: str) -> str:
        tail = "" if pd.isna(half) else f" \N{PLUS-MINUS SIGN} {half:{form}}"  # type: ignore[call-overload]
        return number(value, form) + tail

    columns = (
        number(row["cache_tokens"], ","),
        row["policy"],
        row["kind"],
        row["seeds"],
        interval(row["hit_rate"], row["hit_rate_ci95"], ".3f"),
        number(row["hit_rate_per_block"], ".3f"),
        interval(row["points_over_lru"], row["points_ci95"], ".1f"),
        number(row["gap_closed"], ".0%"),
        row["lru_needs"],
        number(row["unreachable"], ".1%"),
    )
    return "| " + " | ".join(map(str, columns)) + " |"


def lru_needs(of_workload: pd.DataFrame) -> list[str]:
    """Say of each row how large LRU's cache would have to be, and how much more that is.

    Args:
        of_workload: All rows of one workload, as ``compare`` returns them.

    """
    is_lru = (of_workload["policy"] == "lru") & (of_workload["kind"] == "engine")
    sizes = of_workload[is_lru]["cache_tokens"]
    gib_a_token = kvcache.MODELS[kvcache.DEFAULT].bytes_per_token / 2**30

    def said(own: float, needed: float) -> str:
        if pd.isna(needed):
            return ""
        if needed in (0, math.inf):
            return f"beyond {sizes.max():,}" if needed else f"below {sizes.min():,}"
        more = needed - own
        # It is between points that are far apart.
        about = float(f"{needed:.3g}")
        return f"{about:,.0f} ({more / own:+.0%}, {more * gib_a_token:+.1f} GiB)"

    needed = of_workload["lru_tokens"].mask(is_lru)
    return list(map(said, of_workload["cache_tokens"], needed))
