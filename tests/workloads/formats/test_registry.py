import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workloads.file import WorkloadError
from workloads.formats.asked import Asked, BadRecord, Text, Unusable
from workloads.formats.registry import FORMATS, recognise
from workloads.formats.source import records

_CARDS = Path(__file__).parents[3] / "workloads" / "formats" / "README.md"


def _examples() -> dict[str, str]:
    """Return the example of each format's card."""
    card = r"^### (\w+)\n.*?^```\w+\n(.*?)^```"
    return dict(re.findall(card, _CARDS.read_text(), re.MULTILINE | re.DOTALL))


def test_each_format_has_a_card() -> None:
    assert list(_examples()) == ["mooncake", "bailian", *list(FORMATS)[2:]]
    assert set(_examples()) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_example_of_its_card_is_recognised_line_by_line_and_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = _examples()[name]
    header, *lines = whole.splitlines() if name == "lengths" else ["", *whole.splitlines()]
    for line in lines:
        path.write_text(f"{header}\n{line}\n".lstrip())
        assert recognise(path) is FORMATS[name]
        ((_, record),) = records(path)
        assert isinstance(record, dict)
        asked = list(_read(name, record))
        assert asked or "null" in line


def _read(name: str, record: dict[str, Any]) -> Iterator[Asked]:
    return FORMATS[name].read(record)


_JUNK: list[Any] = [
    *(None, True, -1, 0, 1.5, 10**30, float("nan"), float("inf"), "", "x", " ", "12", "2026-01-01"),
    *(
        [],
        [[]],
        [None],
        [1, "a"],
        [-1],
        [{}],
        {},
        {"a": 1},
        {"text": 1},
        {"content": [1]},
        "\ud83d",
    ),
]


def _with_junk(value: Any, rng: random.Random) -> Any:
    """Return a value with something in it replaced by junk, or taken out."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: _with_junk(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        i = rng.randrange(len(value))
        return [*value[:i], _with_junk(value[i], rng), *value[i + 1 :]]
    return rng.choice(_JUNK)


@pytest.mark.parametrize("name", FORMATS)
def test_junk_is_read_or_refused_and_never_breaks(name: str) -> None:
    rng = random.Random(name)
    if name == "lengths":
        records = [{"Timestamp": "5", "Request tokens": "472", "Response tokens": "18"}]
    else:
        records = [json.loads(line) for line in _examples()[name].splitlines()]
    refused = 0
    for _ in range(3000):
        record = _with_junk(rng.choice(records), rng)
        if not isinstance(record, dict):
            continue
        for form in FORMATS.values():
            form.fits(record)
        try:
            for asked in FORMATS[name].read(record):
                assert asked.output_tokens is None or asked.output_tokens >= 0
                if isinstance(asked.prompt, Text):
                    # What a tokenizer takes.
                    assert asked.prompt.parts
                    assert all(part.encode() for part in (*asked.prompt.parts, asked.reply or "-"))
        except (BadRecord, Unusable):
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": 1}', "line 1: a record with a is in no format that is known: bailian, mooncake"),
        ("{}", "a record with no keys"),
        ("7", "line 1: 7 is no object: a log is JSON lines, each an object, or one JSON array"),
        ("hello", "line 1: not JSON"),
        ('{\n "messages": []\n}', "line 1: not JSON: .*: a log is JSON lines, each an object"),
        ('x,y\n"a",1', "line 2: a record with x, y is in no format"),
        ("[]", "an empty file"),
    ],
)
def test_what_is_in_no_format_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "log").write_text(content)
    with pytest.raises(WorkloadError, match=reason):
        recognise(tmp_path / "log")
