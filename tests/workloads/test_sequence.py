from typing import Any

import pytest
from pydantic import ValidationError

from workloads import sequence
from workloads.file import Header, TextRequest, TextWorkload, WorkloadError
from workloads.sequence import Sequence

_SHAREGPT = {
    "kind": "sharegpt",
    "conversations": 3,
    "arrival_rate": 1,
    "think_time_mean": 1,
    "length_max": 20_000,
}
_PARTS = {"docs": {"kind": "docqa"}, "chats": _SHAREGPT}
_PHASES = [
    {"part": "docs", "requests": 2},
    {"part": "chats", "requests": 3},
    {"part": "docs", "requests": 1},
]


def _params(**changes: Any) -> Sequence:
    return Sequence.model_validate({"parts": _PARTS, "phases": _PHASES} | changes)


def _part(name: str, count: int) -> TextWorkload:
    requests = tuple(
        TextRequest(
            request=i,
            session=i if name == "chats" else None,
            window=i if name == "docs" else None,
            arrival_ms=100.0 * i,
            prompt_tokens=10 + i,
            output_tokens=1,
            parts=("all", f"{i}"),
        )
        for i in range(count)
    )
    texts = {"all": f"{name}'s ", **{f"{i}": f"{name}-{i}" for i in range(count)}}
    header = Header(
        content="text", name=name, seed=1, requests=count, params={}, notes=("made up",)
    )
    return TextWorkload(header, requests, texts)


def test_phases_take_the_next_requests_of_their_parts() -> None:
    params = _params()
    made = sequence.build("s", params, 1, {"docs": _part("docs", 3), "chats": _part("chats", 3)})
    assert [made.prompt(request) for request in made.requests] == [
        "docs's docs-0",
        "docs's docs-1",
        "chats's chats-0",
        "chats's chats-1",
        "chats's chats-2",
        # Not the first again.
        "docs's docs-2",
    ]
    assert [request.request for request in made.requests] == list(range(6))
    assert [request.window for request in made.requests] == [0, 1, None, None, None, 2]
    assert [request.session for request in made.requests] == [None, None, 0, 1, 2, None]
    assert {request.arrival_ms for request in made.requests} == {None}
    assert (made.header.requests, made.header.texts) == (6, len(made.texts))
    assert made.header.notes == ("docs: made up", "chats: made up")
    assert params.starts == [0, 2, 5]
    assert (params.taken("docs"), params.taken("chats")) == (3, 3)
    assert params.length_max == 20_000


def test_only_the_first_requests_if_so_asked() -> None:
    parts = {"docs": _part("docs", 3), "chats": _part("chats", 3)}
    made = sequence.build("s", _params(requests=3), 1, parts)
    assert [request.parts[0] for request in made.requests] == ["docs/all", "docs/all", "chats/all"]
    assert set(made.texts) == {"docs/all", "docs/0", "docs/1", "chats/all", "chats/0"}


def test_part_with_too_few_requests_is_refused() -> None:
    parts = {"docs": _part("docs", 2), "chats": _part("chats", 3)}
    with pytest.raises(WorkloadError, match=r"s: part docs has 2 requests, and the phases take 3"):
        sequence.build("s", _params(), 1, parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": _PHASES[:1]}, "at least 2 items"),
        ({"phases": [*_PHASES, {"part": "x", "requests": 1}]}, r"'x' is none of the parts \(docs"),
        ({"parts": _PARTS | {"idle": {"kind": "docqa"}}}, "no phase is of 'idle'"),
        ({"parts": _PARTS | {"docs": {"kind": "trace", "path": "p"}}}, "'docqa', 'sharegpt'"),
        ({"phases": [*_PHASES, {"part": "docs", "requests": 0}]}, "greater than 0"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _params(**changes)
