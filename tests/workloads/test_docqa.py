import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.tokenizer import WordTokenizer

from workloads import docqa, file
from workloads.corpus import Entry
from workloads.docqa import DocQA
from workloads.file import TextWorkload

_WORDS = [f"w{i}" for i in range(500)]


def _build(tokenizer: Any, seed: int = 42, scale: float = 0.02, **params: Any) -> TextWorkload:
    given_params: dict[str, Any] = {"documents": 40, "requests": 200, "window": 50}
    params = given_params | params
    return docqa.build("w", DocQA(**params), seed, tokenizer, _WORDS, scale=scale)


def test_windows_reshuffle_popularity(word_tokenizer: Any) -> None:
    workload = _build(word_tokenizer, requests=4000, window=1000, documents=20)
    top = [
        Counter(r.parts[0] for r in workload.requests if r.window == w).most_common(1)[0]
        for w in range(4)
    ]
    assert len({document for document, _ in top}) > 1
    # Zipf(1) over 20 documents gives the first 1 / H(20) = 0.278 of the requests.
    for _, count in top:
        assert count == pytest.approx(278, abs=60)


def test_zipf_exponent_zero_is_uniform(word_tokenizer: Any) -> None:
    workload = _build(word_tokenizer, requests=4000, window=4000, documents=20, zipf_exponent=0)
    counts = Counter(r.parts[0] for r in workload.requests)
    assert max(counts.values()) < 300 < 4 * min(counts.values())


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_lengths_follow_the_law_whatever_the_seed(word_tokenizer: Any, seed: int) -> None:
    workload = _build(word_tokenizer, seed, documents=381, scale=0.1)
    lengths = workload.header.document_tokens
    assert len(lengths) == 381
    # A prompt is a document and a question of 12 words on average; the law counts 13 tokens.
    assert sum(lengths) / len(lengths) == pytest.approx(576.8 - 13, rel=0.005)
    assert min(lengths) >= 200 - 13
    assert max(lengths) <= 950 - 13


def test_counts_prompt_tokens(word_tokenizer: Any) -> None:
    workload = _build(word_tokenizer)
    for request in workload.requests:
        assert request.prompt_tokens == len(word_tokenizer.encode(workload.prompt(request)))
        assert request.output_tokens == 1
        document, question = (workload.texts[part] for part in request.parts)
        assert workload.prompt(request) == document + question
        assert question.startswith(" ")


def test_documents_share_no_beginning(word_tokenizer: Any) -> None:
    texts = _build(word_tokenizer, documents=100).texts
    documents = [text for name, text in texts.items() if "/" not in name]
    assert len({" ".join(text.split()[:4]) for text in documents}) == 100


def test_popularity_is_what_the_requests_follow(word_tokenizer: Any) -> None:
    params = DocQA(documents=20, requests=4000, window=1000)
    assert sum(params.popularity) == pytest.approx(1)
    workload = docqa.build("w", params, 3, word_tokenizer, _WORDS, scale=0.02)
    rankings = params.rankings(3, [f"d{i}" for i in range(20)])
    for window, ranking in zip(range(4), rankings, strict=False):
        counts = Counter(r.parts[0] for r in workload.requests if r.window == window)
        for document, share in zip(ranking[:5], params.popularity, strict=False):
            assert counts[document] == pytest.approx(1000 * share, abs=5 * (1000 * share) ** 0.5)


def test_corpus_is_cut_instead_of_made(word_tokenizer: Any) -> None:
    text = " ".join(f"u{i}" for i in range(3000))
    entries = [Entry(id="e", document=text, questions=("Who?", "What?"))]
    params = DocQA(documents=10, requests=20)
    workload = docqa.build("w", params, 1, word_tokenizer, _WORDS, entries, scale=0.02)
    for request in workload.requests:
        document, question = (workload.texts[part] for part in request.parts)
        assert document in text
        assert question in (" Who?", " What?")


def test_documents_may_keep_their_own_lengths(word_tokenizer: Any) -> None:
    entries = [
        Entry(id=f"e{n}", document=" ".join(f"{n}u{i}" for i in range(n)), questions=("Who?",))
        for n in (50, 70, 90)
    ]
    params = DocQA(corpus="file.jsonl", own_lengths=True, documents=3, requests=20)
    workload = docqa.build("w", params, 1, word_tokenizer, _WORDS, entries)
    assert workload.header.document_tokens == (50, 70, 90)
    with pytest.raises(ValidationError, match="synthetic documents have no lengths"):
        DocQA(own_lengths=True)


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
    start = ()
    def encode(self, text): return list(text.encode())
    def decode(self, ids): return bytes(ids).decode()
params = docqa.DocQA(documents=10, requests=30, window=10)
w = docqa.build("w", params, 7, Letters(), vocabulary.words(), scale=0.05)
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
    assert digests == {"f051a9bd25d241fb85b35938f8335258d243ef91d1d3f51a9b5560878e21c953"}
    assert file.read(tmp_path / "1.jsonl").header.requests == 30
