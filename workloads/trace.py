"""Production traces: requests that others recorded, with ids of blocks in place of text.

A trace is JSON lines in the order of arrival, in one of two formats. ``mooncake`` (Qin et al.,
FAST '25) has times in milliseconds and ids of 512 tokens::

    {"timestamp": 27000, "input_length": 1030, "output_length": 52, "hash_ids": [0, 46, 47]}

``bailian`` (Wang et al., USENIX ATC '25) has times in seconds, ids of 16 tokens, and says which
chat a request goes on with::

    {"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 40,
     "output_length": 132, "type": "text", "turn": 2, "hash_ids": [1089, 1090, 6326]}

An id of ``mooncake`` names a block and all the blocks before it, so over a whole trace it comes
after one and the same id. An id of ``bailian`` names a block alone, and may come anywhere. The last
id of a request may be of a block that is not full.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from workloads import blocks
from workloads.file import BlockRequest, BlockWorkload, Header, Run, WorkloadError


class Trace(BaseModel):
    """Parameters of the workload; all lengths in tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["trace"] = "trace"
    dataset: str = Field(
        description="the name of a data set (workloads/datasets.yaml), or the path of a trace"
    )
    format: Literal["mooncake", "bailian"]
    requests: PositiveInt | None = Field(
        None, description="only the first so many, of those not left out for their length"
    )
    warm_up: NonNegativeInt = Field(0, description="so many requests in front only fill the cache")
    length_max: PositiveInt | None = Field(
        None, description="requests with longer prompts are left out"
    )
    output_tokens: PositiveInt | Literal["trace"] = Field(
        1, description="tokens that each request asks for; `trace`: its own, at least 1"
    )


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    timestamp: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    input_length: PositiveInt
    output_length: NonNegativeInt
    hash_ids: list[NonNegativeInt]


class _ChatLine(_Line):
    chat_id: NonNegativeInt
    parent_chat_id: Annotated[int, Field(ge=-1)]
    type: str
    turn: NonNegativeInt


@dataclass(frozen=True)
class _Format:
    line: type[_Line]
    block_size: int  # tokens an id
    millisecond: float  # in the unit of its timestamps
    may_lack_partial: bool  # whether a last block that is not full may have no id
    of_prefixes: bool  # whether an id names all the blocks before it, too


_FORMATS = {
    "mooncake": _Format(_Line, 512, 1, may_lack_partial=False, of_prefixes=True),
    "bailian": _Format(_ChatLine, 16, 1e-3, may_lack_partial=True, of_prefixes=False),
}


def build(name: str, params: Trace, seed: int, path: Path, block_size: int) -> BlockWorkload:
    """Make the workload of one trace.

    An id of the trace becomes the ids of the engine's blocks that it is made of, and a request has
    those that are full. The session of a Bailian request is the first chat that it goes back to
    within the trace.

    Args:
        name: The workload's name in the config.
        params: Its parameters.
        seed: Written to the header; it changes nothing, since a trace leaves nothing to chance.
        path: The trace.
        block_size: Tokens a block of the engine.

    Raises:
        WorkloadError: if the trace is missing, or a line of it is bad; if its ids are not of a
            whole number of blocks; or if no request is left after the warm-up.

    """
    form = _FORMATS[params.format]
    per_id, rest = divmod(form.block_size, block_size)
    if rest:
        raise WorkloadError(
            f"{path}: ids of {form.block_size} tokens are not a whole number of blocks of "
            f"{block_size}: set the engine's block size to a divisor of {form.block_size}"
        )
    requests: list[BlockRequest] = []
    roots: dict[int, int] = {}
    prefixes: dict[tuple[int | None, int], int] = {}
    too_long = after_last = 0
    for number, line in _lines(path, form):
        session = turn = None
        if isinstance(line, _ChatLine):
            # Also of requests that are left out, so that those after them keep their session.
            session = roots[line.chat_id] = roots.get(line.parent_chat_id, line.chat_id)
            turn = line.turn
        if len(requests) == params.requests:
            after_last += 1
            continue
        if params.length_max is not None and line.input_length > params.length_max:
            too_long += 1
            continue
        full = line.input_length // block_size
        if full > len(line.hash_ids) * per_id:
            raise _bad_line(path, number, f"no id for the last full block of {block_size} tokens")
        ids = line.hash_ids if form.of_prefixes else _prefix_ids(line.hash_ids, prefixes)
        requests.append(
            BlockRequest(
                request=len(requests),
                session=session,
                turn=turn,
                # No trace has times finer than this; more digits are those of the division.
                arrival_ms=round(line.timestamp / form.millisecond, 3),
                prompt_tokens=line.input_length,
                output_tokens=(
                    max(1, line.output_length)
                    if params.output_tokens == "trace"
                    else params.output_tokens
                ),
                runs=_runs(ids, per_id, full),
            )
        )
    if params.warm_up >= len(requests):
        raise WorkloadError(
            f"{path}: {len(requests)} requests, of which {params.warm_up} for the warm-up leave "
            "none: lower `warm_up`, or raise `requests` or `length_max`"
        )
    notes = ["the seed changes nothing: the requests are those of the trace"]
    if too_long:
        notes.append(f"requests left out, of over {params.length_max} tokens: {too_long}")
    if after_last:
        notes.append(f"requests left out, after the first {params.requests}: {after_last}")
    header = Header(
        content="blocks",
        name=name,
        seed=seed,
        block_size=block_size,
        requests=len(requests),
        warm_up=params.warm_up,
        params=params.model_dump(),
        notes=tuple(notes),
    )
    return BlockWorkload(header, tuple(requests))


