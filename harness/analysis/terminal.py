"""The table of claims, for a terminal and in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

# To a file or a pipe, as wide as the table needs.
_WIDTH = 170
_KEY = (
    "share: ours / the paper's effect; what is exact has no interval. power: the chance in percent "
    'of "reproduced" in such a run if the paper\'s effect is true / half of it / none.'
)


def show(judged: Sequence[Mapping[str, Any]]) -> None:
    """Print claims, verdicts and why, as ``harness.analysis.claims`` judged them."""
    if not judged:
        print("no claim is on a workload of this config")
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    table = Table(show_lines=True)
    for title in ("claim", "paper", "ours", "share [95 %]", "power", "verdict", "tier", "figure"):
        table.add_column(title, no_wrap=title in ("share [95 %]", "tier", "verdict"))
    for row in judged:
        table.add_row(
            f"{row['id']}  {row['claim']}",
            _value(row, "paper"),
            _ours(row),
            _share(row),
            _power(row),
            str(row["verdict"]),
            str(row["tier"]),
            str(row["figure"]),
        )
    console.print(table)
    console.print(_KEY, soft_wrap=True)
    not_run: dict[str, list[str]] = {}
    for row in judged:
        which = f"{row['id']} {row['tier']}"
        if row["verdict"] == "not run":
            not_run.setdefault(row["reason"], []).append(which)
        else:
            console.print(f"{which}: {row['reason']}", soft_wrap=True)
    for reason, claims in not_run.items():
        console.print(f"Not run: {', '.join(dict.fromkeys(claims))}. {reason}", soft_wrap=True)


def markdown(judged: Sequence[Mapping[str, Any]]) -> str:
    """Return the claims that were judged as a table in Markdown."""
    lines = [
        "| claim | tier | paper | ours | share [95 %] | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for row in judged:
        if row["verdict"] != "not run":
            cells = (
                f"{row['id']}: {row['claim']}",
                f"`{row['tier']}`",
                _value(row, "paper"),
                _value(row, "ours"),
                _share(row),
                f"**{row['verdict']}**",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _value(row: Mapping[str, Any], key: str) -> str:
    return "" if row[key] is None else f"{row[key]:+.1f} {row['unit']}"


def _ours(row: Mapping[str, Any]) -> str:
    """Return the mean over the points, its interval if it has one, and the points' range."""
    ends, values = row["ci95"], [point["ours"] for point in row["points"]]
    interval = f" [{ends[0]:+.1f}, {ends[1]:+.1f}]" if ends else ""
    spread = f"; {min(values):+.1f} to {max(values):+.1f}" if len(values) > 1 else ""
    return f"{_value(row, 'ours')}{interval}{spread}" if row["ours"] is not None else ""


def _share(row: Mapping[str, Any]) -> str:
    if row["share"] is None:
        return ""
    ends = row["share_ci95"]
    return f"{row['share']:.2f}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")


def _power(row: Mapping[str, Any]) -> str:
    if row["power"] is None:
        return ""
    return " / ".join(f"{100 * row[key]:.0f}" for key in ("power", "wrong_half", "wrong_none"))
