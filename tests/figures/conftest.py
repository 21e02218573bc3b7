from collections.abc import Iterator

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close what a test has drawn: pyplot keeps figures, and warns of too many."""
    yield
    plt.close("all")
