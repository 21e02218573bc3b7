import json
from pathlib import Path
from typing import Any

import pytest
from support.tokenizer import BOS, save_tokenizer

from harness import config, workload
from harness import model as models
from harness.config import Config
from workloads import datasets, file
from workloads.docqa import DocQA
from workloads.file import BlockWorkload, TextWorkload, WorkloadError
from workloads.sequence import Sequence
from workloads.sharegpt import ShareGPT
from workloads.tokens import token_ids
from workloads.trace import Trace

_TRACE = {"kind": "trace", "dataset": "mooncake", "format": "mooncake"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, and no network."""
    monkeypatch.setenv("KV_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "data"


def _config(tier: str = "replay", **settings: Any) -> Config:
    docqa = {"kind": "docqa", "documents": 5, "requests": 30, "window": 10}
    content = {
        "name": "test",
        "tiers": {tier: {"block_size": 32} | settings},
        "workloads": {
            "docqa": docqa,
            "original": docqa | {"corpus": "quality", "own_lengths": True},
            "trace": _TRACE,
            "sharegpt": {
                "kind": "sharegpt",
                "conversations": 3,
                "arrival_rate": 1,
                "think_time_mean": 1,
                "length_max": 2000,
            },
        },
        "experiments": {
            "one": {"tier": tier, "workload": "docqa", "policies": ["lru"], "cache_tokens": [10000]}
        },
    }
    return config.parse(content, "test")


@pytest.mark.parametrize("merges", [False, True])
def test_documents_have_the_tokens_of_the_tokenizer(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, merges: bool
) -> None:
    tokenizer = models.load_tokenizer(str(tiny_model))
    if merges:
        tokenizer = _Merging(tokenizer)
    monkeypatch.setattr(models, "load_tokenizer", lambda source: tokenizer)
    built = workload.build(_config("cpu", scale=0.2), "cpu", "docqa", 1, str(tiny_model))
    assert isinstance(built, TextWorkload)
    documents = [text for name, text in built.texts.items() if "/" not in name]
    assert max(map(len, documents)) > 2000
    assert built.header.document_tokens == tuple(len(tokenizer.encode(d)) for d in documents)
    assert all(
        request.prompt_tokens == sum(len(tokenizer.encode(built.texts[p])) for p in request.parts)
        for request in built.requests
    )


class _Merging:
    """A tokenizer whose tokens depend on more than a word."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.decode = tokenizer.decode
        self.start = tokenizer.start

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text)
        return tokens[:: 2 if ". " in text else 1]


def test_replay_gets_the_blocks_of_what_the_others_get_as_text(tiny_model: Path) -> None:
    settings = {"scale": 0.02, "requests": 12}
    text = workload.build(_config("cpu", **settings), "cpu", "docqa", 1, str(tiny_model))
    cut = workload.build(_config("replay", **settings), "replay", "docqa", 1, str(tiny_model))
    assert isinstance(text, TextWorkload)
    assert isinstance(cut, BlockWorkload)
    assert len(text.requests) == len(cut.requests) == 12
    assert cut.header.block_size == 32
    for request, blocks in zip(text.requests, cut.requests, strict=True):
        assert request.prompt_tokens == blocks.prompt_tokens
        assert blocks.num_blocks == blocks.prompt_tokens // 32
    same = [request.parts[0] == text.requests[0].parts[0] for request in text.requests]
    first = next(cut.requests[0].blocks())
    assert [next(blocks.blocks()) == first for blocks in cut.requests] == same


