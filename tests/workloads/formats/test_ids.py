from datetime import datetime
from typing import Any

import pytest

from workloads.formats import ids
from workloads.formats.asked import Asked, BadRecord, BlockIds

_MOONCAKE: dict[str, Any] = {
    "timestamp": 27000,
    "input_length": 1030,
    "output_length": 52,
    "hash_ids": [0, 46, 47],
}


def _read(**changes: Any) -> Asked:
    (asked,) = ids.mooncake(_MOONCAKE | changes)
    return asked


def _ids(block_ids: list[Any]) -> list[int]:
    prompt = _read(hash_ids=block_ids).prompt
    assert isinstance(prompt, BlockIds)
    return prompt.ids.tolist()


def test_mooncake() -> None:
    asked = _read()
    assert isinstance(asked.prompt, BlockIds)
    assert (asked.prompt.tokens, asked.prompt.ids.tolist()) == (1030, [0, 46, 47])
    assert (asked.time, asked.output_tokens, asked.session) == (27000, 52, None)


def test_other_names_and_ways_to_write_the_same() -> None:
    same = {
        "created_time": "27000.0",
        "input_tokens": 1030.0,
        "output_tokens": "52",
        "block_hashes": [0.0, 46, 47],
    }
    (asked,) = ids.mooncake(same)
    for key in ("time", "output_tokens", "session", "delay", "turn"):
        assert getattr(asked, key) == getattr(_read(), key)
    assert isinstance(asked.prompt, BlockIds)
    assert (asked.prompt.tokens, asked.prompt.ids.tolist()) == (1030, [0, 46, 47])


def test_ids_of_any_kind_are_told_apart_by_64_bits() -> None:
    large = [2**63, 2**64 - 1, 2**32, 7]
    assert _ids(large) == large
    assert _ids([-1, 2**63 - 1]) == [2**64 - 1, 2**63 - 1]
    texts = ["9f86d081884c7d65", "2c26b46b68ffc68f", "0xff", "a", "9f86d081884c7d65"]
    found = _ids(texts)
    assert len(set(found)) == 4
    assert found[0] == found[4]
    # Longer hashes, as text or as numbers.
    longer = ["ab" * 32, "ab" * 31 + "ac", 2**200, 2**200 + 1]
    assert len(set(_ids(longer))) == 4
    assert _ids([]) == []


def test_sessions_delays_and_the_size_of_blocks() -> None:
    asked = _read(session_id="s", delay_ms=1500, turn=2, block_size=64)
    assert (asked.session, asked.delay, asked.turn) == ("s", 1500, 2)
    assert isinstance(asked.prompt, BlockIds)
    assert asked.prompt.id_tokens == 64


@pytest.mark.parametrize(
    ("timestamp", "ms"),
    [
        (0, 0),
        (61.5, 61.5),
        ("61.5", 61.5),
        # A week in ms, from the log's own beginning.
        (604_800_000, 604_800_000),
        (1_700_000_000, 1.7e12),
        (1_700_000_000_000, 1.7e12),
        (1_700_000_000_000_000, 1.7e12),
        (1_700_000_000_000_000_000, 1.7e12),
        ("1970-01-02", 86_400_000),
        ("1970-01-01T00:01:00Z", 60_000),
        ("1970-01-01T01:01:00+01:00", 60_000),
        ("1970-01-01 00:00:01.9799600", 1_979.96),
        ("1970-01-01 00:00:00.009930+00:00", 9.93),
        (datetime(1970, 1, 2), 86_400_000),
        (None, None),
        ("", None),
    ],
)
def test_times_are_numbers_or_dates(timestamp: Any, ms: float | None) -> None:
    assert _read(timestamp=timestamp).time == (ms if ms is None else pytest.approx(ms))


def test_small_times_of_bailian_are_in_seconds() -> None:
    record = _MOONCAKE | {"chat_id": 3, "parent_chat_id": -1, "timestamp": 61.1, "turn": 1}
    (asked,) = ids.bailian(record)
    assert asked.time == pytest.approx(61_100)
    assert (asked.session, asked.goes_on, asked.turn) == (3, -1, 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input_length": None}, "input_length: missing; the record has timestamp, input_length"),
        ({"input_length": 0}, "input_length: 0 where a whole number of 1 or more is due"),
        ({"input_length": 10**30}, "input_length: 1000.* where no more than 10,000,000 is due"),
        ({"output_length": 10**30}, "output_length: 1000.* where no more than 10,000,000 is due"),
        ({"input_length": "many"}, "input_length: 'many' where a whole number"),
        ({"hash_ids": None}, "hash_ids: missing"),
        ({"hash_ids": 7}, "hash_ids: 7 where a list of ids is due"),
        ({"hash_ids": [1, None]}, r"hash_ids.1: None is no id"),
        ({"timestamp": "noon"}, "timestamp: 'noon' is no time: write a number, or a date as"),
        ({"output_length": -1}, "output_length: -1 where"),
    ],
)
def test_what_is_bad_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        _read(**changes)