def _prefix_ids(ids: Sequence[int], known: dict[tuple[int | None, int], int]) -> list[int]:
    """Return ids that name each block and all before it, numbered as they first come."""
    named: list[int] = []
    previous = None
    for block in ids:
        previous = known.setdefault((previous, block), len(known))
        named.append(previous)
    return named


def _runs(ids: Sequence[int], per_id: int, full: int) -> tuple[Run, ...]:
    """Return the first ``full`` of the blocks that ids are made of, as runs."""
    found = []
    for first, count in blocks.runs(ids):
        length = min(count * per_id, full)
        full -= length
        if length:
            found.append((first * per_id, length))
    return tuple(found)


def _lines(path: Path, form: _Format) -> Iterator[tuple[int, _Line]]:
    """Yield each line, checked, with its number."""
    before: dict[int, int | None] = {}
    number, time = 0, 0.0
    try:
        with path.open("rb") as file:
            for number, content in enumerate(file, start=1):
                line = _parse(path, number, content, form)
                if line.timestamp < time:
                    raise _bad_line(path, number, f"time goes back from {time} to {line.timestamp}")
                time = line.timestamp
                if form.of_prefixes:
                    _check_order(path, number, line.hash_ids, before)
                yield number, line
    except FileNotFoundError:
        raise WorkloadError(f"{path}: no such trace") from None
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from None
    if number == 0:
        raise WorkloadError(f"{path}: an empty trace")


def _parse(path: Path, number: int, content: bytes, form: _Format) -> _Line:
    try:
        line = form.line.model_validate_json(content.decode())
    except UnicodeDecodeError as error:
        raise _bad_line(path, number, f"not UTF-8: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _bad_line(path, number, f"{where + ': ' if where else ''}{first['msg']}") from None
    full, partial = divmod(line.input_length, form.block_size)
    expected = full + bool(partial)
    if len(line.hash_ids) not in (expected, full if form.may_lack_partial else expected):
        raise _bad_line(
            path,
            number,
            f"hash_ids: {len(line.hash_ids)} ids where {line.input_length} tokens have {expected}",
        )
    return line


def _check_order(
    path: Path, number: int, ids: Sequence[int], before: dict[int, int | None]
) -> None:
    """Check that each id comes after the same id as ever, and note what new ids come after."""
    previous = None
    for block in ids:
        if (known := before.setdefault(block, previous)) != previous:
            # An id that is there twice cannot come after the same blocks both times.
            if ids.count(block) > 1:
                raise _bad_line(path, number, f"hash_ids: {block} twice in one request")
            here, there = ("first" if i is None else f"after {i}" for i in (previous, known))
            raise _bad_line(
                path, number, f"hash_ids: {block} comes {here}, but {there} in an earlier request"
            )
        previous = block


def _bad_line(path: Path, number: int, reason: str) -> WorkloadError:
    return WorkloadError(f"{path}, line {number}: {reason}")
