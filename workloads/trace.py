"""Requests that others recorded: a production trace, or a log of one's own.

What formats a log may be in, and how they are read, is in workloads/formats.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from workloads.file import BlockRequest, BlockWorkload, Header, Run, WorkloadError
from workloads.formats import log as logs
from workloads.formats.cutting import BatchTokenizer, Cutter
from workloads.formats.registry import FORMATS, recognise
from workloads.formats.times import arrivals


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
        None,
        le=65_536,
        description="tokens an id of the log has; without, found out from the lengths",
    )
    skip_bad: NonNegativeInt = Field(
        0, description="so many records that cannot be read are left out, and counted"
    )
    times: str | None = Field(
        None,
        description="the path of another log, at whose times the requests come, in their order; it "
        "may have times and lengths alone (BurstGPT, Azure)",
    )
    arrival_rate: PositiveFloat = Field(
        1.0, le=100_000, description="of conversations without times: how many begin in a second"
    )
    think_time_mean: PositiveFloat = Field(
        60.0, le=86_400, description="of turns without times: mean seconds from one to the next"
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


def _no_tokenizer() -> BatchTokenizer:
    raise WorkloadError("a log of text needs the tokenizer of a model")


def build(
    name: str,
    params: Trace,
    seed: int,
    path: Path,
    block_size: int,
    load_tokenizer: Callable[[], BatchTokenizer] = _no_tokenizer,
    report: Callable[[str], object] = lambda line: None,
) -> BlockWorkload:
    """Make the workload of one log.

    An id of the log becomes the ids of the engine's blocks that it is made of, and a request has
    those that are full. Requests are in the order of their times, which count from the first.

    Args:
        name: The workload's name in the config.
        params: Its parameters.
        seed: Of the times that are made up, where a log lacks them; else it changes nothing.
        path: The log.
        block_size: Tokens a block of the engine.
        load_tokenizer: Called only of a log of text, which is cut into blocks.
        report: Is given a line of progress now and then.

    Raises:
        WorkloadError: if the log is missing, in no known format, or a record of it is bad; if its
            ids are not of a whole number of blocks; or if no request is left after the warm-up.

    """
    form = FORMATS[params.format] if params.format else recognise(path)
    cutter = Cutter(load_tokenizer(), block_size) if form.content == "text" else None
    log = logs.read(path, form, block_size, cutter, params.id_tokens, params.skip_bad, report)
    per_id = log.id_tokens // block_size
    order, times, made_up = arrivals(log, params.arrival_rate, params.think_time_mean, seed)
    if params.times is not None:
        times[order], made_up = _times_of(Path(params.times), len(order)), []
    requests: list[BlockRequest] = []
    turns: dict[int, int] = {}
    too_long = after_last = 0
    for number in order.tolist():
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
        time = float(times[number])
        requests.append(
            BlockRequest(
                request=len(requests),
                session=session,
                turn=turn,
                # No trace has times finer than this; more digits are those of the division.
                arrival_ms=None if math.isnan(time) else round(time, 3),
                prompt_tokens=tokens,
                output_tokens=(
                    max(1, log.output_tokens[number])
                    if params.output_tokens == "trace"
                    else params.output_tokens
                ),
                runs=_runs(log.runs(number), per_id, tokens // block_size),
            )
        )
    if params.warm_up >= len(requests):
        raise WorkloadError(
            f"{path}: {len(requests)} requests, of which {params.warm_up} for the warm-up leave "
            "none: lower `warm_up`, or raise `requests` or `length_max`"
        )
    notes = [*log.notes, *made_up]
    if params.format is None:
        notes.insert(0, f"the log was recognised: {form.name}")
    if not any("seed" in note for note in made_up):
        notes.insert(0, "the seed changes nothing: the requests are those of the trace")
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


def _times_of(path: Path, count: int) -> npt.NDArray[np.float64]:
    times = logs.read_times(path, recognise(path))
    if len(times) < count:
        raise WorkloadError(f"{path}: {len(times)} times, for {count} requests: lower `requests`")
    return times[:count]


def _or_none(value: int) -> int | None:
    return None if value < 0 else value


def _runs(ids: Iterable[Run], per_id: int, full: int) -> tuple[Run, ...]:
    """Return the first ``full`` of the blocks that ids are made of, as runs."""
    found = []
    for first, count in ids:
        length = min(count * per_id, full)
        full -= length
        if length:
            found.append((first * per_id, length))
    return tuple(found)
