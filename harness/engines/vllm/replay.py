"""vLLM's scheduler, KV cache manager and block pool with no model behind them.

What is scheduled, cached and evicted is exactly what the engine would; a forward pass is replaced
by one made-up token a request and step.
"""

import gc
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
import vllm
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from harness.cell import Batch, CellSpec, Fleet
from harness.engines.base import (
    UNREACHABLE,
    Completion,
    Counters,
    max_batched_tokens,
)
from harness.engines.vllm import constants, device
from harness.engines.vllm.blocks import RESERVED_BLOCKS, BlockHits, Prefixes
from workloads.file import BlockRequest, BlockWorkload, longest

_OUTPUT_TOKEN = 0
# vLLM's own, of sha256.
_HASH_BYTES = 32
# A hash as it is in the pool: of a prompt's block its id, before its group; of an output's, which
# nobody asks for again, sha256.
_KEY = np.dtype(
    {
        "names": ["high", "id"],
        "formats": [">u8", ">u8"],
        "offsets": [0, _HASH_BYTES - 8],
        "itemsize": _HASH_BYTES + 4,
    }
)
# At most so often in a cell it is counted what cannot be reached: that looks at every cached block.
# It takes one to two percent of a cell's time.
_SAMPLES = 20

# Containers that are made before the youngest of them are collected. A request's own are some
# hundreds of blocks, none of them in a cycle; Python's default would look through them each time.
_YOUNG = 100_000
# Runs whose hashes are kept: documents come again, and a hash takes some 65 bytes.
_RUNS = 1024


@lru_cache(maxsize=_RUNS)
def _hashes(first: int, count: int) -> tuple[bytes, ...]:
    """Return the hashes of a run of consecutive blocks."""
    return tuple(map(int.to_bytes, range(first, first + count), repeat(_HASH_BYTES)))


def _no_estimate(request: Request) -> int:
    return 0


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
        policy: The eviction policy, or a variant of one; None on an engine without the patches.
        cache_blocks: Usable blocks.
        block_size: Tokens a block.
        max_tokens: Longest prompt with its output, in tokens.
        batch_size: Requests that may run together.

    Raises:
        HarnessError: if the policy has no such constant.

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
        device.name_one()
        chosen = {} if policy is None else {"prefix_cache_eviction_policy": constants.use(policy)}
        config = EngineArgs(
            model=model,
            max_model_len=max_tokens,
            # However long the requests, there is no model that could not take them.
            hf_overrides={"max_position_embeddings": max_tokens},
            max_num_batched_tokens=max_batched_tokens(max_tokens),
            max_num_seqs=batch_size,
            block_size=block_size,
            enable_prefix_caching=True,
            async_scheduling=False,
            **chosen,
        ).create_engine_config()
        config.cache_config.num_gpu_blocks = cache_blocks + RESERVED_BLOCKS
        # Of no consequence but to the size of tensors that are never made.
        layers = FullAttentionSpec(
            block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
        )
        self._scheduler = Scheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=cache_blocks + RESERVED_BLOCKS,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layers"], layers)],
                **chosen,
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=block_size,
            log_stats=True,
        )
        self.cache_manager = self._scheduler.kv_cache_manager
        # A statistic of a request that has finished, for a client that there is none of. It looks
        # at every block.
        self.cache_manager.estimate_cached_tokens = _no_estimate
        self.pool = self.cache_manager.block_pool
        self.policy = getattr(self.pool, "eviction_policy", None)
        self.num_preemptions = 0
        self.counters = Counters(queried_tokens=0, hit_tokens=0)

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
            done = self._scheduler.update_from_output(
                output,
                ModelRunnerOutput(
                    req_ids=ids,
                    req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
                    # Nothing comes of a part of a prompt.
                    sampled_token_ids=[
                        [_OUTPUT_TOKEN] if self._is_whole(request_id) else [] for request_id in ids
                    ],
                ),
            )
            self._count(done)
        return [cached[str(i)] for i in range(first, first + len(prompts))]

    def _is_whole(self, request_id: str) -> bool:
        request = self._scheduler.requests[request_id]
        return bool(request.num_computed_tokens >= request.num_tokens)

    def _count(self, outputs: Mapping[int, Any]) -> None:
        """Add up what the scheduler itself says of its look-ups."""
        for output in outputs.values():
            if output.scheduler_stats is not None:
                stats = output.scheduler_stats.prefix_cache_stats
                self.counters = Counters(
                    self.counters.queried_tokens + stats.queries,
                    self.counters.hit_tokens + stats.hits,
                )

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


