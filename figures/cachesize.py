"""Figures 3, 4 and 5: hit rate and predicted mean TTFT against cache size, in tier replay.

Our means over seeds with 95 % intervals, beside the paper's points and under the offline optimum.
"""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis import costmodel, paper
from harness.analysis.policies import OPTIMUM
from harness.analysis.results import Results, not_run
from harness.analysis.stats import mean_interval
from harness.errors import HarnessError
from workloads.docqa import DocQA

# Share of the x axis by which policies are set apart, so that whiskers do not hide each other.
_DODGE = 0.006


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a figure of one workload, or why it was not run.

    Raises:
        HarnessError: if cells ran, and none is valid.

    """
    (workload,), title = entry.workloads, entry.title
    published = paper.joined(workload)
    found = results.of(entry.tier, workload)
    found = found[found["batch_size"] == 1]
    of_all = found
    if not published.empty and entry.packages == ("vllm",):
        # The paper's figures have the paper's policies; policies.md has all.
        found = style.papers_policies(found)
    if reason := not_run(found):
        return style.not_run(title, reason)
    cells = found[found["valid"]]
    invalid = len(found) - len(cells)
    if cells.empty:
        raise HarnessError(captions.none_valid(found))

    style.use()
    panels = 1 if published.empty else 2
    figure, grid = plt.subplots(
        1, panels, figsize=(5.6 * panels + (panels == 1), 4.6), layout="constrained", squeeze=False
    )
    hit_rate = grid[0, 0]
    _ours(hit_rate, cells, "hit_rate")
    _optimum(hit_rate, results.policies, workload)
    hit_rate.set(
        title="(a) Hit rate" if panels > 1 else "Hit rate",
        ylabel=style.HIT_RATE,
    )
    if not published.empty:
        drawn = set(cells["policy"])
        style.paper_lines(hit_rate, published, "hit_rate", drawn)
        ttft = grid[0, 1]
        _ours(ttft, cells, "ttft_mean_ms")
        style.paper_lines(ttft, published, "ttft_mean", drawn)
        ttft.set(title=f"(b) Mean TTFT, predicted for {paper.SETTING}", ylabel="ms (predicted)")
    for axes in grid[0]:
        if cells["x"].max() > 8 * cells["x"].min():
            axes.set_xscale("log")
            axes.set_xticks(sorted(cells["x"].unique()))
            axes.get_xaxis().set_major_formatter(lambda x, _: f"{x:g}")
            axes.minorticks_off()
        axes.set_xlabel("KV cache size, thousand tokens")
    # The legend has room below the curves where it is beside a second panel, else above them.
    style.from_zero(hit_rate, 1.1 if panels > 1 else 1.25)
    hit_rate.legend(
        handles=_legend(cells, results.policies, workload, not published.empty),
        loc="lower right" if panels > 1 else "upper left",
        frameon=True,
        ncols=2,
        fontsize="small",
    )
    style.face(
        figure,
        *_sentences(entry, cells, results, workload, invalid),
        captions.left_out(of_all, cells),
    )
    return figure


def _ours(axes: Axes, cells: pd.DataFrame, column: str) -> None:
    """Draw a line through the means of the seeds, with 95 % intervals."""
    policies = [policy for policy in style.LABELS if policy in set(cells["policy"])]
    logarithmic = cells["x"].max() > 8 * cells["x"].min()
    for place, policy in enumerate(policies):
        by_size = cells[cells["policy"] == policy].groupby("x")[column]
        if by_size.apply(pd.Series.isna).any():
            continue
        offset = _DODGE * (place - (len(policies) - 1) / 2)
        intervals = [mean_interval(list(values)) for _, values in by_size]
        sizes = [float(x) for x in by_size.groups]  # type: ignore[arg-type]
        axes.errorbar(
            [
                x * math.exp(2 * _DODGE * offset)
                if logarithmic
                else x + max(sizes) * _DODGE * offset
                for x in sizes
            ],
            [mean for mean, _ in intervals],
            yerr=[half if half == half else 0.0 for _, half in intervals],
            color=style.COLORS[policy],
            marker=style.MARKERS[policy],
            capsize=3,
            zorder=3,
        )


def _optimum(axes: Axes, policies: pd.DataFrame, workload: str) -> None:
    bound = policies[(policies["workload"] == workload) & (policies["policy"] == OPTIMUM)]
    axes.plot(bound["cache_tokens"] / 1000, bound["hit_rate"], color="black", linestyle="--")


def _legend(
    cells: pd.DataFrame, policies: pd.DataFrame, workload: str, has_paper: bool
) -> list[Line2D]:
    named = set(cells["policy"]) & style.LABELS.keys()
    handles = list(map(style.ours, style.looks(named).values()))
    if OPTIMUM in set(policies[policies["workload"] == workload]["policy"]):
        handles.append(Line2D([], [], color="black", linestyle="--", label="offline optimum"))
    if has_paper:
        handles.append(style.papers())
    return handles


def _sentences(
    entry: Entry, cells: pd.DataFrame, results: Results, workload: str, invalid: int
) -> list[str]:
    params = results.config.workloads[workload]
    requests = sorted(set(cells["requests"]))
    seeds = sorted(set(cells["seed"]))
    what = f"{requests[0]:,} requests"
    if isinstance(params, DocQA):
        text = "synthetic text" if params.corpus == "synthetic" else f"real text ({params.corpus})"
        lengths = (
            "at their own lengths"
            if params.own_lengths
            else f"mean prompt {params.length_mean:,.0f} tokens, at the paper's scale"
        )
        what += f" about {params.documents} documents of {text}, {lengths}"
    what += captions.warm_up(params)
    said = [
        f"{entry.title}. {captions.engine(results, entry)}, batch size 1. {what}; "
        f"{captions.over_seeds(seeds)}."
    ]
    fewer = cells.groupby("policy")["seed"].unique()
    fewer = fewer[fewer.map(len) < len(seeds)]
    if len(fewer):
        names = ", ".join(style.LABELS[policy] for policy in fewer.index)
        only = ", ".join(map(str, sorted({seed for some in fewer for seed in some})))
        said.append(f"{names}: seed {only} only.")
    if cells["ttft_kind"].eq("predicted").any():
        model = costmodel.of_paper(workload)
        assert model is not None
        said.append(
            f"TTFT is predicted from our hit rates: {model.cold_ms:.0f} ms - {model.saved_ms:.0f} "
            "ms x hit rate, fitted on the paper's LRU points only."
        )
    return [*said, captions.not_drawn(invalid)]
