"""Logs of whole conversations: ShareGPT, its variants, WildChat and LMSYS.

A record is a conversation, in the order in which it was said::

    {"id": "a", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": ...}]}
    {"conversation_id": "b", "conversation": [{"role": "user", "content": "..."}, ...]}

The list may be called `items`, too. Each turn of a user is a request, whose prompt is all before it
and what the user says. A conversation ends before what is empty: its log is not whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from workloads.formats import template
from workloads.formats.asked import Asked, Record, Text, Unusable, session, time_ms

_NAMES = ("conversations", "conversation", "items")


def fits(record: Record) -> bool:
    """Whether the record is a conversation."""
    return any(isinstance(record.get(name), list) for name in _NAMES)


def messages(record: Record) -> list[tuple[str, str]]:
    """Return role and text of each message; the text may be empty.

    Raises:
        BadRecord: if it is no conversation.

    """
    return template.messages(record, _name(record))


def read(record: Record) -> Iterator[Asked]:
    """Read a conversation, each turn of its user as a request.

    A time of the record is that of its first turn, but where its messages have times of their own.

    Raises:
        BadRecord: if it is no conversation.

    """
    times = _times(record, record.get(_name(record)))
    found = [(template.role_of(name), text) for name, text in messages(record)]
    # What an assistant says first answers what is not in the log.
    begins = next((i for i, (role, _) in enumerate(found) if role != "assistant"), len(found))
    parts: tuple[str, ...] = ()
    name = session(record) or object()
    turn = 0
    for i, (role, text) in list(enumerate(found))[begins:]:
        if not text.strip():
            break
        parts = (*parts, *template.said(role, text))
        if role == "user":
            then = found[i + 1] if i + 1 < len(found) else ("", "")
            yield Asked(
                prompt=Text((*parts, template.ASSISTANT)),
                time=times[i],
                reply=(
                    template.reply(then[1]) if then[0] == "assistant" and then[1].strip() else None
                ),
                session=name,
                turn=turn,
            )
            turn += 1
    if not turn:
        raise Unusable("conversations in which a user says nothing")


def _name(record: Record) -> str:
    return next((name for name in _NAMES if record.get(name) is not None), _NAMES[0])


def _times(record: Record, found: object) -> list[float | None]:
    """Return the time of each message: its own, else that of the answer to it."""
    if not isinstance(found, Sequence):
        return []
    own = [time_ms(one, 1) if isinstance(one, Mapping) else None for one in found]
    times = [b if a is None else a for a, b in zip_longest(own, own[1:])]
    if all(time is None for time in own):
        names = ("timestamp", "tstamp", "created_at", "create_time", "created", "time", "date")
        first = next((i for i, one in enumerate(found) if _is_user(one)), None)
        if first is not None:
            times[first] = time_ms(record, 1, names)
    return times


def _is_user(message: object) -> bool:
    name = message.get("role") or message.get("from") if isinstance(message, Mapping) else None
    return isinstance(name, str) and template.role_of(name.lower()) == "user"
