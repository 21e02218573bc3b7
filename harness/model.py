"""The model that an engine serves: made here by a rule, a local folder, or a hub id.

``tiny-qwen3`` has the architecture of Qwen3 with 5.2 million random weights and the real Qwen
tokenizer cut to its first 8,192 entries. It answers nonsense, at the cost in time that a
transformer has; cache hits do not depend on what it says.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from workloads import vocabulary

TINY_QWEN3 = "tiny-qwen3"

_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_VOCABULARY_SIZE = 8192
_SEED = 0
_TOKENIZER = "tokenizer.json"


def make_tiny_qwen3(folder: Path) -> None:
    """Write config, weights and tokenizer of ``tiny-qwen3``; the same bytes every time."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(),
        eos_token=_SPECIAL_TOKENS[2],
        pad_token=_SPECIAL_TOKENS[0],
    ).save_pretrained(partial)
    torch.manual_seed(_SEED)
    Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=_VOCABULARY_SIZE,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=32,
            max_position_embeddings=65536,
            tie_word_embeddings=True,
        )
    ).save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def check(source: str, where: str) -> None:
    """Check that a model named by path is there; a hub id is the engine's to resolve.

    Args:
        source: The model as a config names it.
        where: The key that names it, for the message.

    Raises:
        HarnessError: if it is a folder that lacks a config or a tokenizer, or a path to nothing.

    """
    folder = Path(source)
    if source == TINY_QWEN3 or not (folder.exists() or source.startswith(("/", ".", "~"))):
        return
    for needed in ("config.json", _TOKENIZER):
        if not (folder / needed).is_file():
            raise HarnessError(
                f"{where}: {source} is not a model folder: it has no {needed}; name a folder "
                f"with config.json, tokenizer.json and weights, a hub id, or {TINY_QWEN3}"
            )


class Tokenizer:
    """A model's tokenizer by its ``tokenizer.json`` alone, without the seconds that importing
    Transformers takes.

    ``start`` is what it begins a prompt with, as engines do: BOS, of some models. What a few would
    end it with is left out, since an answer is to follow.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Lengths are the workload's to choose.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.start = self._start()

    def _start(self) -> tuple[int, ...]:
        # Any text does; what is added to it is marked.
        added = self._tokenizer.encode("a")
        marked = zip(added.ids, added.special_tokens_mask, strict=True)
        return tuple(token for token, _ in takewhile(lambda pair: pair[1], marked))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of the text alone, which may be any part of a prompt."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the same of many texts, on all cores."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the token ids."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    @property
    def vocab_size(self) -> int:
        """Number of tokens without added ones, such as special tokens."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=False)
        return size


def load_tokenizer(source: str) -> Tokenizer:
    """Return the tokenizer of a model folder, of a hub id, or of ``tiny-qwen3``, made or not.

    Raises:
        HarnessError: if it cannot be loaded.

    """
    if source == TINY_QWEN3 and not Path(source).exists():
        return Tokenizer(_tokenizer())
    file = Path(source) / _TOKENIZER
    try:
        from tokenizers import Tokenizer as Tokenizers

        if not Path(source).exists():
            from huggingface_hub import hf_hub_download

            file = Path(hf_hub_download(source, _TOKENIZER))
        return Tokenizer(Tokenizers.from_file(str(file)))
    except Exception as error:  # the library has no class of its own
        raise HarnessError(
            f"no tokenizer could be loaded from {source}: {str(error).rstrip('.')}; name a folder "
            f"with {_TOKENIZER}, {TINY_QWEN3}, or a hub id that can be reached"
        ) from None


def digest(source: str) -> str:
    """Return the sha256 over the files of a model folder, or the hub id itself."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with file.open("rb") as content:
                total.update(f"{file.name}\0".encode())
                total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def _tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens = vocabulary.ranked_tokens(_VOCABULARY_SIZE - len(_SPECIAL_TOKENS))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    printable = _printable_bytes()

    def shown(token: bytes) -> str:
        return "".join(printable[byte] for byte in token)

    pairs = (_last_merge(token, ranks) for token in tokens if len(token) > 1)
    merges = [(shown(left), shown(right)) for left, right in pairs]
    tokenizer = Tokenizer(
        models.BPE(vocab={shown(t): rank for t, rank in ranks.items()}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(vocabulary.PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    return tokenizer


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two parts whose merge makes the token: what BPE has left with lower ranks."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        i = pairs.index(min(pairs))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def _printable_bytes() -> dict[int, str]:
    """Return the characters that byte-level BPE files write for each byte (GPT-2's table)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {
        byte: chr(256 + i) for i, byte in enumerate(shifted)
    }
