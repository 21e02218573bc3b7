"""What the figures of online traffic share: which cells are held against each other, and how."""

import textwrap
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis.results import Results, not_run, of_patched
from harness.analysis.stats import blocks
from harness.cell import Load, OpenLoop
from harness.errors import HarnessError

# Of a title above a panel that is four inches wide.
_CHARACTERS = 50
# The line of cells that repeat others.
AGAIN: Literal[":"] = ":"


@dataclass(frozen=True)
class Panel:
    """Cells that differ in policy and seed only.

    ``cells`` are valid, of one workload, load and cache size, and of the same seeds for all
    policies; ``again`` repeat some of them, for the noise.
    """

    workload: str
    load: Load
    cells: pd.DataFrame
    again: pd.DataFrame

    @property
    def kind(self) -> str:
        """The kind of workload, to print."""
        return "Doc-QA" if self.workload.startswith("docqa") else "Conversation"

    @property
    def title(self) -> str:
        """What to print above the panel, in lines that fit, small."""
        return textwrap.fill(f"{self.kind}: {captions.load(self.load)}", _CHARACTERS)

    @property
    def policies(self) -> list[str]:
        """The policies, in the order of a legend."""
        return [policy for policy in style.LABELS if policy in set(self.cells["policy"])]

    def of_first_seed(self) -> "Panel":
        """Return the same of the first seed only."""
        first = self.cells["seed"].min()
        return replace(
            self,
            cells=self.cells[self.cells["seed"] == first],
            again=self.again[self.again["seed"] == first],
        )

    def requests(self, results: Results, policy: str) -> pd.DataFrame:
        """Return the successful requests under a policy, all seeds, with ``cluster``.

        A conversation is a cluster; of requests that belong to none, a block of consecutive ones.
        """
        return _requests(results, self.cells[self.cells["policy"] == policy])

    def repeated(self, results: Results, policy: str) -> pd.DataFrame | None:
        """Return the same of the cells that repeat a policy's; None if none does."""
        again = self.again[self.again["policy"] == policy]
        return None if again.empty else _requests(results, again)


def _requests(results: Results, cells: pd.DataFrame) -> pd.DataFrame:
    found = []
    for _, cell in cells.sort_values(["seed", "repeat"]).iterrows():
        requests = results.requests(cell).assign(seed=cell["seed"])
        conversations = requests["session"]
        number = blocks(len(requests)) if conversations.isna().any() else conversations
        requests = requests.assign(cluster=number)
        # Valid cells have no others, unless the limit on them is raised.
        found.append(requests[requests["status"] == "ok"])
    together = pd.concat(found, ignore_index=True)
    return together.assign(cluster=together.groupby(["seed", "cluster"]).ngroup())


@dataclass(frozen=True)
class Selection:
    """The panels of a figure, and what is not in it."""

    panels: list[Panel]
    invalid: int
    missing: dict[str, str]
    left_out: str = ""

    @property
    def sentences(self) -> list[str]:
        """What the caption says about what is not in the figure."""
        return [
            captions.not_drawn(self.invalid),
            self.left_out,
            *(f"Not drawn: {name}: {why}." for name, why in self.missing.items()),
        ]

    @property
    def reason(self) -> str:
        """Why there is no panel."""
        return "; ".join(f"{name}: {why}" for name, why in self.missing.items())


def select(results: Results, entry: Entry) -> Selection:
    """Return the panels of a figure: one for each workload, mode and load, ordered by these.

    Of several cache sizes the smallest is taken, where policies differ most.

    Raises:
        HarnessError: if cells ran, and none is valid.

    """
    panels: list[Panel] = []
    ran = []
    missing = {}
    for workload in entry.workloads:
        for mode in entry.modes:
            cells = of_patched(results.of(entry.tier, workload, mode))
            if cells.empty:
                continue
            if reason := not_run(cells):
                missing[workload] = reason
                continue
            ran.append(cells)
            valid = cells[cells["valid"]]
            if valid.empty:
                missing[f"{workload}, {mode}"] = "no valid cell"
                continue
            smallest = valid[valid["cache_tokens"] == valid["cache_tokens"].min()]
            again = results.again(entry.tier, workload, mode)
            again = again[again["valid"] & again["cache_tokens"].isin(smallest["cache_tokens"])]
            loads = set(map(results.load, smallest["cell"]))
            panels += [
                Panel(
                    workload,
                    load,
                    same_seeds(_under(results, load, smallest)),
                    _under(results, load, again),
                )
                for load in sorted(loads, key=_order)
            ]
    if missing and not ran:
        return Selection([], 0, missing)
    # Without any there are no columns.
    of_all = pd.concat(ran) if ran else results.cells[:0]
    if not panels:
        raise HarnessError(captions.none_valid(of_all))
    drawn = pd.concat([panel.cells for panel in panels])
    return Selection(
        panels, int((~of_all["valid"]).sum()), missing, captions.left_out(of_all, drawn)
    )


