from collections.abc import Sequence
from pathlib import Path

BOS, EOS = "<s>", "</s>"


def save_tokenizer(folder: Path, kind: str) -> None:
    """Write a small real tokenizer, which puts BOS before a text.

    Args:
        folder: Where.
        kind: Whose it is like: ``llama-3`` has bytes for tokens, ``llama-2`` (and Mistral and
            Gemma) characters with a mark before each word; ``with-eos`` is the first, with EOS
            after a text.

    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = [BOS, EOS, "<unk>"]
    if kind == "llama-2":
        tokens = [*marks, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
        tokens += [chr(letter) for letter in range(ord("!"), ord("~") + 1)]
    else:
        tokens = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(ids, [], unk_token="<unk>", fuse_unk=True, byte_fallback=kind == "llama-2")
    )
    after = f" {EOS}" if kind == "with-eos" else ""
    template = processors.TemplateProcessing(
        single=f"{BOS} $A{after}",
        pair=f"{BOS} $A{after} {BOS} $B{after}",
        special_tokens=[(mark, ids[mark]) for mark in (BOS, EOS)],
    )
    if kind == "llama-2":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        tokenizer.post_processor = template
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.Sequence(
            [processors.ByteLevel(trim_offsets=False), template]
        )
    tokenizer.add_special_tokens(marks)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, unk_token="<unk>"
    ).save_pretrained(folder)


class WordTokenizer:
    """Counts words: enough to make workloads with, and instant."""

    def __init__(self, start: tuple[int, ...] = ()) -> None:
        self.start = start
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def encode(self, text: str) -> list[int]:
        for word in text.split():
            if word not in self._ids:
                self._ids[word] = len(self._words)
                self._words.append(word)
        return [self._ids[word] for word in text.split()]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(self._words[token_id] for token_id in token_ids)
