"""The formats by name, and which of them a file is in."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workloads.file import WorkloadError
from workloads.formats import chats, conversations, ids, lengths, prompts, source
from workloads.formats.asked import Asked, Record, shown


@dataclass(frozen=True)
class Format:
    """How the records of a log are told and read."""

    name: str
    content: Literal["ids", "text", "lengths"]
    fits: Callable[[Record], bool]
    read: Callable[[Record], Iterator[Asked]]
    id_tokens: int | None = None  # tokens an id, where the format has a usual number


def _is_request(record: Record) -> bool:
    return chats.has_messages(record) or prompts.has_prompt(record)


def _request(record: Record) -> Iterator[Asked]:
    # A batch file may have both kinds.
    return chats.read(record) if chats.has_messages(record) else prompts.read(record)


# In the order in which they are tried: what fits several has more of the first.
_FORMATS = (
    Format("bailian", "ids", ids.has_chats, ids.bailian, 16),
    Format("mooncake", "ids", ids.has_ids, ids.mooncake, 512),
    Format("conversations", "text", conversations.fits, conversations.read),
    Format("turns", "text", prompts.has_turns, prompts.read_turns),
    Format("documents", "text", prompts.has_document, prompts.read_document),
    Format("requests", "text", _is_request, _request),
    Format("lengths", "lengths", lengths.fits, lengths.read),
)
FORMATS: Mapping[str, Format] = {form.name: form for form in _FORMATS}


def recognise(path: Path) -> Format:
    """Return the format of a log, by its first record that is an object.

    Raises:
        WorkloadError: if it is in none of them, or cannot be read.

    """
    first = None
    for place, record in source.records(path):
        if isinstance(record, Mapping):
            for form in _FORMATS:
                if form.fits(record):
                    return form
            raise WorkloadError(
                f"{path}, {place}: a record with {', '.join(record) or 'no keys'} is in no "
                f"format that is known: {', '.join(FORMATS)}; see workloads/formats/README.md, and "
                "say `format` if it is one of them"
            )
        first = first or (place, record)
    assert first is not None
    place, record = first
    reason = record if isinstance(record, Exception) else f"{shown(record)} is no object"
    raise WorkloadError(
        f"{path}, {place}: {reason}: a log is JSON lines, each an object, or one JSON array, "
        "CSV or Parquet"
    )
