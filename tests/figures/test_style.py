from typing import get_args

from figures import style
from harness.cell import Policy


def test_every_policy_has_a_look_of_its_own() -> None:
    policies = set(get_args(Policy))
    assert policies == set(style.COLORS) == set(style.MARKERS) == set(style.LABELS)
    assert len(set(style.COLORS.values())) == len(set(style.MARKERS.values())) == len(policies)