@pytest.mark.parametrize("name", ["docqa", "sharegpt"])
@pytest.mark.parametrize("kind", ["llama-2", "llama-3"])
def test_tokenizer_with_bos_has_one_at_the_start_of_each_prompt(
    tmp_path: Path, kind: str, name: str
) -> None:
    save_tokenizer(tmp_path, kind)
    tokenizer = models.load_tokenizer(str(tmp_path))
    settings = {"scale": 0.2, "requests": 12}
    text = workload.build(_config("cpu", **settings), "cpu", name, 1, str(tmp_path))
    cut = workload.build(_config("replay", **settings), "replay", name, 1, str(tmp_path))
    assert isinstance(text, TextWorkload)
    assert not any(BOS in part for part in text.texts.values())
    # It counts what is sent, or there would be an error.
    prompts = token_ids(text, tokenizer, tokenizer.vocab_size)
    assert len(prompts) == len(cut.requests) > 1
    (bos,) = tokenizer.start
    for prompt, request, blocks in zip(prompts, text.requests, cut.requests, strict=True):
        assert (prompt[0], prompt.count(bos)) == (bos, 1)
        assert len(prompt) == request.prompt_tokens == blocks.prompt_tokens
        assert blocks.num_blocks == len(prompt) // 32
    if kind == "llama-3":
        # Where tokens are those of the parts, it is what the server would make of the text.
        from transformers import AutoTokenizer

        whole = AutoTokenizer.from_pretrained(tmp_path).encode(text.prompt(text.requests[-1]))
        assert whole == prompts[-1]


def test_real_conversations_are_cut_into_blocks(tiny_model: Path) -> None:
    made = workload.build(_config(), "replay", "sharegpt", 1, str(tiny_model))
    assert isinstance(made, BlockWorkload)
    assert made.requests
    assert any("17671" in note for note in made.header.notes)


_SEQUENCE = {
    "kind": "sequence",
    "parts": {
        "docs": {"kind": "docqa", "documents": 5, "window": 10, "length_mean": 2000},
        "chats": {
            "kind": "sharegpt",
            "conversations": 6,
            "arrival_rate": 1,
            "think_time_mean": 1,
            "length_max": 2000,
        },
    },
    "phases": [
        {"part": "docs", "requests": 8},
        {"part": "chats", "requests": 6},
        {"part": "docs", "requests": 8},
    ],
}


@pytest.mark.parametrize("tier", ["cpu", "replay"])
def test_workloads_one_after_the_other(tiny_model: Path, tier: Any) -> None:
    content = _config(tier, scale=0.5).model_dump()
    content["workloads"]["sequence"] = _SEQUENCE
    made = workload.build(config.parse(content, "test"), tier, "sequence", 1, str(tiny_model))
    assert len(made.requests) == 22
    lengths = [request.prompt_tokens for request in made.requests]
    # Not scaled, since conversations are not.
    assert min(lengths[:8] + lengths[14:]) >= 1900 > max(lengths[8:14])
    assert [request.session is None for request in made.requests] == [True] * 8 + [False] * 6 + [
        True
    ] * 8
    if isinstance(made, BlockWorkload):
        first, last = (
            {next(r.blocks()) for r in part} for part in (made.requests[:8], made.requests[14:])
        )
        # The same documents come again.
        assert first & last


@pytest.mark.parametrize("name", ["trace", "original"])
def test_data_that_cannot_be_had_is_said_in_the_file(
    data: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    made = workload.build(_config(), "replay", name, 1, str(tiny_model))
    file.write(tmp_path / "w.jsonl", made)
    read = file.read(tmp_path / "w.jsonl")
    assert read.requests == ()
    assert read.header.missing is not None
    assert "Download" in read.header.missing
    assert not data.exists()


def test_a_trace_of_ones_own_is_named_by_its_path(tmp_path: Path, tiny_model: Path) -> None:
    line = {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]}
    (tmp_path / "t.jsonl").write_text(json.dumps(line))
    own = _config().model_dump()
    own["workloads"]["trace"]["dataset"] = str(tmp_path / "t.jsonl")
    made = workload.build(config.parse(own, "test"), "replay", "trace", 1, str(tiny_model))
    assert [request.prompt_tokens for request in made.requests] == [600]
    assert workload.sources(tmp_path / "w.jsonl", Trace(**own["workloads"]["trace"])) == [
        tmp_path / "t.jsonl"
    ]


