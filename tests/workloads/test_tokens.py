from dataclasses import replace
from typing import Any

import pytest
from support.tokenizer import WordTokenizer

from workloads.file import (
    BlockRequest,
    BlockWorkload,
    Header,
    TextRequest,
    TextWorkload,
    WorkloadError,
)
from workloads.tokens import token_ids


def _blocks(*runs: tuple[tuple[int, int], ...]) -> BlockWorkload:
    requests = tuple(
        BlockRequest(
            request=i,
            prompt_tokens=16 * sum(count for _, count in of_request) + 5,
            output_tokens=1,
            runs=of_request,
        )
        for i, of_request in enumerate(runs)
    )
    header = Header(
        content="blocks", name="w", seed=1, block_size=16, requests=len(requests), params={}
    )
    return BlockWorkload(header, requests)


def test_blocks_have_the_same_made_up_tokens_wherever_they_occur(word_tokenizer: Any) -> None:
    workload = _blocks(((0, 3),), ((0, 2), (9, 1)), ((0, 3),))
    first, second, again = token_ids(workload, word_tokenizer, 500)
    assert [len(first), len(second)] == [53, 53]
    assert first[:32] == second[:32]
    assert first[32:48] != second[32:48]
    assert first[:48] == again[:48]
    # What comes after the last full block is nobody else's.
    assert first[48:] != again[48:]
    assert max(first) < 500
    assert first == token_ids(workload, word_tokenizer, 500)[0]


def test_text_has_the_tokens_of_its_parts(word_tokenizer: Any) -> None:
    request = TextRequest(request=0, prompt_tokens=5, output_tokens=1, parts=("a", "b"))
    header = Header(content="text", name="w", seed=1, texts=2, requests=1, params={})
    texts = {"a": "one two three", "b": "four five"}
    (tokens,) = token_ids(TextWorkload(header, (request,), texts), word_tokenizer, 500)
    assert tokens == word_tokenizer.encode("one two three four five")
    longer = replace(request, prompt_tokens=6)
    with pytest.raises(WorkloadError, match=r"request 0 has 5 tokens, not 6: .*another tokenizer"):
        token_ids(TextWorkload(header, (longer,), texts), word_tokenizer, 500)


def test_text_begins_as_the_tokenizer_begins_it_and_only_once() -> None:
    tokenizer = WordTokenizer(start=(1000, 1001))
    request = TextRequest(request=0, prompt_tokens=7, output_tokens=1, parts=("a", "b"))
    header = Header(content="text", name="w", seed=1, texts=2, requests=1, params={})
    texts = {"a": "one two three", "b": "four five"}
    (tokens,) = token_ids(TextWorkload(header, (request,), texts), tokenizer, 500)
    assert tokens == [1000, 1001, *tokenizer.encode("one two three four five")]
