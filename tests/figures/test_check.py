"""Figures that cannot be drawn: the picture in their place, the warning, what fails at the end."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from support.results import row

from figures import catalogue, saved
from harness.analysis import tables
from harness.engines import base

_CONFIG = {
    "name": "made-up",
    "tiers": {"replay": {"block_size": 16}},
    "workloads": {"docqa-quality": {"kind": "docqa"}},
    "experiments": {
        "figure-3": {
            "tier": "replay",
            "workload": "docqa-quality",
            "policies": ["lru", "arc"],
            "cache_tokens": [40_000],
        }
    },
}
_CELL = "docqa-quality-batch1-40000-s42-replay"
_BROKEN = {"valid": False, "invalid_reason": "2 of 3 requests failed"}
_MISSING = {"valid": False, "invalid_reason": "not run: no network"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(_CONFIG))
    (tmp_path / "policies.csv").write_text("workload,cache_tokens,kind,policy,seeds,hit_rate\n")
    return tmp_path


def _call(monkeypatch: pytest.MonkeyPatch, module: str, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
    code: int = import_module(module).main()
    return code


def _draw_all(
    monkeypatch: pytest.MonkeyPatch, folder: Path, changes: dict[str, Any]
) -> dict[str, saved.Saved]:
    rows = [
        row(cell=f"{_CELL}-{policy}", cache_tokens=40_000, policy=policy, **changes)
        for policy in ("lru", "arc")
    ]
    cells = pd.DataFrame(rows, columns=list(tables.COLUMNS))
    cells.to_csv(folder / "cells.csv", index=False)
    assert _call(monkeypatch, "figures.__main__", "all", folder / "config.yaml", folder) == 0
    assert sorted(path.name for path in (folder / "figures").iterdir()) == [
        "fig3.pdf",
        "fig3.png",
        "fig7.pdf",
        "fig7.png",
    ]
    return {name: saved.read(folder / "figures" / f"{name}.png") for name in ("fig3", "fig7")}


def test_invalid_cells_are_said_on_the_figure_and_fail_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = _draw_all(monkeypatch, folder, _BROKEN)
    assert [each.outcome for each in saved.values()] == ["not drawn", "not drawn"]
    title = catalogue.FIGURES["fig3"].title
    said = "none of its 2 cells is valid: 2 of 3 requests failed"
    assert saved["fig3"].caption.startswith(f"{title}. not drawn: {said}")
    assert f"warning: fig3 is not drawn: {said}" in capsys.readouterr().err
    assert _call(monkeypatch, "figures.check", folder / "config.yaml", folder) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: 2 of 2 figures could not be drawn")
    assert f"fig3: {title}. not drawn: {said}" in error


def test_what_the_machine_has_not_fails_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = _draw_all(monkeypatch, folder, _MISSING)
    assert [each.outcome for each in saved.values()] == ["not run", "not run"]
    assert "not run: no network" in saved["fig7"].caption
    assert _call(monkeypatch, "figures.check", folder / "config.yaml", folder) == 0
    assert capsys.readouterr().err == ""


def test_one_that_fails_leaves_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its cells are valid, but figure 7's telemetry is gone.
    saved = _draw_all(monkeypatch, folder, {})
    assert [each.outcome for each in saved.values()] == ["drawn", "not drawn"]
    assert "telemetry.parquet: not readable" in saved["fig7"].caption
    assert _call(monkeypatch, "figures.check", folder / "config.yaml", folder) == 1
    assert "error: 1 of 2 figures could not be drawn" in capsys.readouterr().err


def test_what_is_no_message_for_the_user_is_not_hidden(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("figures.cachesize.draw", draw)
    with pytest.raises(ZeroDivisionError):
        _draw_all(monkeypatch, folder, {})


def test_figure_that_is_missing_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call(monkeypatch, "figures.check", folder / "config.yaml", folder) == 1
    assert "fig3.png: no figure" in capsys.readouterr().err


def test_engine_without_its_environment_fails_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "SGLang's environment, .venv-sglang, is not there; `make env-sglang`"
    _draw_all(monkeypatch, folder, {"valid": False, "invalid_reason": f"not run: {reason}"})
    on_sglang = _CONFIG["experiments"]["figure-3"] | {"engine": "sglang-replay"}  # type: ignore
    changed = _CONFIG | {"experiments": _CONFIG["experiments"] | {"more": on_sglang}}  # type: ignore
    (folder / "config.yaml").write_text(yaml.safe_dump(changed))
    monkeypatch.setattr(base, "_ROOT", folder)
    monkeypatch.setattr(catalogue, "names", lambda _: ["fig3"])
    capsys.readouterr()
    assert _call(monkeypatch, "figures.check", folder / "config.yaml", folder) == 1
    assert capsys.readouterr().err == (f"error: not all was run: {reason}, then run this again\n")
    # Results from elsewhere need no environment here.
    cells = folder / "cells.csv"
    cells.write_text(cells.read_text().replace(reason, "no network"))
    assert _call(monkeypatch, "figures.check", folder / "config.yaml", folder) == 0