def _under(results: Results, load: Load, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with a load."""
    return cells[np.array([results.load(cell) == load for cell in cells["cell"]], bool)]


def _order(load: Load) -> tuple[Hashable, ...]:
    """Order loads by how they come in, then by how many."""
    if isinstance(load, OpenLoop):
        return load.arrivals != "poisson", load.arrivals, load.request_rate or 0.0, load.label
    return False, "", 0.0, load.label


def same_seeds(cells: pd.DataFrame, by: Sequence[str] = ("policy",)) -> pd.DataFrame:
    """Return the cells of the seeds that have all of what is compared, or the most of it.

    Another seed is another workload, so policies with different seeds cannot be compared.

    Args:
        cells: Valid cells.
        by: The columns that say what is compared.

    """
    of_seed = {
        seed: frozenset(map(tuple, group[list(by)].to_numpy()))
        for seed, group in cells.groupby("seed")
    }
    most = max(of_seed.values(), key=len)
    return cells[cells["seed"].isin([seed for seed, has in of_seed.items() if has >= most])]


def middle_rate(panels: Sequence[Panel]) -> list[Panel]:
    """Return the panels, but of open loops that differ in rate only that of the middle."""
    kept: list[Panel] = []
    rates: dict[tuple[str, str], list[Panel]] = {}
    for panel in panels:
        if isinstance(panel.load, OpenLoop) and panel.load.request_rate is not None:
            group = panel.workload, captions.arrivals(panel.load)
            if group not in rates:
                kept.append(panel)
            rates.setdefault(group, []).append(panel)
        else:
            kept.append(panel)
    middle = {id(group[0]): group[len(group) // 2] for group in rates.values()}
    return [middle.get(id(panel), panel) for panel in kept]


def setting(results: Results, entry: Entry, panels: Sequence[Panel]) -> list[str]:
    """Say what the panels were measured on and with, a sentence a workload."""
    said = [f"{entry.title}. {captions.engine(results, entry)}."]
    for workload in dict.fromkeys(panel.workload for panel in panels):
        own = [panel for panel in panels if panel.workload == workload]
        cells = pd.concat([panel.cells for panel in own])
        caches = [
            captions.cache(results, entry.tier, workload, int(size))
            for size in sorted(set(cells["cache_tokens"]))
        ]
        counts = sorted({int(count) for count in cells["requests"]})
        counted = " to ".join(f"{count:,}" for count in dict.fromkeys([counts[0], counts[-1]]))
        said.append(
            f"{captions.workload(results, entry.tier, workload)}, {' and '.join(caches)}; "
            f"{counted} requests a cell, {captions.seeds(cells['seed'])}."
        )
    return said


def since(panels: Sequence[Panel]) -> str:
    """Say from when TTFT counts."""
    modes = {panel.load.mode for panel in panels}
    due = "from when a request was due"
    if modes == {"open-loop"}:
        return f"TTFT is {due} (scheduled), not from when it was sent."
    if "open-loop" in modes:
        return f"TTFT is {due} (scheduled) in the open loop, from sending in the closed loop."
    return "TTFT is from sending."


def hit_rate(requests: pd.DataFrame) -> float:
    """Return cached by prompt tokens."""
    return float(requests["cached_tokens"].sum() / requests["prompt_tokens"].sum())


def is_saturated(
    requests: pd.DataFrame, turn_requests: int | None = None, share: float = 0.95
) -> bool:
    """Return whether a server finished less than a share of what an open loop offered, in time.

    Offered is the rate at which requests were due in this very cell, which by chance is not the
    rate that was asked for, for as long as requests were under way. Of a cell that took turns, both
    add up over these.
    """
    offered = taken = 0.0
    for _, turn in requests.groupby(requests["request"] // (turn_requests or len(requests))):
        offered += turn["scheduled_ns"].max() - turn["scheduled_ns"].min()
        sent, ended = np.sort(turn["sent_ns"]), np.sort(turn["end_ns"])
        idle = np.maximum(sent[1:] - ended[:-1], 0).sum()
        # Between requests there is one gap less than requests; of few, that is not little.
        taken += (ended[-1] - sent[0] - idle) * (len(turn) - 1) / len(turn)
    return bool(offered < share * taken)


def order_of_sending(requests: pd.DataFrame) -> pd.DataFrame:
    """Return the requests in the order in which the engine got them."""
    return requests.sort_values(["sent_ns", "request"], ignore_index=True)


def again(panels: Sequence[Panel]) -> list[Line2D]:
    """Return the legend's entries for the lines of what is measured again in any panel."""
    repeated = {policy for panel in panels for policy in panel.again["policy"]}
    return [
        Line2D([], [], color=style.COLORS[policy], linestyle=AGAIN, label=f"{name} again (noise)")
        for policy, name in style.LABELS.items()
        if policy in repeated
    ]


def legend(figure: Figure, panels: Sequence[Panel], more: Sequence[Line2D] = ()) -> None:
    """Put one legend for all panels below them: the policies, and more."""
    drawn = {policy for panel in panels for policy in panel.policies}
    handles = list(map(style.ours, style.looks(drawn & style.LABELS.keys()).values()))
    handles += more
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
