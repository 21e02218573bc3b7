from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.tokenizer import WordTokenizer

from workloads import blocks
from workloads.file import BlockWorkload, Header, TextRequest, TextWorkload

_TEXTS = {
    name: " ".join(f"{name}{i}" for i in range(n))
    for name, n in zip("abcde", (3, 5, 8, 1, 4), strict=True)
}


def _workload(prompts: list[tuple[str, ...]], start: int) -> TextWorkload:
    sizes = {name: len(text.split()) for name, text in _TEXTS.items()}
    requests = tuple(
        TextRequest(
            request=i,
            session=i % 3,
            prompt_tokens=start + sum(sizes[part] for part in parts),
            output_tokens=1,
            parts=parts,
        )
        for i, parts in enumerate(prompts)
    )
    header = Header(
        content="text", name="w", seed=1, texts=len(_TEXTS), requests=len(requests), params={}
    )
    return TextWorkload(header, requests, _TEXTS)


def _tokens(workload: TextWorkload, tokenizer: Any) -> list[list[int]]:
    return [
        [*tokenizer.start]
        + [token for part in request.parts for token in tokenizer.encode(workload.texts[part])]
        for request in workload.requests
    ]


@given(
    prompts=st.lists(
        st.lists(st.sampled_from("abcde"), min_size=1, max_size=5).map(tuple),
        min_size=1,
        max_size=8,
    ),
    block_size=st.integers(1, 6),
    start=st.sampled_from([(), (1000,), (1000, 1001)]),
)
def test_blocks_are_equal_exactly_where_all_tokens_up_to_their_end_are(
    prompts: list[tuple[str, ...]], block_size: int, start: tuple[int, ...]
) -> None:
    tokenizer: Any = WordTokenizer(start)
    workload = _workload(prompts, len(start))
    cut = blocks.from_text(workload, tokenizer, block_size)
    assert isinstance(cut, BlockWorkload)
    assert (cut.header.content, cut.header.block_size, cut.header.texts) == (
        "blocks",
        block_size,
        0,
    )
    named: dict[int, tuple[int, ...]] = {}
    for request, tokens in zip(cut.requests, _tokens(workload, tokenizer), strict=True):
        assert request.prompt_tokens == len(tokens)
        assert request.session == request.request % 3
        ids = list(request.blocks())
        assert len(ids) == request.num_blocks == len(tokens) // block_size
        for i, block in enumerate(ids):
            prefix = tuple(tokens[: (i + 1) * block_size])
            assert named.setdefault(block, prefix) == prefix
    assert len(set(named.values())) == len(named)


@given(ids=st.lists(st.integers(0, 5)), before=st.lists(st.integers(0, 5)))
def test_runs_are_the_ids(ids: list[int], before: list[int]) -> None:
    found = blocks.runs(ids, blocks.runs(before))
    assert [i for first, count in found for i in range(first, first + count)] == [*before, *ids]
    for (first, count), (following, _) in pairwise(found):
        assert following != first + count
