"""vLLM's scheduler, KV cache manager and block pool with no model behind them.

What is scheduled, cached and evicted is exactly what the engine would; a forward pass is replaced
by one made-up token a request and step.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

# vLLM keeps one block to itself as a placeholder.
_RESERVED_BLOCKS = 1
_OUTPUT_TOKEN = 0


@dataclass(frozen=True)
class HashedPrompt:
    """A prompt as its block hashes: one of 32 bytes for each full block, naming
    it and all before it.
    """

    block_hashes: Sequence[bytes]
    num_tokens: int
    output_tokens: int = 1


class Replay:
    """A scheduler over ``cache_blocks`` usable blocks of one full-attention group.

    Args:
        model: Folder of a model; only its config is read.
        policy: The eviction policy; None on an engine without the patches.
        cache_blocks: Usable blocks.
        block_size: Tokens a block.
        max_tokens: Longest prompt with its output, in tokens; a prompt is never split.
        batch_size: Requests that may run together.

    """

    def __init__(
        self,
        model: str,
        policy: str | None,
        cache_blocks: int,
        block_size: int,
        max_tokens: int,
        batch_size: int = 1,
    ) -> None:
        self._block_size = block_size
        self._num_requests = 0
        chosen = {} if policy is None else {"prefix_cache_eviction_policy": policy}
        config = EngineArgs(
            model=model,
            max_model_len=max_tokens,
            max_num_batched_tokens=max_tokens * batch_size,
            max_num_seqs=batch_size,
            block_size=block_size,
            enable_prefix_caching=True,
            async_scheduling=False,
            **chosen,
        ).create_engine_config()
        config.cache_config.num_gpu_blocks = cache_blocks + _RESERVED_BLOCKS
        # Of no consequence but to the size of tensors that are never made.
        layers = FullAttentionSpec(
            block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
        )
        self._scheduler = Scheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=cache_blocks + _RESERVED_BLOCKS,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layers"], layers)],
                **chosen,
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=block_size,
            log_stats=True,
        )
        self.pool = self._scheduler.kv_cache_manager.block_pool
        self.policy = getattr(self.pool, "eviction_policy", None)
        self.num_preemptions = 0

    def run(self, prompts: Sequence[HashedPrompt]) -> list[int]:
        """Run prompts together until all have finished; return each one's cached tokens."""
        first = self._num_requests
        self._num_requests += len(prompts)
        for i, prompt in enumerate(prompts, first):
            self._scheduler.add_request(self._request(str(i), prompt))
        cached: dict[str, int] = {}
        while self._scheduler.has_unfinished_requests():
            output = self._scheduler.schedule()
            self.num_preemptions += len(output.preempted_req_ids or ())
            for new in output.scheduled_new_reqs:
                cached[new.req_id] = new.num_computed_tokens
            ids = list(output.num_scheduled_tokens)
            self._scheduler.update_from_output(
                output,
                ModelRunnerOutput(
                    req_ids=ids,
                    req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
                    sampled_token_ids=[[_OUTPUT_TOKEN] for _ in ids],
                ),
            )
        return [cached[str(i)] for i in range(first, first + len(prompts))]

    def _request(self, request_id: str, prompt: HashedPrompt) -> Request:
        def hashes(request: Any) -> list[Any]:
            # Asked again as the output grows, whose blocks no other request has.
            held = len(request.block_hashes)
            filled = request.num_tokens // self._block_size
            made_up = (
                hashlib.sha256(f"{request_id}/{i}".encode()).digest()
                for i in range(max(held, len(prompt.block_hashes)), filled)
            )
            return [*prompt.block_hashes[held:filled], *made_up]

        return Request(
            request_id=request_id,
            prompt_token_ids=[_OUTPUT_TOKEN] * prompt.num_tokens,
            sampling_params=SamplingParams(
                max_tokens=prompt.output_tokens, temperature=0, ignore_eos=True
            ),
            pooling_params=None,
            block_hasher=hashes,
        )
