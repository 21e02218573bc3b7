"""What all formats have in common: a request as a log has it."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

Record = Mapping[str, Any]
"""One object of a log: a line of JSON, an element of an array, or a row of CSV."""


class Unusable(Exception):  # noqa: N818 - no error: there are such records in good logs
    """A record asks nothing; the message says why, in the plural: "conversations without ..."."""


class BadRecord(Exception):  # noqa: N818 - a line of a file, which whoever knows the file names
    """A record cannot be used; the message says what was found and what to do."""


@dataclass(frozen=True, slots=True)
class BlockIds:
    """A prompt as ids of its blocks; the last may be of a block that is not full, or be missing."""

    ids: npt.NDArray[np.uint64]
    tokens: int
    id_tokens: int | None = None  # tokens an id, if the log says


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt as texts, whose tokens follow each other; no text is empty."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt as the ids of its tokens."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Length:
    """A prompt of which nothing is known but its length."""

    tokens: int


Prompt = BlockIds | Text | TokenIds | Length


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request; times in ms. None: the log does not say."""

    prompt: Prompt
    time: float | None = None
    delay: float | None = None  # from the request before in its session
    output_tokens: int | None = None
    reply: str | None = None  # as later prompts have it; its tokens are those of the output
    session: Hashable = None
    goes_on: Hashable = None  # the session that this one goes on with, if it is known
    turn: int | None = None


MOST_TOKENS = 10_000_000
"""Of one prompt or output: more than any model takes."""


def number(
    record: Record,
    names: Sequence[str],
    least: float = 0,
    whole: bool = True,
    most: float = math.inf,
) -> float | None:
    """Return the first of the keys that the record has, as a number; None without any.

    Whole numbers may be written as floats or text, as tables are that went through others' hands.

    Raises:
        BadRecord: if it is no such number.

    """
    for name in names:
        if (value := record.get(name)) is not None and value != "":
            break
    else:
        return None
    kind = "a whole number" if whole else "a number"
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
        good = math.isfinite(found) and found >= least and not (whole and found % 1)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise BadRecord(f"{name}: {shown(value)} where {kind} of {least:g} or more is due")
    if found > most:
        raise BadRecord(f"{name}: {shown(value)} where no more than {most:,} is due")
    return found


def needed(record: Record, names: Sequence[str], least: int = 0, most: float = math.inf) -> int:
    """Return the same of a whole number that must be there."""
    found = number(record, names, least, most=most)
    if found is None:
        raise BadRecord(f"{names[0]}: missing; the record has {', '.join(record) or 'no keys'}")
    return int(found)


_TIMES = ("timestamp", "created_time", "created_at", "created", "arrival_time", "time", "date")
SINCE_1970_MS = 1e11
"""In ms, a time of this or more counts since 1970, one of less does not."""
# Times since 1970 in s, ms, us and ns are as far apart as this, for 300 years to come; in s they
# begin in 2001, so that those from another beginning may be of eleven days in ms.
_SINCE_1970 = ((1e17, 1e-6), (1e14, 1e-3), (1e11, 1.0), (1e9, 1e3))


def time_ms(record: Record, unit_ms: float, names: Sequence[str] = _TIMES) -> float | None:
    """Return when the request came, in ms; None if the record does not say.

    Args:
        record: It may have a number or text, and text may be a number or a date as in ISO 8601.
        unit_ms: What a small number counts. A large one is a time since 1970, whose unit shows.
        names: The keys, of which the first that is there is taken.

    Raises:
        BadRecord: if it is no time.

    """
    for name in names:
        value = record.get(name)
        if isinstance(value, datetime):
            return _since_1970_ms(value)
        if isinstance(value, str) and value.strip():
            try:
                float(value)
            except ValueError:
                return _date_ms(name, value.strip())
        found = number(record, [name], whole=False)
        if found is not None:
            unit = next((unit for least, unit in _SINCE_1970 if found >= least), unit_ms)
            return found * unit
    return None


def _date_ms(name: str, text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadRecord(
            f"{name}: {shown(text)} is no time: write a number, or a date as 2026-01-31T12:00:00Z"
        ) from None
    return _since_1970_ms(found)


def _since_1970_ms(date: datetime) -> float:
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1e3


INPUT = ("input_length", "input_tokens", "prompt_tokens")
OUTPUT = (
    *("output_length", "output_tokens", "completion_tokens"),
    *("output_tokens_count", "completion_tokens_count"),
)


def output_tokens(record: Record) -> int | None:
    """Return the length of the answer, if the record says, itself or in its `usage`."""
    usage = record.get("usage")
    for source in (record, usage if isinstance(usage, Mapping) else {}):
        if (found := number(source, OUTPUT, most=MOST_TOKENS)) is not None:
            return int(found)
    return None


def delay_ms(record: Record) -> float | None:
    """Return how long after the one before in its session the request came, in ms."""
    found = number(record, ["delay", "delay_ms"], whole=False)
    if found is None and (gap := number(record, ["pre_gap"], whole=False)) is not None:
        return gap * 1e3
    return found


def session(record: Record) -> Hashable:
    """Return the name of the session, if the record has one."""
    return next((str(record[key]) for key in _SESSIONS if record.get(key) is not None), None)


_SESSIONS = ("session_id", "conversation_id")


def text(where: str, value: object) -> str:
    """Return text that a tokenizer takes.

    Raises:
        BadRecord: if it is none.

    """
    if not isinstance(value, str):
        raise BadRecord(f"{where}: {shown(value)} where text is due")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRecord(f"{where}: half a character, which no tokenizer takes") from None
    return value


def shown(value: object) -> str:
    """Return a value as a message shows it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
