import random
from typing import Any

import pytest

from workloads import blocks
from workloads.file import Header, TextRequest, TextWorkload
from workloads.formats import cutting
from workloads.formats.asked import Asked, Text, TokenIds
from workloads.formats.cutting import Cutter
from workloads.formats.source import Place
from workloads.prefixes import Prefixes


def _cut(cutter: Cutter, asked: list[Asked]) -> list[tuple[list[int], int, int | None]]:
    found = cutter.cut((Place(i), one) for i, one in enumerate(asked))
    return [(p.ids.tolist(), p.tokens, a.output_tokens) for _, a, p in found]


@pytest.mark.parametrize("start", [(), (7,)])
@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_the_same_where_an_engine_has_them_so(
    word_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, seed: int, start: tuple[int, ...]
) -> None:
    rng = random.Random(seed)
    word_tokenizer.start = start
    # Little at a time, and little remembered.
    monkeypatch.setattr(cutting, "_BATCH_CHARACTERS", 50)
    monkeypatch.setattr(cutting, "_REMEMBERED", 30)
    texts = {f"t{i}": " ".join(rng.choices("abcd", k=rng.randint(1, 9))) for i in range(8)}
    chosen = [tuple(rng.choices(list(texts), k=rng.randint(1, 6))) for _ in range(60)]
    requests = tuple(
        TextRequest(
            request=i,
            prompt_tokens=len(start) + sum(len(texts[part].split()) for part in parts),
            output_tokens=1,
            parts=parts,
        )
        for i, parts in enumerate(chosen)
    )
    header = Header(content="text", name="w", seed=0, texts=8, requests=60, params={})
    cut = blocks.from_text(TextWorkload(header, requests, texts), word_tokenizer, 4)
    asked = [Asked(prompt=Text(tuple(texts[part] for part in parts))) for parts in chosen]
    found = _cut(Cutter(word_tokenizer, 4), asked)
    assert [tokens for _, tokens, _ in found] == [r.prompt_tokens for r in requests]
    # Both number what is new in the order in which it comes, one with blocks that are not full.
    names: dict[int, int] = {}
    for (ids, tokens, _), request in zip(found, cut.requests, strict=True):
        full = ids[: tokens // 4]
        assert len(ids) == -(-tokens // 4)
        assert [names.setdefault(one, len(names)) for one in full] == list(request.blocks())


def test_ids_are_of_the_key_and_tell_nothing_without(word_tokenizer: Any) -> None:
    asked = [Asked(prompt=Text(("a b c d",)))]

    def ids(key: bytes) -> list[int]:
        ((found, _, _),) = _cut(Cutter(word_tokenizer, 2, key), asked)
        return found

    assert ids(b"one" * 8) == ids(b"one" * 8)
    assert not set(ids(b"one" * 8)) & set(ids(b"two" * 8))
    assert all(0 <= one < 2**63 for one in ids(b""))


def test_tokens_are_text_that_was_tokenized_before(word_tokenizer: Any) -> None:
    text = Asked(prompt=Text(("a b c",)))
    tokens = Asked(prompt=TokenIds(tuple(word_tokenizer.encode("a b c"))))
    one, other = _cut(Cutter(word_tokenizer, 2), [text, tokens])
    assert one == other


def test_answers_are_counted_where_the_log_does_not_say(word_tokenizer: Any) -> None:
    asked = [
        Asked(prompt=Text(("a",)), reply="x y z"),
        Asked(prompt=Text(("a",)), reply="x y z", output_tokens=9),
        Asked(prompt=Text(("a",))),
    ]
    assert [output for *_, output in _cut(Cutter(word_tokenizer, 2), asked)] == [3, 9, None]


def test_numbers_of_ids_are_as_small_as_can_be(word_tokenizer: Any) -> None:
    cutter, prefixes = Cutter(word_tokenizer, 1), Prefixes()
    asked = [Asked(prompt=Text((text,))) for text in ("a b", "a c", "a b d")]
    found = cutter.cut((Place(i), one) for i, one in enumerate(asked))
    runs = [prefixes.add(prompt.ids) for _, _, prompt in found]
    assert runs == [[(0, 2)], [(0, 1), (2, 1)], [(0, 2), (3, 1)]]
