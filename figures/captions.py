"""What captions say in the same words: engine, workload, load, seeds, what is left out."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from figures import style
from figures.catalogue import Entry
from harness.analysis.results import Results
from harness.cell import ClosedLoop, Fleet, Load, OpenLoop, Tier
from harness.config import WorkloadParams
from harness.engines import registry
from workloads.docqa import SYNTHETIC, DocQA
from workloads.sequence import Sequence
from workloads.trace import Trace


def engine(results: Results, entry: Entry) -> str:
    """Say what was measured on, of a figure of one package."""
    (package,) = entry.packages
    settings = results.config.tiers[entry.tier]
    kind = registry.patched(package, entry.tier)
    model = f", model {settings.model} ({settings.dtype})" if entry.tier != "replay" else ""
    return f"Tier {entry.tier}: {kind.description}{model}, block size {settings.block_size}"


def workload(results: Results, tier: Tier, name: str) -> str:
    """Say what was asked, and at what size."""
    params = results.config.workloads[name]
    if isinstance(params, DocQA):
        text = "synthetic text" if params.corpus == SYNTHETIC else f"real text ({params.corpus})"
        scale = results.config.scale(tier, name)
        size = (
            "at the paper's scale"
            if scale == 1
            else f"documents and cache at 1/{1 / scale:g} of the paper's size"
        )
        return f"Doc-QA on {params.documents} documents of {text}, {size}"
    if isinstance(params, Sequence):
        phases = (f"{phase.requests:,} of {phase.part}" for phase in params.phases)
        return f"Requests at their own size: {', then '.join(phases)}"
    if params.path is not None:
        return f"Requests of {Path(params.path).name} at their own size"
    source = params.dataset if isinstance(params, Trace) else "ShareGPT"
    return f"Conversations of {source} at their own size"


def warm_up(params: WorkloadParams) -> str:
    """Say after how many requests those that count begin; nothing if all count."""
    count = getattr(params, "warm_up", 0)
    return f" after {count:,} that warm the cache" if count else ""


def cache(results: Results, tier: Tier, name: str, cache_tokens: int) -> str:
    """Say how large the cache was, and what that is at the paper's scale."""
    scale = results.config.scale(tier, name)
    said = f"cache of {cache_tokens:,} tokens"
    papers = f"{cache_tokens / scale / 1000:,.0f}k"
    return said if scale == 1 else f"{said} ({papers} at the paper's scale)"


def load(params: Load) -> str:
    """Say how requests were sent."""
    if isinstance(params, ClosedLoop):
        reading = f"read {params.reading_speed:g} tokens/s and " if params.reading_speed else ""
        return (
            f"closed loop, {params.users} users who {reading}think for "
            f"{params.think_time_mean:g} s on average"
        )
    if isinstance(params, Fleet):
        together = f", batches of {params.batch_size}" if params.batch_size > 1 else ""
        return f"{params.engines} engines behind a router, {params.router}{together}"
    if not isinstance(params, OpenLoop):
        return (
            f"batches of {params.batch_size}" if params.batch_size > 1 else "one request at a time"
        )
    if params.arrivals == "trace":
        speed = "" if params.speed in (None, 1) else f", {params.speed:g} times faster"
        return f"open loop, at the trace's own times{speed}{_turn(params)}"
    return f"open loop, {arrivals(params)}, {params.request_rate:g} requests/s"


def arrivals(params: OpenLoop) -> str:
    """Say how requests come in, whatever their rate."""
    name = {"poisson": "Poisson arrivals", "constant": "constant arrivals"}.get(params.arrivals)
    return (name or f"gamma arrivals of shape {params.burstiness:g}") + _turn(params)


def _turn(params: OpenLoop) -> str:
    return "" if params.turn_requests is None else f" in turns of {params.turn_requests}"


def seeds(numbers: Iterable[int]) -> str:
    """Name the seeds."""
    found = sorted({int(number) for number in numbers})
    return f"seed{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"


def over_seeds(numbers: Iterable[int]) -> str:
    """Name the seeds, and say what is drawn of several."""
    found = set(numbers)
    return f"{'mean and 95 % interval over ' if len(found) > 1 else ''}{seeds(found)}"


def noise(band: float | None) -> str:
    """Say how much equal cells differ (``noise.band``)."""
    if band is None:
        return "No cell was measured twice, so how large noise is is not known."
    return f"Equal cells (A/A) differ in mean TTFT by up to {band:.1f} % in 95 % of cases."


def origin(cells: pd.DataFrame) -> str:
    """Say when and where cells were measured, and with what engine; nothing if none was."""
    measured = cells[cells["measured_at"].notna()]
    if measured.empty:
        return ""
    days = sorted({str(at)[:10] for at in measured["measured_at"]})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    machines = "; ".join(sorted(set(measured["machine"])))
    projects = measured["engine"].map(lambda name: registry.ENGINES[name].project)
    engines = ", ".join(sorted(set(projects + " " + measured["engine_version"].astype(str))))
    patches = sorted({str(sha)[:12] for sha in measured["patches_sha256"].dropna()})
    patched = f", patches {', '.join(patches)}" if patches else ""
    return f"Measured {when} on {machines}; {engines}{patched}."


def none_valid(cells: pd.DataFrame) -> str:
    """Say why there is nothing to draw, and what to do.

    Args:
        cells: Rows of ``cells.csv``, none of them valid; or there are none.

    """
    if cells.empty:
        return "the results have no cell for it; add its cells to the config and run that."
    reasons = cells["invalid_reason"].value_counts()
    first = str(reasons.index[0])
    others = len(reasons) - 1
    more = f", and {others} more reason{'s' if others > 1 else ''}" if others else ""
    return (
        f"none of its {len(cells)} cells is valid: {first}{more}. cells.csv has the reason of "
        "each; mend that and measure them again, as the report says how."
    )


# Columns of ``cells.csv`` by which a figure may leave cells out, and what they are to a reader.
_LEFT_OUT = {
    "policy": "policy",
    "cache_tokens": "cache size",
    "batch_size": "batch size",
    "request_rate": "request rate",
    "seed": "seed",
}


def left_out(found: pd.DataFrame, drawn: pd.DataFrame) -> str:
    """Name what a figure does not show of the valid cells that it could be drawn from.

    Args:
        found: Rows of ``cells.csv``.
        drawn: Those of them that are in the figure.

    Returns:
        A sentence; nothing if all valid cells are drawn.

    """
    valid = found[found["valid"].astype(bool)]
    parts = []
    for column, what in _LEFT_OUT.items():
        missing = sorted(set(valid[column].dropna()) - set(drawn[column]))
        if missing:
            values = (
                [style.looks([name])[name].label for name in missing]
                if column == "policy"
                else [f"{value:,.12g}" if column != "seed" else f"{value:.0f}" for value in missing]
            )
            plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
            unit = " tokens" if column == "cache_tokens" else ""
            parts.append(f"{plural if len(missing) > 1 else what} {', '.join(values)}{unit}")
    return f"Not in this figure, but in cells.csv: {'; '.join(parts)}." if parts else ""


def not_drawn(invalid: int) -> str:
    """Say how many cells were left out because they are invalid; nothing if none was."""
    if not invalid:
        return ""
    return f"{invalid} invalid cell{'s' if invalid > 1 else ''} not drawn."
