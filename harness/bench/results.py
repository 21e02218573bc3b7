"""What a benchmark found, as a file and as a table."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """One figure; ``target`` is the most that it may be, None if it is only reported."""

    name: str
    value: float
    unit: str
    target: float | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the target was met; None without a target."""
        return None if self.target is None else self.value <= self.target


def write(path: Path, results: Sequence[Result]) -> None:
    """Write results as a JSON list of name, value, unit, target and ok, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    rows = [{**asdict(result), "ok": result.ok} for result in results]
    partial.write_text(json.dumps(rows, indent=2) + "\n")
    os.replace(partial, path)


def table(results: Sequence[Result]) -> str:
    """Return the results as lines of text."""
    width = max(len(result.name) for result in results)
    lines = []
    for result in results:
        line = f"{result.name:{width}}  {result.value:10.4g} {result.unit:12}"
        if result.target is not None:
            line += f"  target <= {result.target:g}: {'ok' if result.ok else 'MISSED'}"
        lines.append(line.rstrip())
    return "\n".join(lines)
