"""Logs with the messages of each request: OpenAI's chat requests, and what is like them.

A record is a request with all messages before it::

    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]}

It may have a time, a session, the length of its answer (itself or in `usage`), and `tools`. aiperf
writes such lines. In batch files the request is the `body` of the record, in logs of proxies often
its `request`. LMCache's traces of agents call the messages `input`, as OpenAI's responses do.
"""

import json
from collections.abc import Iterator, Mapping

from pydantic_core import from_json

from workloads.formats import template
from workloads.formats.asked import (
    Asked,
    Record,
    Text,
    Unusable,
    delay_ms,
    output_tokens,
    session,
    time_ms,
)

_WRAPS = ("body", "request", "request_body", "payload")
_ANSWERS = ("response", "response_body", "result")


def unwrapped(record: Record) -> Record:
    """Return a record with the keys of the request inside it, and those of its answer's `usage`."""
    merged = dict(record)
    for name in _WRAPS:
        if isinstance(inner := _object(record.get(name)), Mapping):
            merged = {**merged, **unwrapped(inner)}
    for name in _ANSWERS:
        answer = _object(record.get(name))
        if isinstance(answer, Mapping):
            body = _object(answer.get("body"))
            usage = (body if isinstance(body, Mapping) else answer).get("usage")
            if usage is not None:
                merged.setdefault("usage", usage)
    return merged


def _object(value: object) -> object:
    """Return an object that may be written as text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return from_json(value)
        except ValueError:
            pass
    return value


def has_messages(record: Record) -> bool:
    """Whether the record has the messages of one request."""
    inner = unwrapped(record)
    return isinstance(inner.get("messages"), list) or _are_messages(inner.get("input"))


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def read(record: Record) -> Iterator[Asked]:
    """Read a request; an answer at the end of its messages is its answer.

    Raises:
        BadRecord: if it lacks something or has something impossible.

    """
    record = unwrapped(record)
    name = "messages" if "messages" in record else "input"
    found = template.messages(record, name)
    answer = None
    if found and template.role_of(found[-1][0]) == "assistant":
        answer = template.reply(found.pop()[1])
    if not found:
        raise Unusable("requests without a message")
    parts: list[str] = []
    if tools := record.get("tools") or record.get("functions"):
        parts += template.said("tools", json.dumps(tools, ensure_ascii=False))
    if isinstance(instructions := record.get("instructions"), str) and instructions:
        parts += template.said("system", instructions)
    for role, text in found:
        parts += template.said(role, text)
    if name == "input" and isinstance(output := record.get("output"), str) and output:
        answer = template.reply(output)
    yield Asked(
        prompt=Text((*parts, template.ASSISTANT)),
        time=time_ms(record, 1),
        delay=delay_ms(record),
        output_tokens=output_tokens(record),
        reply=answer,
        session=session(record),
    )
