"""The two hit rates, counted as the engine and as the paper's authors count them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HitRate:
    """What share of the prompts was found in the cache.

    ``prefix`` is vLLM's: tokens of the contiguous cached prefix ÷ prompt tokens. ``per_block`` is
    the authors': full blocks in the cache, whether or not those before them are, ÷ full blocks.
    """

    prefix: float
    per_block: float


@dataclass
class HitCounter:
    """Sums up the two hit rates, request by request.

    Args:
        block_size: Tokens a block.

    """

    block_size: int
    prompt_tokens: int = 0
    hit_tokens: int = 0
    queried_blocks: int = 0
    cached_blocks: int = 0

    def count(self, prompt_tokens: int, prefix_blocks: int, cached_blocks: int) -> None:
        """Count one request.

        Args:
            prompt_tokens: Its length.
            prefix_blocks: Its leading full blocks that were all in the cache.
            cached_blocks: Its full blocks that were in the cache.

        """
        # vLLM computes at least the last token, so it never takes a whole prompt from the cache.
        usable = min(prefix_blocks, (prompt_tokens - 1) // self.block_size)
        self.prompt_tokens += prompt_tokens
        self.hit_tokens += usable * self.block_size
        self.queried_blocks += prompt_tokens // self.block_size
        self.cached_blocks += cached_blocks

    @property
    def rate(self) -> HitRate:
        """Return the rates so far; 0 where nothing was looked up."""
        return HitRate(
            prefix=self.hit_tokens / max(1, self.prompt_tokens),
            per_block=self.cached_blocks / max(1, self.queried_blocks),
        )
