import os
import threading
import time

import pytest

from harness.turns import Turns, ring


class _Party:
    """Some who take turns, each in a thread, and who did something when."""

    def __init__(self, count: int) -> None:
        pairs = ring(count)
        self.descriptors = [descriptor for pair in pairs for descriptor in pair]
        self.places = [Turns(*pair) for pair in pairs]
        self.did: list[tuple[int, int]] = []

    def run(self, rounds: int, start_seconds: float) -> None:
        threads = [
            threading.Thread(target=self._act, args=(number, rounds, start_seconds * number))
            for number in range(len(self.places))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def _act(self, number: int, rounds: int, start_seconds: float) -> None:
        time.sleep(start_seconds)
        with self.places[number].take():
            self.did.append((number, 0))
            self.places[number].offer()
            for turn in range(1, rounds):
                self.did.append((number, turn))
                time.sleep(0.001)
                self.places[number].offer()
            self.did.append((number, rounds))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_has_a_turn_in_each_round_and_none_is_ahead(count: int) -> None:
    party = _Party(count)
    party.run(rounds=6, start_seconds=0.02)
    assert party.did == [(number, turn) for turn in range(7) for number in range(count)]


def test_what_was_waited_is_known() -> None:
    party = _Party(2)
    party.run(rounds=1, start_seconds=0.2)
    # For the second to start.
    assert 0.1 < party.places[0].waited < 2
    assert party.places[1].waited < 0.1


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
