"""How many bytes of KV cache a token takes, and how many a model's weights, by model."""

import difflib
import json
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import HarnessError

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Size(NamedTuple):
    """A model by the name that it is called here, the bytes of its KV cache a token, and those of
    its weights, where they are known.
    """

    model: str
    bytes_per_token: float
    weights: float | None = None


# Layers, KV heads, head size: of the models' public config.json (num_hidden_layers,
# num_key_value_heads, head_dim), whose KV cache is in 16 bits. With latent attention (kv_lora_rank,
# qk_rope_head_dim), layers and values a layer. Models most of whose layers see a window only are
# not here: what a token of theirs takes depends on where it is.
_HEADS = {
    "Llama-3.1-8B": (32, 8, 128),
    "Llama-3.3-70B": (80, 8, 128),
    "Mistral-7B-v0.3": (32, 8, 128),
    "Mistral-Small-24B": (40, 8, 128),
    "Phi-4": (40, 10, 128),
    "Qwen2.5-7B": (28, 4, 128),
    "Qwen2.5-72B": (80, 8, 128),
    "Qwen3-4B": (36, 8, 128),
    "Qwen3-8B": (36, 8, 128),
    "Qwen3-14B": (40, 8, 128),
    "Qwen3-32B": (64, 8, 128),
    "Qwen3-30B-A3B": (48, 4, 128),
    "Qwen3-235B-A22B": (94, 4, 128),
}
_LATENT = {"DeepSeek-V3": (61, 512 + 64)}
# Of the models that shipped configs name on a GPU: parameters, as their pages count them.
_WEIGHTS = {"Qwen3-4B": 2 * 4_022_468_096, "Qwen3-14B": 2 * 14_768_307_200}
# The paper's.
DEFAULT = "Qwen3-14B"

MODELS = {
    name: Size(name, 2 * layers * heads * head * 2, _WEIGHTS.get(name))
    for name, (layers, heads, head) in _HEADS.items()
} | {name: Size(name, layers * values * 2) for name, (layers, values) in _LATENT.items()}


def of_model(model: str, dtype: str = "auto") -> Size:
    """Return the size of a model's KV cache.

    Args:
        model: One of ``MODELS``, in any case and with or without its owner; a model's folder or
            config.json.
        dtype: What an engine runs it in; ``auto``: the model's own.

    Raises:
        HarnessError: if it is none of these, or its config does not say.

    """
    path = Path(model)
    if model and (path.is_dir() or path.suffix == ".json"):
        return _of_config(path / "config.json" if path.is_dir() else path, dtype)
    name = model.rpartition("/")[2].lower().removesuffix("-instruct")
    for known in MODELS.values():
        if known.model.lower() == name:
            wider = _BYTES.get(dtype, 2) / 2
            weights = known.weights and wider * known.weights
            return Size(known.model, wider * known.bytes_per_token, weights)
    names = {known.lower(): known for known in MODELS}
    near = difflib.get_close_matches(name, names, 1)
    meant = f" ({names[near[0]]}?)" if near else ""
    raise HarnessError(
        f"model {model}: its KV cache is not known here{meant}; name one of {', '.join(MODELS)}, "
        "or the folder or config.json of another"
    )


def _of_config(path: Path, dtype: str) -> Size:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        # Of a model that sees, too.
        config = {**config, **config.get("text_config", {})}
        layers = _positive(config, "num_hidden_layers")
        own = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16")
        kind = own.removeprefix("torch.") if dtype == "auto" else dtype
        if kind not in _BYTES:
            raise ValueError(f"its type is {kind}, none of {', '.join(_BYTES)}")
        width = _BYTES[kind]
        name = path.resolve().parent.name
        if "kv_lora_rank" in config:
            values = _positive(config, "kv_lora_rank") + _positive(config, "qk_rope_head_dim")
            return Size(name, layers * values * width)
        queries = "num_attention_heads"
        own_heads = config.get("num_key_value_heads")
        heads = _positive(config, "num_key_value_heads" if own_heads else queries)
        if config.get("head_dim"):
            head = _positive(config, "head_dim")
        else:
            head = _positive(config, "hidden_size") // _positive(config, queries)
        return Size(name, 2 * layers * heads * head * width)
    except OSError as error:
        raise HarnessError(
            f"{path}: no config of a model: {error.strerror}; name a model's folder, in which it "
            f"is, or one of {', '.join(MODELS)}"
        ) from None
    except KeyError as error:
        raise HarnessError(f"{path}: the size of its KV cache is not told: no {error}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise HarnessError(f"{path}: not a config of a model: {error}") from None


def _positive(config: dict[str, Any], key: str) -> int:
    value = int(config[key])
    if value < 1:
        raise ValueError(f"{key} is {value}")
    return value
