"""A hot document, a scan, the hot document again, on a real engine; prints what became of it.

Arguments: the model's folder, and an eviction policy or ``off`` for no prefix caching.
"""

import json
import random
import sys

from vllm import LLM, SamplingParams

BLOCK_SIZE, BLOCKS, CACHE_BLOCKS = 32, 20, 64
_HOT_USES, _SCANNED = 3, 10


def main() -> None:
    model, policy = sys.argv[1:]
    caching = {"enable_prefix_caching": policy != "off"}
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
    print(json.dumps({"cached": cached, "tokens": tokens}))


if __name__ == "__main__":
    main()
