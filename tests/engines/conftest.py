from pathlib import Path

import pytest
from support.bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, engine_tree: Path) -> Bench:
    """One for all tests, since each group of cells takes half a minute."""
    return Bench(tmp_path_factory.mktemp("bench"), tiny_model, engine_tree)
