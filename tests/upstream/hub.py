"""A stand-in for the model hub, so that vLLM's tests of the scheduler run without a network.

They name models of the hub but look at nothing of them beyond their configurations and, for images,
the processor. Each model is given here as a small one of its kind under the name of the real one,
without weights. Where a kind needs torchvision, which the environment leaves out, another one with
images stands in.
"""

import shutil
from pathlib import Path
from typing import Any

_REVISION = "0" * 40
_IMAGE_TOKENS = 576  # Of an image in LLaVA 1.5, which some tests count on.


def make(folder: Path) -> None:
    """Write the hub's cache folder (``HF_HUB_CACHE``), replacing what is there."""
    from transformers import Blip2Config, OPTConfig, Qwen2Config, Qwen3Config

    shutil.rmtree(folder, ignore_errors=True)
    # With a type, or vLLM asks the hub for the weights' own, and waits before it asks again.
    opt = OPTConfig(architectures=["OPTForCausalLM"], dtype="float16")
    qwen2 = Qwen2Config(architectures=["Qwen2ForCausalLM"], dtype="bfloat16")
    qwen3 = Qwen3Config(architectures=["Qwen3ForCausalLM"], dtype="bfloat16")
    images = Blip2Config(
        architectures=["Blip2ForConditionalGeneration"],
        dtype="float16",
        num_query_tokens=_IMAGE_TOKENS,
        text_config={"model_type": "opt", "max_position_embeddings": 4096},
    )
    for name, config in {
        "facebook/opt-125m": opt,
        "facebook/opt-350m": opt,
        "Qwen/Qwen1.5-7B": qwen2,
        "Qwen/Qwen3-0.6B": qwen3,
        "Qwen/Qwen2.5-VL-3B-Instruct": images,
        "llava-hf/llava-1.5-7b-hf": images,
    }.items():
        model = folder / f"models--{name.replace('/', '--')}"
        config.save_pretrained(model / "snapshots" / _REVISION)
        if config is images:
            _processor().save_pretrained(model / "snapshots" / _REVISION)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(_REVISION)


def _processor() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Blip2Processor, BlipImageProcessorPil, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "<image>": 2}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Blip2Processor(
        BlipImageProcessorPil(),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>"),
        num_query_tokens=_IMAGE_TOKENS,
    )
