"""vLLM, offline and in process; the stock package or the patched tree, whichever is imported."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import vllm
from prometheus_client import generate_latest

from harness.cell import CellSpec
from harness.engines.base import Completion, Counters, Prompt

# vLLM keeps one block to itself as a placeholder.
_RESERVED_BLOCKS = 1
# So large that a prompt is never split: TTFT is then one forward pass.
_MIN_BATCHED_TOKENS = 8192
# On the CPU, vLLM wants most of the memory free before it starts unless told how much it may have.
# The number of blocks decides how much it takes.
_CPU_KV_CACHE_BYTES = 1 << 30


class VLLM:
    """An offline engine with exactly ``spec.cache_blocks`` usable blocks."""

    def __init__(self, spec: CellSpec, model: str, max_model_len: int) -> None:
        options: dict[str, Any] = {}
        if spec.engine == "vllm":
            options["prefix_cache_eviction_policy"] = spec.policy
        if spec.tier == "cpu":
            options |= {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_KV_CACHE_BYTES}
        self.version, self.imported_from = vllm.__version__, str(vllm.__file__)
        self._llm = vllm.LLM(
            model=model,
            dtype=spec.dtype,
            seed=0,
            block_size=spec.block_size,
            num_gpu_blocks_override=spec.cache_blocks + _RESERVED_BLOCKS,
            max_model_len=max_model_len,
            max_num_seqs=spec.batch_size,
            max_num_batched_tokens=max(_MIN_BATCHED_TOKENS, max_model_len),
            enable_prefix_caching=True,
            disable_log_stats=False,
            trust_remote_code=False,
            **options,
        )
        core = self._llm.llm_engine.engine_core.engine_core
        self._cache_manager = core.scheduler.kv_cache_manager
        self._pool = self._cache_manager.block_pool
        if hasattr(self._pool, "eviction_policy") != (spec.engine == "vllm"):
            raise RuntimeError(f"engine {spec.engine} was imported from {self.imported_from}")
        usable = self._pool.num_gpu_blocks - _RESERVED_BLOCKS
        if usable != spec.cache_blocks:
            raise RuntimeError(f"{usable} usable blocks, not the {spec.cache_blocks} asked for")
        self._block_hits: dict[str, tuple[int, int]] = {}
        self._count_block_hits()

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Run the prompts as one batch; see ``base.Engine``."""
        params = [
            vllm.SamplingParams(
                max_tokens=p.output_tokens, temperature=0, ignore_eos=True, detokenize=False
            )
            for p in prompts
        ]
        self._block_hits.clear()
        # The engine stamps arrivals with the wall clock; this turns them monotonic.
        offset_ns = time.monotonic_ns() - time.time_ns()
        outputs = self._llm.generate(
            [{"prompt_token_ids": p.token_ids} for p in prompts], params, use_tqdm=False
        )
        return [self._completion(output, offset_ns) for output in outputs]

    def _completion(self, output: Any, offset_ns: int) -> Completion:
        arrived_ns = int(output.metrics.arrival_time * 1e9) + offset_ns
        # The engine appends a suffix of its own to the id that it reports.
        queried, cached = next(
            hits
            for request_id, hits in self._block_hits.items()
            if request_id == output.request_id or request_id.startswith(f"{output.request_id}-")
        )
        return Completion(
            arrived_ns=arrived_ns,
            first_token_ns=arrived_ns + int(output.metrics.first_token_latency * 1e9),
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens,
            output_tokens=len(output.outputs[0].token_ids),
            queried_blocks=queried,
            cached_blocks=cached,
        )

    def reset_cache(self) -> None:
        """Empty the prefix cache; see ``base.Engine``."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the engine refused to reset its prefix cache")

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

    def _count_block_hits(self) -> None:
        """Count, at each look-up, the prompt's blocks that are cached, prefix or not.

        Every engine under test gets the same wrapper, so it costs each of them the same.
        """
        look_up = self._cache_manager.get_computed_blocks

        def counting(request: Any) -> Any:
            # The last look-up before its first blocks: later ones find the request's own.
            if not request.num_preemptions:
                hashes = request.block_hashes
                cached = sum(
                    self._pool.get_cached_block(block_hash, [0]) is not None
                    for block_hash in hashes
                )
                self._block_hits[request.request_id] = (len(hashes), cached)
            return look_up(request)

        self._cache_manager.get_computed_blocks = counting
