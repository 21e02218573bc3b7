from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from harness.analysis import noise


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close what a test has drawn: pyplot keeps figures, and warns of too many."""
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def _of_made_up_cells_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(noise, "_SHIPPED", tmp_path / "no-history.csv")
