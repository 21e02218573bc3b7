"""Messages as the text of a prompt: the chat template of Qwen's models.

No tokenizer merges across a special token. So the tokens of the parts are those of the whole
prompt, but for a reply that begins with a line break.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

from workloads.formats.asked import BadRecord, Record, shown
from workloads.formats.asked import text as checked

ASSISTANT = "<|im_start|>assistant\n"
"""What a prompt ends with, and each reply in it begins with."""

_ROLES = {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "ai", "bot"), "assistant"),
}


def role_of(name: str) -> str:
    """Return OpenAI's name of a role, whatever the log calls it."""
    return _ROLES.get(name, name)


def said(name: str, text: str) -> tuple[str, ...]:
    """Return the parts of a prompt that one message is."""
    role = role_of(name)
    if role == "assistant":
        return ASSISTANT, reply(text)
    return (f"<|im_start|>{role}\n{text}<|im_end|>\n",)


def reply(text: str) -> str:
    """Return an answer as later prompts have it after `ASSISTANT`."""
    return f"{text}<|im_end|>\n"


def messages(record: Record, name: str) -> list[tuple[str, str]]:
    """Return role and text of each message of a record's list; the text may be empty.

    What an assistant calls is text; what is no text, such as an image, is a word with its hash.

    Raises:
        BadRecord: if it is no such list.

    """
    found = record.get(name)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise BadRecord(f"{name}: {shown(found)} where a list of messages is due")
    return [_message(f"{name}.{i}", message) for i, message in enumerate(found)]


def _message(where: str, message: object) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise BadRecord(f"{where}: {shown(message)} where a message is due")
    role = next((message[key] for key in ("role", "from") if key in message), None)
    if not isinstance(role, str) or not role:
        raise BadRecord(f"{where}.role: {shown(role)} where a name is due (or as `from`)")
    keys = [key for key in ("content", "value", "text") if key in message]
    calls = {key: message[key] for key in ("tool_calls", "function_call") if message.get(key)}
    if not keys and not calls and message.get("type") is None:
        raise BadRecord(f"{where}.content: missing (or as `value`)")
    content = message[keys[0]] if keys else None
    texts = [_text(f"{where}.{keys[0] if keys else 'content'}", content)]
    if calls:
        texts.append(json.dumps(calls, ensure_ascii=False))
    return role.lower(), "\n".join(filter(None, texts))


def _text(where: str, content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(_text(f"{where}.{i}", part) for i, part in enumerate(content))
    if not isinstance(content, Mapping):
        return checked(where, content)
    if "text" in content:
        return checked(f"{where}.text", content["text"])
    whole = json.dumps(content, sort_keys=True).encode()
    digest = hashlib.blake2b(whole, digest_size=8).hexdigest()
    return f"[{content.get('type', 'part')} {digest}]"
