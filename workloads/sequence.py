"""Traffic that changes within a run: phases of other workloads, one after the other.

A phase takes the next requests of its workload, so that one that comes again goes on where it was:
the same documents, their popularity as it was then.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from workloads.docqa import DocQA
from workloads.file import Header, TextRequest, TextWorkload, WorkloadError
from workloads.sharegpt import ShareGPT


class Phase(BaseModel):
    """So many requests of one of the parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: str
    requests: PositiveInt = Field(description="the next so many of the part's requests")


class Sequence(BaseModel):
    """Parameters of the workload; nothing is scaled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sequence"] = "sequence"
    parts: dict[str, Annotated[DocQA | ShareGPT, Field(discriminator="kind")]] = Field(
        description="the workloads, by a name; how many requests each has, `phases` says"
    )
    phases: Annotated[tuple[Phase, ...], Field(min_length=2)]
    requests: PositiveInt | None = Field(None, description="only the first so many, of all phases")

    @model_validator(mode="after")
    def _parts_are_there(self) -> "Sequence":
        named = {phase.part for phase in self.phases}
        if others := sorted(named - self.parts.keys()):
            raise ValueError(
                f"phases: {others[0]!r} is none of the parts ({', '.join(self.parts)})"
            )
        if idle := sorted(self.parts.keys() - named):
            raise ValueError(f"parts: no phase is of {idle[0]!r}")
        return self

    @property
    def length_max(self) -> int:
        """The longest prompt that a part may have."""
        return max(part.length_max for part in self.parts.values())

    @property
    def starts(self) -> list[int]:
        """The first request of each phase."""
        return [0, *accumulate(phase.requests for phase in self.phases[:-1])]

    def taken(self, part: str) -> int:
        """Return how many of a part's requests the phases take."""
        return sum(phase.requests for phase in self.phases if phase.part == part)


def build(
    name: str, params: Sequence, seed: int, parts: Mapping[str, TextWorkload]
) -> TextWorkload:
    """Make the workload of one seed.

    Args:
        name: The workload's name in the config.
        params: Its parameters.
        seed: That the parts were made of.
        parts: Each of them, with as many requests as ``Sequence.taken`` says.

    Raises:
        WorkloadError: if a part has fewer.

    """
    for part, workload in parts.items():
        if (found := len(workload.requests)) < params.taken(part):
            raise WorkloadError(
                f"{name}: part {part} has {found} requests, and the phases take "
                f"{params.taken(part)}: lower theirs, or have it make more"
            )
    rest = {part: iter(workload.requests) for part, workload in parts.items()}
    asked = (
        (phase.part, next(rest[phase.part]))
        for phase in params.phases
        for _ in range(phase.requests)
    )
    requests: list[TextRequest] = []
    texts: dict[str, str] = {}
    for number, (part, request) in enumerate(asked):
        if number == params.requests:
            break
        for text in request.parts:
            texts[f"{part}/{text}"] = parts[part].texts[text]
        requests.append(
            replace(
                request,
                request=number,
                arrival_ms=None,  # Each part has times of its own.
                parts=tuple(f"{part}/{text}" for text in request.parts),
            )
        )
    header = Header(
        content="text",
        name=name,
        seed=seed,
        texts=len(texts),
        requests=len(requests),
        params=params.model_dump(),
        notes=tuple(
            f"{part}: {note}" for part, workload in parts.items() for note in workload.header.notes
        ),
    )
    return TextWorkload(header, tuple(requests), texts)
