"""vLLM, offline and in process; the stock package or the patched tree, whichever is imported."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import vllm
from prometheus_client import generate_latest

from harness import model as models
from harness.cell import Batch, CellSpec
from harness.engines.base import (
    Completion,
    Counters,
    max_batched_tokens,
    warm_up_prompts,
)
from harness.engines.vllm.blocks import CPU_KV_CACHE_BYTES, RESERVED_BLOCKS, BlockHits
from workloads.file import Request, Workload, longest
from workloads.tokens import token_ids


class VLLM:
    """An offline engine with exactly ``spec.cache_blocks`` usable blocks.

    Args:
        spec: The cell.
        model: The model's folder or hub id.
        workload: The requests to come.

    """

    def __init__(self, spec: CellSpec, model: str, workload: Workload) -> None:
        tokenizer = models.load_tokenizer(model)
        self._prompts = token_ids(workload, tokenizer, tokenizer.vocab_size)
        self._vocabulary, self._seed = tokenizer.vocab_size, spec.seed
        most = longest(workload.requests)
        max_model_len = most.prompt_tokens + most.output_tokens
        options: dict[str, Any] = {}
        if spec.engine == "vllm":
            options["prefix_cache_eviction_policy"] = spec.policy
        if spec.tier == "cpu":
            options |= {"enforce_eager": True, "kv_cache_memory_bytes": CPU_KV_CACHE_BYTES}
        assert isinstance(spec.load, Batch)
        self.version, self.imported_from = vllm.__version__, str(vllm.__file__)
        self._llm = vllm.LLM(
            model=model,
            dtype=spec.dtype,
            seed=0,
            block_size=spec.block_size,
            num_gpu_blocks_override=spec.cache_blocks + RESERVED_BLOCKS,
            max_model_len=max_model_len,
            max_num_seqs=spec.load.batch_size,
            max_num_batched_tokens=max_batched_tokens(max_model_len),
            enable_prefix_caching=True,
            # A step is scheduled when the one before it is done, so that what is cached when does
            # not depend on timing.
            async_scheduling=False,
            disable_log_stats=False,
            trust_remote_code=False,
            **options,
        )
        core = self._llm.llm_engine.engine_core.engine_core
        self._pool = core.scheduler.kv_cache_manager.block_pool
        if hasattr(self._pool, "eviction_policy") != (spec.engine == "vllm"):
            raise RuntimeError(f"engine {spec.engine} was imported from {self.imported_from}")
        usable = self._pool.num_gpu_blocks - RESERVED_BLOCKS
        if usable != spec.cache_blocks:
            raise RuntimeError(f"{usable} usable blocks, not the {spec.cache_blocks} asked for")
        self._block_hits = BlockHits(core.scheduler.kv_cache_manager)

    def warm_up(self) -> None:
        """Run prompts of the workload's lengths that share nothing with it, then forget them."""
        lengths = [len(prompt) for prompt in self._prompts]
        for prompt in warm_up_prompts(lengths, self._vocabulary, self._seed):
            self._generate([prompt], [1])
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the engine refused to reset its prefix cache")

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Run the requests as one batch; see ``base.Engine``."""
        # The engine stamps arrivals with the wall clock; this turns them monotonic.
        offset_ns = time.monotonic_ns() - time.time_ns()
        outputs = self._generate(
            [self._prompts[request.request] for request in requests],
            [request.output_tokens for request in requests],
        )
        end_ns = time.monotonic_ns()
        return [self._completion(output, offset_ns, end_ns) for output in outputs]

    def _generate(self, prompts: Sequence[list[int]], output_tokens: Sequence[int]) -> list[Any]:
        self._block_hits.clear()
        outputs: list[Any] = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [
                vllm.SamplingParams(
                    max_tokens=count, temperature=0, ignore_eos=True, detokenize=False
                )
                for count in output_tokens
            ],
            use_tqdm=False,
        )
        return outputs

    def _completion(self, output: Any, offset_ns: int, end_ns: int) -> Completion:
        arrived_ns = int(output.metrics.arrival_time * 1e9) + offset_ns
        queried, cached = self._block_hits.of(output.request_id)
        return Completion(
            arrived_ns=arrived_ns,
            first_token_ns=arrived_ns + int(output.metrics.first_token_latency * 1e9),
            end_ns=end_ns,
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens,
            output_tokens=len(output.outputs[0].token_ids),
            queried_blocks=queried,
            cached_blocks=cached,
        )

    def counters(self) -> Counters:
        """Return the engine's prefix-cache counters."""
        values = {metric.name: metric for metric in self._llm.get_metrics()}
        return Counters(
            queried_tokens=int(values["vllm:prefix_cache_queries"].value),
            hit_tokens=int(values["vllm:prefix_cache_hits"].value),
        )

    def policy_state(self) -> Mapping[str, float] | None:
        """Return the eviction policy's state; see ``base.Engine``."""
        policy = getattr(self._pool, "eviction_policy", None)
        if policy is None:
            return None
        return {**policy.get_stats(), "evictions": policy.num_evictions}

    def metrics_text(self) -> str:
        """Return the engine's metrics in Prometheus' text format."""
        return generate_latest().decode()
