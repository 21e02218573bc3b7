import random
from itertools import pairwise

import numpy as np
import pytest

from workloads.prefixes import Prefixes


@pytest.mark.parametrize("seed", range(20))
def test_numbers_are_those_of_chains_as_they_first_come(seed: int) -> None:
    rng = random.Random(seed)
    # Few ids, so that prompts part and meet again at every place.
    ids = [rng.choice((0, 1, 2**32, 2**63, 2**64 - 1)) for _ in range(4)]
    prefixes = Prefixes()
    known: dict[tuple[int, ...], int] = {}
    for _ in range(200):
        prompt = [rng.choice(ids) for _ in range(rng.randint(0, 9))]
        chains = [tuple(prompt[: i + 1]) for i in range(len(prompt))]
        expected = [known.setdefault(chain, len(known)) for chain in chains]
        runs = prefixes.add(np.array(prompt, dtype=np.uint64))
        found = [number for first, count in runs for number in range(first, first + count)]
        assert found == expected
        # In as few runs as can be.
        assert all(sum(a) != b[0] for a, b in pairwise(runs))
    assert len(prefixes) == len(known)
