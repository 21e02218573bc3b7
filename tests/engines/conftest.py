from pathlib import Path

import pytest
from support.bench import Bench


@pytest.fixture(scope="session")
def bench(shared: Path, tiny_model: Path, engine_tree: Path) -> Bench:
    """One for all tests of all workers, since each group of cells takes half a minute."""
    return Bench(shared / "bench", tiny_model, engine_tree)