class ReplayEngine:
    """The engine of the tier of that name: a ``Replay`` of a cell; see ``base.Engine``.

    Args:
        spec: The cell.
        model: Folder of a model; only its config is read.
        workload: The requests to come, in blocks of the cell's size.

    """

    def __init__(self, spec: CellSpec, model: str, workload: BlockWorkload) -> None:
        assert isinstance(spec.load, Batch | Fleet)
        self.version, self.imported_from = vllm.__version__, str(vllm.__file__)
        most = longest(workload.requests)
        self._replay = Replay(
            model,
            spec.policy,
            spec.cache_blocks,
            spec.block_size,
            max_tokens=most.prompt_tokens + most.output_tokens,
            batch_size=spec.load.batch_size,
        )
        self._block_hits = BlockHits(self._replay.cache_manager)
        self._prefixes = Prefixes()
        self._num_requests = 0
        # Requests from one sample to the next, and until that.
        self._sample_every = -(-len(workload.requests) // _SAMPLES)
        self._next_sample = self._sample_every
        gc.set_threshold(_YOUNG)

    def warm_up(self) -> None:
        """Do nothing: there are no times to spoil."""

    def generate(self, requests: Sequence[BlockRequest]) -> list[Completion]:
        """Run the requests as one batch."""
        self._block_hits.clear()
        for request in requests:
            self._prefixes.add(request.runs)
        cached_tokens = self._replay.run(
            [
                HashedPrompt(
                    [*chain.from_iterable(_hashes(*run) for run in request.runs)],
                    request.prompt_tokens,
                    request.output_tokens,
                )
                for request in requests
            ]
        )
        completions = []
        for request, cached in zip(requests, cached_tokens, strict=True):
            queried_blocks, cached_blocks = self._block_hits.of(str(self._num_requests))
            self._num_requests += 1
            completions.append(
                Completion(
                    arrived_ns=None,
                    first_token_ns=None,
                    end_ns=None,
                    prompt_tokens=request.prompt_tokens,
                    cached_tokens=cached,
                    output_tokens=request.output_tokens,
                    queried_blocks=queried_blocks,
                    cached_blocks=cached_blocks,
                )
            )
        return completions

    def counters(self) -> Counters:
        """Return the scheduler's own count of tokens looked up and found."""
        return self._replay.counters

    def policy_state(self) -> Mapping[str, float]:
        """Return the eviction policy's state, and now and then what cannot be reached.

        ``unreachable`` is the share of the cached blocks of prompts that are of no use, since not
        all blocks before them are cached; not a number where it was not counted.
        """
        policy = self._replay.policy
        state = {} if policy is None else {**policy.get_stats(), "evictions": policy.num_evictions}
        return {**state, UNREACHABLE: self._unreachable()}

    def _unreachable(self) -> float:
        if self._num_requests < self._next_sample:
            return float("nan")
        self._next_sample += self._sample_every
        hashes = self._replay.pool.cached_block_hash_to_block._cache
        keys = np.frombuffer(b"".join(hashes), _KEY)
        ids = keys["id"][keys["high"] == 0].astype(np.int64)
        return self._prefixes.unreachable(ids) / max(1, len(ids))

    def metrics_text(self) -> None:
        """Return nothing: there is no server to ask."""
