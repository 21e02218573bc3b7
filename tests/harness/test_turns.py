import os
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.turns import Turns, order, places


class _Party:
    """Some who take turns, each in a thread, and who did something when."""

    def __init__(self, count: int) -> None:
        given = places(count)
        self.descriptors = [*given[0].give, *(place.mine for place in given)]
        self.turns = [Turns(place) for place in given]
        self.did: list[tuple[int, int]] = []

    def run(self, rounds: int, start_seconds: float) -> None:
        threads = [
            threading.Thread(target=self._act, args=(number, rounds, start_seconds * number))
            for number in range(len(self.turns))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def _act(self, number: int, rounds: int, start_seconds: float) -> None:
        time.sleep(start_seconds)
        with self.turns[number].take():
            self.did.append((number, 0))
            self.turns[number].offer()
            for turn in range(1, rounds):
                self.did.append((number, turn))
                time.sleep(0.001)
                self.turns[number].offer()
            self.did.append((number, rounds))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_has_a_turn_in_each_round_and_none_is_ahead(count: int) -> None:
    party = _Party(count)
    party.run(rounds=6, start_seconds=0.02)
    assert party.did == [(number, turn) for turn in range(7) for number in order(turn, count)]


def test_order_is_reversed_and_then_another_begins() -> None:
    rounds = ["".join("abc"[number] for number in order(i, 3)) for i in range(7)]
    assert rounds == ["abc", "cba", "bca", "acb", "cab", "bac", "abc"]


@given(count=st.integers(1, 9), start=st.integers(0, 50))
def test_no_place_is_better(count: int, start: int) -> None:
    """In as many pairs of rounds as there are cells, each has been everywhere as often."""
    first = 2 * start
    rows = [order(i, count) for i in range(first, first + 2 * count)]
    assert all(sorted(row) == list(range(count)) for row in rows)
    for number in range(count):
        places = Counter(row.index(number) for row in rows)
        assert places == dict.fromkeys(range(count), 2)
    # What drifts steadily meets all alike after two rounds.
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert {one.index(n) + other.index(n) for n in range(count)} == {count - 1}
    # Each finds its own traces in the machine's caches as often as any other does.
    rows.append(order(first + 2 * count, count))
    twice = Counter(one[-1] for one, other in pairwise(rows) if one[-1] == other[0])
    assert len(set(twice.values())) == 1
    assert set(twice) == set(range(count))


def test_what_was_waited_is_known() -> None:
    party = _Party(2)
    party.run(rounds=1, start_seconds=0.2)
    # For the second to start.
    assert 0.1 < party.turns[0].waited < 2
    assert party.turns[1].waited < 0.1


def test_alone_nothing_is_waited_for() -> None:
    turns = Turns.alone()
    with turns.take():
        for _ in range(100):
            turns.offer()
    assert turns.waited < 0.1


def test_turn_is_handed_on_after_a_failure() -> None:
    turns = Turns.alone()
    with pytest.raises(ValueError, match="out of luck"), turns.take():
        raise ValueError("out of luck")
    with turns.take():
        pass
