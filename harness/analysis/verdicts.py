"""The table of claims that a terminal shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

# To a file or a pipe, as wide as the table needs.
_WIDTH = 150


def show(judged: Sequence[Mapping[str, Any]]) -> None:
    """Print claims, verdicts and why, as ``harness.analysis.claims`` judged them."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    table = Table(show_lines=True)
    for title in ("claim", "paper", "ours [95 %]", "verdict", "tier", "figure"):
        table.add_column(title, no_wrap=title in ("tier", "verdict"))
    for row in judged:
        table.add_row(
            f"{row['id']}  {row['claim']}",
            _range(row, "paper"),
            _ours(row),
            str(row["verdict"]),
            str(row["tier"]),
            str(row["figure"]),
        )
    console.print(table)
    not_run: dict[str, list[str]] = {}
    for row in judged:
        which = f"{row['id']} {row['tier']}"
        if row["verdict"] == "not run":
            not_run.setdefault(row["reason"], []).append(which)
        else:
            console.print(f"{which}: {row['reason']}", soft_wrap=True)
    for reason, claims in not_run.items():
        console.print(f"Not run: {', '.join(dict.fromkeys(claims))}. {reason}", soft_wrap=True)


def _ours(row: Mapping[str, Any]) -> str:
    if row["ours"] is None:
        return ""
    ends = row["ci95"]
    interval = f" [{ends[0]:+.1f}, {ends[1]:+.1f}]" if ends else ""
    return f"mean {row['ours']:+.1f} {row['unit']}{interval}; {_range(row, 'ours')}"


def _range(row: Mapping[str, Any], key: str) -> str:
    values = [point[key] for point in row["points"] if point[key] is not None]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:+.1f} {row['unit']}"
    return f"{min(values):+.1f} to {max(values):+.1f} {row['unit']}"