def test_a_log_of_text_is_tokenized_by_the_tiers_model(tmp_path: Path, tiny_model: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"prompt": "Why is the sky blue?"}\n{"prompt": "Why is the sky red?"}\n')
    own = _config().model_dump(exclude_none=True)
    own["workloads"]["trace"] = {"kind": "trace", "path": str(log)}
    made = workload.build(config.parse(own, "test"), "replay", "trace", 1, str(tiny_model))
    tokenizer = models.load_tokenizer(str(tiny_model))
    assert [request.prompt_tokens for request in made.requests] == [
        len(tokenizer.encode(text)) for text in ("Why is the sky blue?", "Why is the sky red?")
    ]


def test_files_that_a_config_names_are_sources(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    assert workload.sources(path, Trace(path="a", times="b")) == [Path("a"), Path("b")]
    given = {"conversations": 1, "arrival_rate": 1, "think_time_mean": 1, "length_max": 9}
    assert workload.sources(path, ShareGPT(path="c", **given)) == [Path("c")]
    assert workload.sources(path, ShareGPT(**given)) == []


def test_parts_of_a_sequence_are_sources(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    parts = _SEQUENCE["parts"] | {"docs": {"kind": "docqa", "corpus": "quality"}}  # type: ignore[operator]
    given = _SEQUENCE | {"parts": parts}
    path, own = tmp_path / "w.jsonl", Sequence.model_validate(given)
    assert workload.sources(path, own) == []
    content = _config().model_dump()
    content["workloads"]["sequence"] = given
    file.write(
        path, workload.build(config.parse(content, "t"), "replay", "sequence", 1, str(tiny_model))
    )
    (data / "quality").mkdir(parents=True)
    card = datasets.cards()["quality"].files[0].path
    (data / card).parent.mkdir(parents=True, exist_ok=True)
    (data / card).touch()
    assert len(workload.sources(path, own)) == 1
    log = tmp_path / "c.jsonl"
    log.write_text("{}")
    parts = {"docs": {"kind": "docqa", "corpus": str(log)}, "chats": parts["chats"]}
    named = Sequence.model_validate(_SEQUENCE | {"parts": parts})
    assert workload.sources(tmp_path / "v.jsonl", named) == [log]


def test_bad_data_is_refused(data: Path, tiny_model: Path) -> None:
    (data / "mooncake").mkdir(parents=True)
    (data / "mooncake" / "conversation_trace.jsonl").write_text("{}")
    with pytest.raises(WorkloadError, match="not the right file"):
        workload.build(_config(), "replay", "trace", 1, str(tiny_model))


def test_a_corpus_named_by_its_path_is_a_source(tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    assert workload.sources(tmp_path / "w.jsonl", DocQA(corpus=str(corpus))) == [corpus]
    assert workload.sources(tmp_path / "w.jsonl", DocQA()) == []


def test_data_that_came_is_a_source_for_as_long_as_the_file_is_there(
    data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    params, path = Trace(dataset="mooncake", format="mooncake"), tmp_path / "w.jsonl"
    assert workload.sources(path, params) == []
    file.write(path, workload.build(_config(), "replay", "trace", 1, str(tiny_model)))
    assert workload.sources(path, params) == []
    (data / "mooncake").mkdir(parents=True)
    (data / "mooncake" / "conversation_trace.jsonl").write_text("{}")
    arrived = workload.sources(path, params)
    assert len(arrived) == 1
    # The workload was made anew: no second time.
    header = json.loads(path.read_text().splitlines()[0]) | {"missing": None}
    path.write_text(json.dumps(header) + "\n")
    assert workload.sources(path, params) == arrived


def test_data_that_was_there_from_the_start_is_no_source(data: Path, tmp_path: Path) -> None:
    (data / "mooncake").mkdir(parents=True)
    (data / "mooncake" / "conversation_trace.jsonl").write_text("{}")
    params = Trace(dataset="mooncake", format="mooncake")
    assert workload.sources(tmp_path / "w.jsonl", params) == []
