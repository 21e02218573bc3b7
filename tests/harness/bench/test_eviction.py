import pytest

from harness.bench import eviction
from harness.errors import HarnessError

# What vLLM's benchmark_block_pool.py prints.
_GRID = [
    "+---------+----------+-----------+--------------+--------------+-------------+-------------+",
    "|  Number |    Total | Allocated |   Get Blocks |   Get Blocks | Free Blocks | Free Blocks |",
    "|         |   Blocks |    Blocks |     Avg (us) |     Max (us) |    Avg (us) |    Max (us) |",
    "+=========+==========+===========+==============+==============+=============+=============+",
    "|    1000 |   100000 |        10 |        2.500 |       30.100 |       1.250 |      11.400 |",
    "|    1000 |   100000 |        50 |       11.000 |       50.200 |       5.500 |      20.000 |",
]


def test_means_are_read_from_the_grid() -> None:
    assert eviction._grid(_GRID) == [(2.5, 1.25), (11.0, 5.5)]


def test_a_benchmark_that_prints_nothing_is_an_error() -> None:
    with pytest.raises(HarnessError, match="printed no figures"):
        eviction._grid(["nothing"])
