"""Logs with the prompt of each request as one text or as token ids.

OpenAI's completions, vLLM's custom data sets, guidellm's, LMCache's agents and aiperf's::

    {"prompt": "What is the capital of France?", "output_tokens": 10}
    {"prompt": [9707, 11, 1879]}
    {"system_prompt": "Be brief.", "question": "Why?", "output_tokens_count": 20}
    {"timestamp": 1700000000000000, "input": "...", "output": "...", "session_id": "a"}
    {"text_input": "Hello", "timestamp": 1000, "output_length": 4}
    {"session_id": "a", "turns": [{"text": "Hello"}, {"text": "Go on", "delay": 1500}]}

The prompt may be inside the record, as `body` or `request`; a list of prompts is as many requests.
So are the questions about a document, of a corpus file (workloads/corpus.py). Of turns, each one's
prompt has those before it; the answers are not in the log and take no room.
"""

from collections.abc import Iterator, Sequence

from workloads.formats import template
from workloads.formats.asked import (
    Asked,
    BadRecord,
    Prompt,
    Record,
    Text,
    TokenIds,
    Unusable,
    delay_ms,
    output_tokens,
    session,
    shown,
    text,
    time_ms,
)
from workloads.formats.chats import unwrapped

# In guidellm's order, after those that are nothing else.
_PROMPTS = (
    *("prompt", "text_input", "input_text", "prompt_token_ids", "input_ids", "token_ids"),
    *("instruction", "question", "input", "context", "content", "text", "texts"),
)
_PREFIXES = ("system_prompt", "system", "prefix")


def has_prompt(record: Record) -> bool:
    """Whether the record has the prompt of one request."""
    inner = unwrapped(record)
    return any(isinstance(inner.get(name), str | list) for name in _PROMPTS)


def has_turns(record: Record) -> bool:
    """Whether the record has turns of a user without answers."""
    return isinstance(record.get("turns"), list)


def has_document(record: Record) -> bool:
    """Whether the record is a document with questions about it."""
    return isinstance(record.get("document"), str) and isinstance(record.get("questions"), list)


def read(record: Record) -> Iterator[Asked]:
    """Read a request, or several with the same keys.

    Raises:
        BadRecord: if it lacks something or has something impossible.

    """
    record = unwrapped(record)
    name = next((name for name in _PROMPTS if record.get(name) is not None), None)
    if name is None:
        raise BadRecord(f"prompt: missing; the record has {', '.join(record) or 'no keys'}")
    prefix = next((text(key, record[key]) for key in _PREFIXES if record.get(key)), "")
    answer = record.get("output")
    for prompt in _prompts(name, record[name], prefix):
        yield Asked(
            prompt=prompt,
            time=time_ms(record, 1),
            delay=delay_ms(record),
            output_tokens=output_tokens(record),
            reply=answer if isinstance(answer, str) and answer else None,
            session=session(record),
        )


def _prompts(name: str, value: object, prefix: str) -> Iterator[Prompt]:
    if isinstance(value, str):
        parts = tuple(filter(None, (prefix, text(name, value))))
        if not parts:
            raise Unusable("requests with an empty prompt")
        yield Text(parts)
    elif isinstance(value, list) and value and all(type(token) is int for token in value):
        if not all(0 <= token < 2**32 for token in value):
            raise BadRecord(f"{name}: {shown(value)} where token ids are due")
        yield TokenIds(tuple(value))
    elif isinstance(value, list) and value and all(isinstance(one, str | list) for one in value):
        for one in value:
            yield from _prompts(name, one, prefix)
    elif isinstance(value, list) and not value:
        raise Unusable("requests with an empty prompt")
    else:
        raise BadRecord(f"{name}: {shown(value)} where text or token ids are due")


def read_turns(record: Record) -> Iterator[Asked]:
    """Read a session, whose name may be missing.

    Raises:
        BadRecord: if it lacks something or has something impossible.

    """
    turns = record.get("turns")
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise BadRecord(f"turns: {shown(turns)} where a list of turns is due")
    if not turns:
        raise Unusable("sessions without a turn")
    parts: tuple[str, ...] = ()
    name = session(record) or object()
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise BadRecord(f"turns.{i}: {shown(turn)} where a turn is due")
        texts = turn.get("text", turn.get("texts"))
        if isinstance(texts, list):
            texts = "".join(text(f"turns.{i}.texts", one) for one in texts)
        said = template.said("user", text(f"turns.{i}.text", texts))
        parts = (*parts, *said, template.ASSISTANT)
        yield Asked(
            prompt=Text(parts),
            time=time_ms(turn, 1) if i else time_ms({**record, **turn}, 1),
            delay=delay_ms(turn),
            output_tokens=output_tokens(turn),
            session=name,
            turn=i,
        )
        parts = (*parts, template.reply(""))


def read_document(record: Record) -> Iterator[Asked]:
    """Read the questions about a document, each of which is a request.

    Raises:
        BadRecord: if it lacks something.

    """
    document, questions = text("document", record.get("document")), record.get("questions")
    if not isinstance(questions, list):
        raise BadRecord(f"questions: {shown(questions)} where a list of texts is due")
    for question in questions:
        asked = text("questions", question)
        if parts := tuple(filter(None, (document, asked))):
            yield Asked(prompt=Text(parts))
