"""What ARC remembers, against lists of single pages."""

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.sglang import shim

shim.install()

from sglang.srt.mem_cache.radix_cache import RadixKey  # noqa: E402
from sglang.srt.mem_cache.unified_cache.arc_ghosts import GhostTable, PageHasher  # noqa: E402

texts = st.lists(st.integers(0, 3), max_size=40)


def hash_text(hasher: PageHasher, tokens: list[int], is_bigram: bool = False) -> list[int]:
    key = RadixKey(array("q", tokens), is_bigram=is_bigram)
    return hasher.hash_pages(key, hasher.seed(key), 0).tolist() if tokens else []


@pytest.mark.parametrize("page_size", [1, 4])
@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_pages_have_one_hash_if_all_up_to_them_is_the_same(
    page_size: int, one: list[int], other: list[int]
) -> None:
    hasher = PageHasher(page_size)
    hashes, others = hash_text(hasher, one), hash_text(hasher, other)
    assert len(hashes) == len(one) // page_size
    assert len(set(hashes)) == len(hashes)
    for number, found in enumerate(hashes):
        end = (number + 1) * page_size
        assert (found in others) == (one[:end] == other[:end])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=8, max_size=80), st.integers(0, 20))
def test_a_chain_goes_on_where_it_was_cut(tokens: list[int], cut: int) -> None:
    hasher = PageHasher(4)
    whole = hash_text(hasher, tokens)
    cut = min(cut, len(whole) - 1)
    key = RadixKey(array("q", tokens[4 * cut :]))
    before = np.uint64(whole[cut - 1]) if cut else hasher.seed(key)
    assert hasher.hash_pages(key, before, cut).tolist() == whole[cut:]


def test_long_chains_get_more_factors() -> None:
    hasher = PageHasher(1)
    whole = hash_text(hasher, list(range(5000)))
    assert len(set(whole)) == 5000
    assert hash_text(PageHasher(1), list(range(700))) == whole[:700]


def test_bigrams_and_tokens_are_apart() -> None:
    hasher = PageHasher(2)
    tokens = [1, 2, 3, 4, 5]
    bigrams = hash_text(hasher, tokens, is_bigram=True)
    assert len(bigrams) == 2
    assert set(bigrams).isdisjoint(hash_text(hasher, tokens))
    assert hash_text(hasher, [1, 2, 3, 4, 9], is_bigram=True)[0] == bigrams[0]
    assert hash_text(hasher, [1, 2, 3, 4, 9], is_bigram=True)[1] != bigrams[1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_runs_are_lists_of_pages(data: st.DataObject) -> None:
    """Parts of chains are evicted, found, brought back and forgotten."""
    table = GhostTable(num_queues=2)
    shadows: list[list[int]] = [[], []]
    chains = [np.arange(100 * c, 100 * c + 12, dtype=np.uint64) for c in range(3)]
    for _ in range(data.draw(st.integers(1, 25))):
        chain = chains[data.draw(st.integers(0, 2))]
        start = data.draw(st.integers(0, 11))
        stop = data.draw(st.integers(start + 1, 12))
        remembered = set(shadows[0]) | set(shadows[1])
        match data.draw(st.sampled_from(["add", "return", "forget"])):
            case "add":
                # What is evicted is no ghost, and all before it is there or was evicted later.
                if remembered.isdisjoint(chain[start:stop].tolist()):
                    which = data.draw(st.integers(0, 1))
                    table.add(table.queues[which], chain[start:stop], start)
                    shadows[which] += reversed(chain[start:stop].tolist())
            case "return":
                found = table.find(chain[:stop], 0)
                pages = [page for page in chain[:stop].tolist() if page in remembered]
                places = [p for r in found for p in range(r.start, r.start + r.num_pages)]
                assert [int(chain[place]) for place in places] == pages
                for returning in found:
                    table.remove(returning.run, returning.num_pages)
                shadows = [[p for p in shadow if p not in pages] for shadow in shadows]
            case "forget":
                which = data.draw(st.integers(0, 1))
                left = data.draw(st.integers(0, 12))
                table.forget_oldest(table.queues[which], left)
                shadows[which] = shadows[which][max(len(shadows[which]) - left, 0) :]
        for queue, shadow in zip(table.queues, shadows, strict=True):
            assert queue.num_pages == len(shadow)
            runs = [reversed(r.hashes[r.start : r.stop].tolist()) for r in queue.runs.values()]
            assert [page for run in runs for page in run] == shadow
