import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import maps as made_up
from support.results import row

from harness import config
from harness.analysis import maps, policies
from harness.analysis.results import Results
from harness.errors import HarnessError

_DOCQA = {"kind": "docqa", "zipf_exponent": 0.5}
_CHATS = {
    "kind": "sharegpt",
    "conversations": 9,
    "arrival_rate": 1,
    "think_time_mean": 60,
    "length_max": 4000,
}
_WORKLOADS: dict[str, Any] = {"skew": _DOCQA, "skew-full": _DOCQA, "think": _CHATS}
_CONFIG: dict[str, Any] = {
    "name": "mine",
    "map": {"full_size": ["skew-full"]},
    "tiers": {"replay": {"block_size": 16}},
    "workloads": _WORKLOADS,
    "experiments": {
        name: {
            "tier": "replay",
            "workload": name,
            "policies": ["lru", "arc", "alrfu"],
            "cache_tokens": [16_000],
        }
        for name in _WORKLOADS
    },
}
_RATES = {"lru": 0.3, "arc": 0.4, "alrfu": 0.45}


def _results(folder: Path, rates: dict[str, float] = _RATES) -> Results:
    cells = pd.DataFrame(
        [
            row(workload=name, policy=policy, cache_tokens=16_000, hit_rate=rate)
            | {"hit_rate_per_block": rate}
            for name in _WORKLOADS
            for policy, rate in rates.items()
        ]
    )
    given = config.parse(_CONFIG, "test")
    return Results(given, folder, cells, policies.compare(cells, []))


_DESCRIBED = [
    made_up.traffic(name="skew", top_tenth=0.3),
    made_up.traffic(name="skew-full", working_set_tokens=512_000),
    made_up.traffic(name="think", **made_up.CHATS),
]


def test_has_each_workload_with_what_arc_and_the_best_gain(tmp_path: Path) -> None:
    table = maps.table(_results(tmp_path), _DESCRIBED).set_index("workload")
    skew, think = table.loc["skew"], table.loc["think"]
    assert (skew["kind"], skew["size"], skew["given"]) == ("documents", "reduced", 0.5)
    assert table.loc["skew-full"]["size"] == "full"
    # Of the working set, and of what live sessions hold.
    assert skew["share"] == pytest.approx(16_000 / 128_000)
    assert think["share"] == pytest.approx(16_000 / 20_000)
    assert (skew["measure"], think["measure"], think["given"]) == (0.3, 40, 60)
    assert skew["arc"] == pytest.approx(10)
    assert skew["best"] == pytest.approx(15)
    assert skew["best_policy"] == "alrfu"
    path = tmp_path / "map.csv"
    maps.write(table.reset_index()[list(maps.COLUMNS)], path)
    assert maps.read(path).set_index("workload")["share"]["think"] == pytest.approx(0.8)


def test_best_is_not_lru_itself(tmp_path: Path) -> None:
    rates = {"lru": 0.5, "arc": 0.4, "alrfu": 0.45}
    table = maps.table(_results(tmp_path, rates), _DESCRIBED)
    assert list(table["best"]) == pytest.approx([-5, -5, -5])


def test_without_cells_there_is_no_map(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no valid cells to make a map of"):
        maps.table(_results(tmp_path, {"lru": 0.5}), _DESCRIBED)
    (tmp_path / "map.csv").write_text("a,b\n")
    with pytest.raises(HarnessError, match=r"map\.csv: columns \['a', 'b'\]"):
        maps.read(tmp_path / "map.csv")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "documents"),
        (made_up.CHATS, "conversations"),
        # Sessions of little more than one request.
        (made_up.CHATS | {"sessions": 350}, "documents"),
        (made_up.CHATS | {"live_sessions": 0.0}, "documents"),
    ],
)
def test_conversations_are_what_goes_on(changes: dict[str, Any], kind: str) -> None:
    assert maps.kind_of(made_up.traffic(**changes)) == kind


def test_measure_says_which_exponent_or_think_time() -> None:
    made = made_up.table()
    assert maps.given(made, "documents", 0.4) == pytest.approx(0.5)
    assert maps.given(made, "documents", 0.9) == 1
    # Halfway on a logarithmic scale.
    assert maps.given(made, "conversations", 40) == pytest.approx(60)


def test_full_size_is_held_against_the_map_between_its_points() -> None:
    # Halfway from 8 at 0.1 to 2 at 0.4; it has 6.
    assert maps.rms(made_up.table(), "documents", "arc") == (pytest.approx(1), 1)
    difference, count = maps.rms(made_up.table(), "conversations", "arc")
    assert count == 0
    assert math.isnan(difference)


def test_between_is_nothing_beyond_a_workloads_own_caches() -> None:
    made = made_up.table()
    own = made[made["workload"] == "skew-10"]
    values = maps.between(own, np.array([0.05, 0.1, 0.2, 0.4, 0.8]), "arc")
    assert values[1:4] == pytest.approx([8, 5, 2])
    assert np.isnan(values[[0, 4]]).all()


def test_sentence_has_the_nearest_point() -> None:
    made, minus = made_up.table(), "\N{MINUS SIGN}"
    skewed = maps.sentence(made, made_up.traffic(top_tenth=0.55), 16_000)
    assert "is 0.12 of its working set" in skewed
    assert "(documents of Zipf exponent 1, 60 % and 0.1)" in skewed
    assert "ARC at +8.0 points over LRU and the best other policy, ALRFU, at +9.0." in skewed
    assert "edge" not in skewed
    assert "of look-ups" in skewed
    chats = maps.sentence(made, made_up.traffic(**made_up.CHATS | {"live_sessions": 12.0}), 12_000)
    assert "0.6 times what its 12 live sessions hold" in chats
    assert f"ARC at {minus}4.0 points over LRU" in chats
    for beyond in (made_up.traffic(top_tenth=0.1), made_up.traffic(working_set_tokens=10**7)):
        assert maps.sentence(made, beyond, 16_000).endswith("It lies beyond the map's edge.")
