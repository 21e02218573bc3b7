import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.tokenizer import WordTokenizer

from workloads import docqa, file
from workloads.docqa import DocQA
from workloads.file import Workload

_WORDS = [f"w{i}" for i in range(500)]


def _build(tokenizer: Any, seed: int = 42, **params: Any) -> Workload:
    given_params: dict[str, Any] = {"documents": 40, "requests": 200, "window": 50, "scale": 0.02}
    return docqa.build("w", DocQA(**given_params | params), seed, tokenizer, "sha", _WORDS)


def test_windows_reshuffle_popularity(word_tokenizer: Any) -> None:
    workload = _build(word_tokenizer, requests=4000, window=1000, documents=20)
    top = [
        Counter(r.document for r in workload.requests if r.window == w).most_common(1)[0]
        for w in range(4)
    ]
    assert len({document for document, _ in top}) > 1
    # Zipf(1) over 20 documents gives the first 1 / H(20) = 0.278 of the requests.
    for _, count in top:
        assert count == pytest.approx(278, abs=60)


def test_zipf_exponent_zero_is_uniform(word_tokenizer: Any) -> None:
    workload = _build(word_tokenizer, requests=4000, window=4000, documents=20, zipf_exponent=0)
    counts = Counter(r.document for r in workload.requests)
    assert max(counts.values()) < 300 < 4 * min(counts.values())


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_lengths_follow_the_law_whatever_the_seed(word_tokenizer: Any, seed: int) -> None:
    workload = _build(word_tokenizer, seed, documents=381, scale=0.1)
    lengths = [len(word_tokenizer.encode(text)) for text in workload.texts.values()]
    # A prompt is a document and a question of 12 words on average; the law counts 13 tokens.
    assert sum(lengths) / len(lengths) == pytest.approx(576.8 - 13, rel=0.005)
    assert min(lengths) >= 200 - 13
    assert max(lengths) <= 950 - 13


def test_counts_prompt_tokens(word_tokenizer: Any) -> None:
    workload = _build(word_tokenizer)
    for request in workload.requests:
        assert request.prompt_tokens == len(word_tokenizer.encode(workload.prompt(request)))
        assert request.output_tokens == 1


def test_documents_share_no_beginning(word_tokenizer: Any) -> None:
    texts = _build(word_tokenizer, documents=100).texts.values()
    assert len({" ".join(text.split()[:4]) for text in texts}) == 100


@pytest.mark.parametrize("seed", range(10))
def test_seed_decides_everything(seed: int) -> None:
    first, second = (_build(WordTokenizer(), seed, documents=5, requests=10) for _ in range(2))
    assert first == second
    assert first != _build(WordTokenizer(), seed + 1, documents=5, requests=10)


def test_same_file_from_another_process_and_hash_seed(tmp_path: Path, root: Path) -> None:
    # The digest is a golden value: a change of it changes every result, so it must be on purpose.
    script = """
import hashlib, sys
from workloads import docqa, vocabulary
class Letters:
    def encode(self, text): return list(text.encode())
    def decode(self, ids): return bytes(ids).decode()
params = docqa.DocQA(documents=10, requests=30, window=10, scale=0.05)
w = docqa.build("w", params, 7, Letters(), "sha", vocabulary.words())
from pathlib import Path
from workloads import file
file.write(Path(sys.argv[1]), w)
print(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / f"{hash_seed}.jsonl")],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert digests == {"65f022a1d1abff3d47b263cfe91d1ec6d68ff3efafd4b3f6c8d631f221c9dc88"}
    assert file.read(tmp_path / "1.jsonl").header.requests == 30
