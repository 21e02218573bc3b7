"""A hot document, a scan, the hot document again, on real engines; prints what became of it.

Arguments: the model's folder, and eviction policies, or ``off`` for no prefix caching. An engine
for each, one after the other: the import takes longer than all else.
"""

import json
import random
import sys
from typing import Any

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

BLOCK_SIZE, BLOCKS, CACHE_BLOCKS = 32, 20, 64
_HOT_USES, _SCANNED = 3, 10


def _run(model: str, policy: str) -> dict[str, Any]:
    caching: dict[str, Any] = {"enable_prefix_caching": policy != "off"}
    if policy != "off":
        caching["prefix_cache_eviction_policy"] = policy
    llm = LLM(
        model=model,
        dtype="float32",
        seed=0,
        block_size=BLOCK_SIZE,
        num_gpu_blocks_override=CACHE_BLOCKS + 1,
        max_model_len=1024,
        max_num_seqs=2,
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 30,
        **caching,
    )
    rng = random.Random("documents")
    documents = [rng.choices(range(8000), k=BLOCKS * BLOCK_SIZE + 1) for _ in range(_SCANNED + 1)]
    hot, scan = documents[0], documents[1:]
    params = SamplingParams(max_tokens=16, temperature=0, ignore_eos=True)
    cached, tokens = [], []
    for document in [hot] * _HOT_USES + scan + [hot]:
        (output,) = llm.generate([{"prompt_token_ids": document}], params, use_tqdm=False)
        cached.append(output.num_cached_tokens or 0)
        tokens.append(output.outputs[0].token_ids)
    del llm
    cleanup_dist_env_and_memory()
    return {"cached": cached, "tokens": tokens}


def main() -> None:
    model, *policies = sys.argv[1:]
    print(json.dumps({policy: _run(model, policy) for policy in policies}))


if __name__ == "__main__":
    main()
