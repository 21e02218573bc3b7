"""Requests that others recorded: a production trace, or a log of one's own.

What formats a log may be in, and how they are read, is in workloads/formats.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from workloads.file import BlockRequest, BlockWorkload, Header, Run, WorkloadError
from workloads.formats import log as logs
from workloads.formats.log import Log
from workloads.formats.registry import FORMATS, recognise


class Trace(BaseModel):
    """Parameters of the workload; all lengths in tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["trace"] = "trace"
    dataset: str | None = Field(
        None,
        description="the name of a data set (workloads/datasets.yaml), or the path of a trace",
    )
    path: str | None = Field(None, description="the path of a log of one's own")
    format: str | None = Field(
        None,
        description=f"{', '.join(FORMATS)}; without, recognised by what is in the file",
        json_schema_extra={"enum": [*FORMATS, None]},
    )
    id_tokens: PositiveInt | None = Field(
        None, description="tokens an id of the log has; without, found out from the lengths"
    )
    skip_bad: NonNegativeInt = Field(
        0, description="so many records that cannot be read are left out, and counted"
    )
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

    @field_validator("format")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in FORMATS:
            raise ValueError(f"no such format; the formats are {', '.join(FORMATS)}")
        return name

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("say either `dataset` or `path`")
        return self

    @property
    def source(self) -> str:
        """The data set or the file, as the config names it."""
        source = self.dataset or self.path
        assert source is not None
        return source


def build(name: str, params: Trace, seed: int, path: Path, block_size: int) -> BlockWorkload:
    """Make the workload of one log.

    An id of the log becomes the ids of the engine's blocks that it is made of, and a request has
    those that are full. Requests are in the order of their times, which count from the first.

    Args:
        name: The workload's name in the config.
        params: Its parameters.
        seed: Written to the header; it changes nothing, since a trace leaves nothing to chance.
        path: The log.
        block_size: Tokens a block of the engine.

    Raises:
        WorkloadError: if the log is missing, in no known format, or a record of it is bad; if its
            ids are not of a whole number of blocks; or if no request is left after the warm-up.

    """
    form = FORMATS[params.format] if params.format else recognise(path)
    log = logs.read(path, form, params.id_tokens, params.skip_bad)
    per_id, rest = divmod(log.id_tokens, block_size)
    if rest:
        raise WorkloadError(
            f"{path}: ids of {log.id_tokens} tokens are not a whole number of blocks of "
            f"{block_size}: set the engine's block size to a divisor of {log.id_tokens}"
        )
    requests: list[BlockRequest] = []
    turns: dict[int, int] = {}
    too_long = after_last = 0
    first_ms = min(log.times)
    for number in log.order().tolist():
        tokens = log.prompt_tokens[number]
        session = _or_none(log.sessions[number])
        turn = _or_none(log.turns[number])
        if session is not None and turn is None:
            # Also of requests that are left out.
            turn = turns[session] = turns.get(session, -1) + 1
        if len(requests) == params.requests:
            after_last += 1
            continue
        if params.length_max is not None and tokens > params.length_max:
            too_long += 1
            continue
        time = log.times[number]
        requests.append(
            BlockRequest(
                request=len(requests),
                session=session,
                turn=turn,
                # No trace has times finer than this; more digits are those of the division.
                arrival_ms=None if time != time else round(time - first_ms, 3),
                prompt_tokens=tokens,
                output_tokens=(
                    max(1, log.output_tokens[number])
                    if params.output_tokens == "trace"
                    else params.output_tokens
                ),
                runs=_runs(log, number, per_id, tokens // block_size, path, block_size),
            )
        )
    if params.warm_up >= len(requests):
        raise WorkloadError(
            f"{path}: {len(requests)} requests, of which {params.warm_up} for the warm-up leave "
            "none: lower `warm_up`, or raise `requests` or `length_max`"
        )
    notes = ["the seed changes nothing: the requests are those of the trace", *log.notes]
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


def _or_none(value: int) -> int | None:
    return None if value < 0 else value


def _runs(
    log: Log, number: int, per_id: int, full: int, path: Path, block_size: int
) -> tuple[Run, ...]:
    """Return the first ``full`` of the blocks that a request's ids are made of, as runs."""
    found = []
    for first, count in log.runs(number):
        length = min(count * per_id, full)
        full -= length
        if length:
            found.append((first * per_id, length))
    if full:
        raise WorkloadError(
            f"{path}, line {log.lines[number]}: no id for the last full block of {block_size} "
            f"tokens: set the engine's block size to {log.id_tokens}"
        )
    return tuple(found)
