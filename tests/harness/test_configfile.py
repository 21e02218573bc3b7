from pathlib import Path

import pytest

from harness import configfile
from harness.errors import HarnessError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"lines 1 and 3: a is there twice"),
        ("a:\n  b: 1\n  c:\n    d: 1\n  c: 2\n", r"lines 3 and 5: a\.c is there twice"),
        ("a:\n- {b: 1, b: 2}\n", r"lines 2 and 2: a\.0\.b is there twice"),
        ('a: 1\n"a": 2\n', r"lines 1 and 2: a is there twice"),
        ("a: [", "not YAML"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_lines(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(HarnessError, match=message) as raised:
        configfile.read(tmp_path / "c.yaml")
    assert str(tmp_path / "c.yaml") in str(raised.value)


def test_anchors_are_no_repetition(tmp_path: Path) -> None:
    text = "a: &x {k: 1}\nb: *x\nc:\n  <<: *x\n  l: 2\n"
    (tmp_path / "c.yaml").write_text("\ufeff" + text, encoding="utf-8")
    assert configfile.read(tmp_path / "c.yaml") == {
        "a": {"k": 1},
        "b": {"k": 1},
        "c": {"k": 1, "l": 2},
    }


def test_shipped_configs_are_read(root: Path) -> None:
    for path in (root / "config").glob("*.yaml"):
        assert isinstance(configfile.read(path), dict)
