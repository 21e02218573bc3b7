import json
from pathlib import Path

import pytest

from harness import kvcache
from harness.errors import HarnessError


def _config(folder: Path, **keys: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(keys))
    return path


def test_bytes_are_of_keys_and_values_of_all_layers(tmp_path: Path) -> None:
    # 2 x 40 layers x 8 heads x 128 values x 2 bytes.
    assert kvcache.of_model("Qwen3-14B").bytes_per_token == 163_840
    assert kvcache.of_model("Qwen/qwen3-14b") == kvcache.MODELS["Qwen3-14B"]
    keys = {"num_hidden_layers": 40, "num_key_value_heads": 8, "torch_dtype": "bfloat16"}
    path = _config(tmp_path, **keys, head_dim=128, num_attention_heads=40, hidden_size=5120)
    assert kvcache.of_model(str(path)).bytes_per_token == 163_840
    assert kvcache.of_model(str(tmp_path)).model == tmp_path.name
    _config(tmp_path, text_config=keys | {"num_attention_heads": 40, "hidden_size": 5120})
    assert kvcache.of_model(str(tmp_path)).bytes_per_token == 163_840


def test_engine_may_run_it_wider_than_the_model_is(tmp_path: Path) -> None:
    size = kvcache.of_model("Qwen3-14B", "float32")
    assert size.bytes_per_token == 2 * 163_840
    # 14.8 billion parameters of 4 bytes.
    assert size.weights == pytest.approx(59.07e9, rel=1e-3)
    keys = {"num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8}
    path = str(_config(tmp_path, **keys, torch_dtype="bfloat16", num_attention_heads=1))
    assert kvcache.of_model(path, "float32").bytes_per_token == 2 * 2 * 8 * 4
    assert kvcache.of_model(path).bytes_per_token == 2 * 2 * 8 * 2


def test_latent_attention_has_no_heads(tmp_path: Path) -> None:
    path = _config(
        tmp_path, num_hidden_layers=61, kv_lora_rank=512, qk_rope_head_dim=64, dtype="bfloat16"
    )
    assert kvcache.of_model(str(path)).bytes_per_token == 61 * 576 * 2
    assert kvcache.MODELS["DeepSeek-V3"].bytes_per_token == 61 * 576 * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a config of a model"),
        ('{"num_hidden_layers": 0}', "not a config of a model: num_hidden_layers is 0"),
        (
            '{"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 0}',
            "num_attention_heads is 0",
        ),
        ('{"num_hidden_layers": 1, "dtype": "float8"}', "its type is float8, none of float32"),
        ("{}", "the size of its KV cache is not told: no 'num_hidden_layers'"),
        (None, "no config of a model: No such file"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(HarnessError, match=message):
        kvcache.of_model(str(tmp_path))
    with pytest.raises(HarnessError, match="name one of Llama"):
        kvcache.of_model("a-model")
    with pytest.raises(HarnessError, match=r"not known here \(Qwen3-14B\?\); name one of"):
        kvcache.of_model("owner/qwen3-14")
    with pytest.raises(HarnessError, match="model : its KV cache is not known"):
        kvcache.of_model("")
