"""From a workload of text to the same workload of blocks, as an engine would cut it."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from workloads.corpus import Tokenizer
from workloads.file import BlockRequest, BlockWorkload, Request, Run, TextWorkload


@dataclass(frozen=True)
class _Cut:
    """Some parts as full blocks and the tokens left over."""

    blocks: tuple[Run, ...]
    last: int | None
    rest: tuple[int, ...]


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
    cuts: dict[tuple[str, ...], _Cut] = {(): _Cut((), None, tuple(tokenizer.start))}

    def cut(parts: tuple[str, ...]) -> _Cut:
        # What has been asked before, most often all but the last part, is not cut again.
        known = len(parts)
        while parts[:known] not in cuts:
            known -= 1
        for end in range(known + 1, len(parts) + 1):
            before = cuts[parts[: end - 1]]
            prompt, last = (*before.rest, *tokens[parts[end - 1]]), before.last
            blocks = []
            full = len(prompt) // block_size * block_size
            for start in range(0, full, block_size):
                last = ids.setdefault((last, prompt[start : start + block_size]), len(ids))
                blocks.append(last)
            cuts[parts[:end]] = _Cut(runs(blocks, before.blocks), last, prompt[full:])
        return cuts[parts]

    requests = tuple(
        BlockRequest(
            **{name.name: getattr(request, name.name) for name in fields(Request)},
            runs=cut(request.parts).blocks,
        )
        for request in workload.requests
    )
    header = workload.header.model_copy(
        update={"content": "blocks", "block_size": block_size, "texts": 0}
    )
    return BlockWorkload(header, requests)


def runs(blocks: Iterable[int], before: tuple[Run, ...] = ()) -> tuple[Run, ...]:
    """Return ids as runs of (first id, number of consecutive ids), after those before."""
    found = list(before)
    for block in blocks:
        if found and block == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((block, 1))
    return tuple(found)
