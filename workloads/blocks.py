"""From a workload of text to the same workload of blocks, as an engine would cut it."""

from collections.abc import Iterable
from itertools import chain

from workloads.corpus import Tokenizer
from workloads.file import BlockRequest, BlockWorkload, Run, TextWorkload


def from_text(workload: TextWorkload, tokenizer: Tokenizer, block_size: int) -> BlockWorkload:
    """Cut every prompt into its full blocks and name each by its content and all before it.

    Args:
        workload: A workload of text.
        tokenizer: The model's tokenizer.
        block_size: Tokens a block.

    """
    tokens = {name: tokenizer.encode(content) for name, content in workload.texts.items()}
    # A block is its tokens after those of its parent, as in vLLM's chained hashes.
    ids: dict[tuple[int | None, tuple[int, ...]], int] = {}
    requests = []
    for request in workload.requests:
        prompt = list(chain.from_iterable(tokens[part] for part in request.parts))
        blocks: list[int] = []
        parent = None
        for start in range(0, len(prompt) - block_size + 1, block_size):
            content = tuple(prompt[start : start + block_size])
            parent = ids.setdefault((parent, content), len(ids))
            blocks.append(parent)
        requests.append(
            BlockRequest(**request.model_dump(exclude={"parts"}), runs=runs(blocks)),
        )
    header = workload.header.model_copy(
        update={"content": "blocks", "block_size": block_size, "texts": 0}
    )
    return BlockWorkload(header, tuple(requests))


def runs(blocks: Iterable[int]) -> tuple[Run, ...]:
    """Return ids as runs of (first id, number of consecutive ids)."""
    found: list[tuple[int, int]] = []
    for block in blocks:
        if found and block == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((block, 1))
    return tuple(found)
