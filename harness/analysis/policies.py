"""Policies against each other and against the bounds: one table a workload.

The rows of ``policies.csv`` are of tier replay at batch size 1. ``kind`` says what a row is:

- ``engine``: the policy in the patched engine.
- ``bound``: what no policy reaches (``bounds``).
- ``blocks``: a policy from the literature that sees single blocks and knows no prefixes
  (``rivals``).
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.bounds import Bounds, known_popularity
from harness.analysis.hitrate import HitRate
from harness.analysis.rivals import NAMES, replay
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
_KINDS = {"bound": 0, "engine": 1, "blocks": 2}


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
    for blocks in cache_blocks:
        yield blocks, "bound", INFINITE, infinite
        yield blocks, "bound", OPTIMUM, bounds.optimum(blocks)
        if isinstance(params, DocQA):
            yield blocks, "bound", KNOWN_POPULARITY, _known_popularity(workload, params, blocks)
        for name in NAMES if rivals else ():
            yield blocks, "blocks", name, replay(workload, name, blocks)


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
        ``points_ci95``; ``gap_closed``, that gain as a share of the optimum's.

    """
    replayed = cells[(cells["tier"] == "replay") & cells["valid"] & (cells["batch_size"] == 1)]
    # Another engine's policies have the same names.
    replayed = replayed[replayed["engine"].map(lambda name: ENGINES[name].package) == "vllm"]
    rows = pd.concat([replayed.assign(kind="engine"), *bounds], join="inner", ignore_index=True)
    at = ["workload", "cache_tokens", "seed"]
    engine = rows[rows["kind"] == "engine"]
    lru = engine[engine["policy"] == "lru"].set_index(at)["hit_rate"]
    optimum = rows[rows["policy"] == OPTIMUM].set_index(at)["hit_rate"]
    rows = rows.join(lru.rename("lru"), on=at).join(optimum.rename("optimum"), on=at)
    rows["points"] = 100 * (rows["hit_rate"] - rows["lru"])
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


_COMPARED = (
    "seeds",
    "hit_rate",
    "hit_rate_ci95",
    "hit_rate_per_block",
    "points_over_lru",
    "points_ci95",
    "gap_closed",
)


def _compare(key: dict[str, object], group: pd.DataFrame) -> dict[str, object]:
    mean, half = mean_interval(list(group["hit_rate"]))
    paired = group.dropna(subset=["points", "possible"])
    points, points_half = (
        mean_interval(list(paired["points"])) if len(paired) else (float("nan"), float("nan"))
    )
    # An endless cache is no way to close it.
    possible = float("nan") if key["policy"] == INFINITE else paired["possible"].mean()
    values = (
        len(group),
        mean,
        half,
        group["hit_rate_per_block"].mean(),
        points,
        points_half,
        points / possible if possible else float("nan"),
    )
    return {**key, **dict(zip(_COMPARED, values, strict=True))}


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
infinite never evicts. Policies of kind *blocks* are libcachesim's, which see single blocks, know no
prefixes and hold nothing for running requests.
"""


def _markdown(table: pd.DataFrame) -> str:
    parts = [_INTRODUCTION]
    for workload, of_workload in table.groupby("workload", sort=False):
        parts.append(f"## {workload}\n")
        parts.append(
            "| cache, tokens | policy | kind | seeds | hit rate | per block | points | gap |\n"
            "|---:|---|---|---:|---:|---:|---:|---:|"
        )
        parts += [_line(row) for _, row in of_workload.iterrows()]
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
    )
    return "| " + " | ".join(map(str, columns)) + " |"
