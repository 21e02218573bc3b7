class WordTokenizer:
    """Counts words: enough to make workloads with, and instant."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def encode(self, text: str) -> list[int]:
        for word in text.split():
            if word not in self._ids:
                self._ids[word] = len(self._words)
                self._words.append(word)
        return [self._ids[word] for word in text.split()]

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(self._words[token_id] for token_id in token_ids)
