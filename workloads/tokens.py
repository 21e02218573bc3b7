"""The tokens of a workload's prompts, for engines that run a model."""

from itertools import chain

import numpy as np

from workloads.corpus import Tokenizer
from workloads.file import BlockRequest, BlockWorkload, Workload, WorkloadError

_BLOCK, _REST = range(2)


def token_ids(workload: Workload, tokenizer: Tokenizer, vocabulary: int) -> list[list[int]]:
    """Return the token ids of every request's prompt.

    A prompt of text begins as the tokenizer begins any, once, and then has its parts' tokens.
    A workload of blocks has no text: a block's tokens are made up from its id, the same wherever it
    occurs, and those after the last full block from the request's number.

    Args:
        workload: The workload.
        tokenizer: The model's tokenizer.
        vocabulary: Made-up tokens are less than this.

    Raises:
        WorkloadError: if the workload was made with another tokenizer.

    """
    if isinstance(workload, BlockWorkload):
        return [_made_up(workload, request, vocabulary) for request in workload.requests]
    tokens = {name: tokenizer.encode(text) for name, text in workload.texts.items()}
    prompts = []
    for request in workload.requests:
        prompt = [*tokenizer.start, *chain.from_iterable(tokens[part] for part in request.parts)]
        if len(prompt) != request.prompt_tokens:
            raise WorkloadError(
                f"workload {workload.header.name}: request {request.request} has {len(prompt)} "
                f"tokens, not {request.prompt_tokens}: it was made with another tokenizer"
            )
        prompts.append(prompt)
    return prompts


def _made_up(workload: BlockWorkload, request: BlockRequest, vocabulary: int) -> list[int]:
    block_size = workload.header.block_size
    assert block_size is not None
    sources = [((_BLOCK, block), block_size) for block in request.blocks()]
    sources.append(((_REST, request.request), request.prompt_tokens % block_size))
    return list(
        chain.from_iterable(
            np.random.default_rng(seed).integers(vocabulary, size=count).tolist()
            for seed, count in sources
        )
    )
