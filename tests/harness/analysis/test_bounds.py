import heapq
import itertools
import random
from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.bounds import Bounds, known_popularity
from harness.analysis.hitrate import HitRate
from harness.errors import HarnessError
from workloads.blocks import runs
from workloads.file import BlockRequest, BlockWorkload, Header

_BLOCK = 2

# A prompt: what is in each of its full blocks, tokens after them, tokens of the output.
Prompt = tuple[Sequence[int], int, int]


def _workload(prompts: Sequence[Prompt], warm_up: int = 0) -> BlockWorkload:
    ids: dict[tuple[int, ...], int] = {}
    requests = []
    for number, (path, rest, output) in enumerate(prompts):
        blocks = [ids.setdefault(tuple(path[: i + 1]), len(ids)) for i in range(len(path))]
        requests.append(
            BlockRequest(
                request=number,
                prompt_tokens=len(path) * _BLOCK + rest,
                output_tokens=output,
                runs=runs(blocks),
            )
        )
    header = Header(
        content="blocks",
        name="w",
        seed=0,
        block_size=_BLOCK,
        requests=len(requests),
        warm_up=warm_up,
        params={},
    )
    return BlockWorkload(header, tuple(requests))


def _random(seed: int, requests: int) -> BlockWorkload:
    """Conversations that go on and documents asked about, so that chains branch at all depths."""
    rng = random.Random(seed)
    known: list[list[int]] = [[]]
    prompts = []
    for _ in range(requests):
        start = rng.choice(known[-30:])
        path = start[: rng.randint(0, len(start))] + rng.choices(range(3), k=rng.randint(1, 6))
        known.append(path[:20])
        prompts.append((path[:20], rng.randrange(_BLOCK), rng.randint(1, 6)))
    return _workload(prompts, warm_up=rng.choice((0, requests // 5)))


def _needed(request: BlockRequest) -> int:
    return -(-(request.prompt_tokens + request.output_tokens - 1) // _BLOCK)


def _smallest(workload: BlockWorkload) -> int:
    return max(map(_needed, workload.requests))


def _leading(resident: Container[Any], blocks: Sequence[Any]) -> int:
    return len(list(itertools.takewhile(resident.__contains__, blocks)))


def _hits(request: BlockRequest, resident: Container[int], prefix: bool) -> int:
    blocks = list(request.blocks())
    if prefix:
        return min(_leading(resident, blocks), (request.prompt_tokens - 1) // _BLOCK)
    return sum(block in resident for block in blocks)


def _rate(workload: BlockWorkload, prefix_hits: int, block_hits: int) -> HitRate:
    counted = workload.requests[workload.header.warm_up :]
    return HitRate(
        prefix=prefix_hits * _BLOCK / max(1, sum(r.prompt_tokens for r in counted)),
        per_block=block_hits / max(1, sum(r.num_blocks for r in counted)),
    )


def _subsets(blocks: frozenset[int], most: int) -> Iterator[frozenset[int]]:
    for size in range(min(most, len(blocks)) + 1):
        yield from map(frozenset, itertools.combinations(sorted(blocks), size))


def _exhaustive(workload: BlockWorkload, cache_blocks: int, prefix: bool) -> int:
    """The most hits over everything that could be kept at each request."""
    best = {frozenset[int](): 0}
    for number, request in enumerate(workload.requests):
        own = frozenset(request.blocks())
        later = {block for r in workload.requests[number + 1 :] for block in r.blocks()}
        after: dict[frozenset[int], int] = {}
        for resident, hits in best.items():
            if number >= workload.header.warm_up:
                hits += _hits(request, resident, prefix)
            room = cache_blocks - _needed(request)
            for others in _subsets((resident - own) & later, room):
                for kept in _subsets(own & later, len(own)):
                    after[others | kept] = max(after.get(others | kept, 0), hits)
        best = after
    return max(best.values())


def _belady(workload: BlockWorkload, cache_blocks: int, prefix: bool) -> int:
    """Block by block: what is used last goes first, of that the deepest; hits are in front."""
    depth: dict[int, int] = {}
    uses: dict[int, list[tuple[int, bool]]] = {}  # block: requests, and whether they can hit it
    for number, request in enumerate(workload.requests):
        limit = (request.prompt_tokens - 1) // _BLOCK if prefix else request.num_blocks
        counted = number >= workload.header.warm_up
        for place, block in enumerate(request.blocks()):
            depth[block] = place
            uses.setdefault(block, []).append((number, counted and place < limit))
    resident: dict[int, int] = {}  # block: its next use
    heap: list[tuple[int, int, int]] = []
    hits = 0
    for number, request in enumerate(workload.requests):
        own = list(request.blocks())
        if number >= workload.header.warm_up:
            hits += _hits(request, resident, prefix)
        for block in own:
            resident.pop(block, None)
        while len(resident) > cache_blocks - _needed(request):
            next_use, place, block = heapq.heappop(heap)
            if resident.get(block) == -next_use and depth[block] == -place:
                del resident[block]
        for block in own:
            uses[block].pop(0)
            if uses[block] and uses[block][0][1]:
                resident[block] = uses[block][0][0]
                heapq.heappush(heap, (-resident[block], -depth[block], block))
    return hits


def _lru(workload: BlockWorkload, cache_blocks: int) -> HitRate:
    resident: OrderedDict[int, None] = OrderedDict()
    prefix = cached = 0
    for number, request in enumerate(workload.requests):
        own = list(request.blocks())
        if number >= workload.header.warm_up:
            prefix += _hits(request, resident, True)
            cached += _hits(request, resident, False)
        for block in own:
            resident.pop(block, None)
        while len(resident) > cache_blocks - _needed(request):
            resident.popitem(last=False)
        resident.update(dict.fromkeys(reversed(own)))
    return _rate(workload, prefix, cached)


_PROMPTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 1), max_size=4), st.integers(0, _BLOCK - 1), st.integers(1, 4)
    ).filter(lambda prompt: len(prompt[0]) + prompt[1] > 0),
    min_size=1,
    max_size=7,
)


@settings(max_examples=300, deadline=None)
@given(_PROMPTS, st.integers(0, 3), st.integers(0, 3))
def test_nothing_that_could_be_kept_beats_the_optimum(
    prompts: list[Prompt], warm_up: int, spare: int
) -> None:
    workload = _workload(prompts, min(warm_up, len(prompts)))
    cache_blocks = _smallest(workload) + spare
    assert Bounds(workload).optimum(cache_blocks) == _rate(
        workload,
        _exhaustive(workload, cache_blocks, prefix=True),
        _exhaustive(workload, cache_blocks, prefix=False),
    )


def test_a_block_that_can_never_be_hit_is_not_kept_for_its_use() -> None:
    # The second block of the first prompt has its last token. Were it kept, [1] could not be.
    prompts: list[Prompt] = [([1], 1, 1), ([0, 0], 0, 1), ([0, 0], 0, 1), ([1], 1, 1)]
    rate = Bounds(_workload(prompts)).optimum(3)
    assert rate.prefix == 2 * _BLOCK / sum(2 * len(path) + rest for path, rest, _ in prompts)
    assert rate.per_block == 3 / 6


@pytest.mark.parametrize("seed", range(6))
def test_counting_blocks_by_their_next_request_is_belady_block_by_block(seed: int) -> None:
    workload = _random(seed, 300)
    bounds = Bounds(workload)
    for cache_blocks in (_smallest(workload) + extra for extra in (0, 5, 20, 80)):
        assert bounds.optimum(cache_blocks) == _rate(
            workload,
            _belady(workload, cache_blocks, prefix=True),
            _belady(workload, cache_blocks, prefix=False),
        )


@pytest.mark.parametrize("seed", range(6))
def test_optimum_lies_between_lru_and_a_cache_that_never_evicts(seed: int) -> None:
    workload = _random(seed, 300)
    bounds = Bounds(workload)
    before = HitRate(0.0, 0.0)
    gained = 0.0
    for cache_blocks in range(_smallest(workload), _smallest(workload) + 200, 10):
        optimum = bounds.optimum(cache_blocks)
        lru = _lru(workload, cache_blocks)
        for rate in ("prefix", "per_block"):
            assert getattr(before, rate) <= getattr(optimum, rate)
            assert getattr(lru, rate) <= getattr(optimum, rate)
            assert getattr(optimum, rate) <= getattr(bounds.infinite(), rate)
        gained = max(gained, optimum.prefix - lru.prefix)
        before = optimum
    assert gained > 0.02, "such a workload does not tell the optimum from LRU"


@pytest.mark.parametrize("seed", range(3))
def test_a_cache_that_holds_everything_is_infinite(seed: int) -> None:
    workload = _random(seed, 200)
    everything = sum(map(_needed, workload.requests))
    bounds = Bounds(workload)
    assert bounds.optimum(everything) == bounds.infinite() == _lru(workload, everything)
    assert bounds.infinite() != bounds.optimum(_smallest(workload))


def test_output_takes_room_but_its_last_token_does_not() -> None:
    # [0] may stay only if the request between leaves a block of the four to it.
    def prompts(output: int) -> list[Prompt]:
        return [([0], 1, 1), ([1, 1], 0, output), ([0], 1, 1)]

    assert Bounds(_workload(prompts(3))).optimum(4).prefix == 2 / 10
    assert Bounds(_workload(prompts(4))).optimum(4).prefix == 0


def test_warm_up_fills_the_cache_and_is_not_counted() -> None:
    prompts: list[Prompt] = [([0], 1, 1), ([0], 1, 1), ([0], 1, 1)]
    assert Bounds(_workload(prompts)).infinite() == HitRate(prefix=4 / 9, per_block=2 / 3)
    assert Bounds(_workload(prompts, warm_up=2)).infinite() == HitRate(2 / 3, 1.0)
    assert Bounds(_workload(prompts, warm_up=3)).infinite() == HitRate(0.0, 0.0)


def test_request_that_cannot_run_is_refused() -> None:
    bounds = Bounds(_workload([([0], 1, 1), ([0, 0], 1, 1)]))
    with pytest.raises(HarnessError, match="request 1 needs 3 blocks, but the cache has 2"):
        bounds.optimum(2)


# Documents of so many tokens, in blocks of _BLOCK, with two questions of 3 tokens each.
_DOCUMENTS = (9, 4, 14, 7, 20, 6)
_WINDOWS = ((0.3, 0.25, 0.2, 0.1, 0.1, 0.05), (0.05, 0.1, 0.1, 0.2, 0.25, 0.3))


def _known(cache_blocks: int) -> HitRate:
    own = [tokens // _BLOCK for tokens in _DOCUMENTS]
    asked = [(tokens + 3) // _BLOCK - tokens // _BLOCK for tokens in _DOCUMENTS]
    return known_popularity(
        [[*window, *(p / 2 for p in window for _ in range(2))] for window in _WINDOWS],
        [*own, *(blocks for blocks in asked for _ in range(2))],
        [*_DOCUMENTS, *(3 for _ in _DOCUMENTS for _ in range(2))],
        cache_blocks,
        _BLOCK,
    )


@pytest.mark.parametrize("cache_blocks", [0, 3, 10, 17, 100])
def test_known_popularity_is_what_keeping_the_most_popular_blocks_gives(cache_blocks: int) -> None:
    rng = random.Random(cache_blocks)
    hits = blocks = tokens = 0
    for window in _WINDOWS:
        # Each block by the probability of its document, or of its document and question.
        ranked = []
        for document, p in enumerate(window):
            own = _DOCUMENTS[document] // _BLOCK
            ranked += [(p, document, None, place) for place in range(own)]
            for question in range(2):
                full = (_DOCUMENTS[document] + 3) // _BLOCK
                ranked += [(p / 2, document, question, place) for place in range(own, full)]
        ranked.sort(key=lambda block: -block[0])
        kept = {block[1:] for block in ranked[:cache_blocks]}
        for document in rng.choices(range(len(window)), window, k=20_000):
            question = rng.randrange(2)
            own, prompt = _DOCUMENTS[document] // _BLOCK, _DOCUMENTS[document] + 3
            asked = [
                (document, None if place < own else question, place)
                for place in range(prompt // _BLOCK)
            ]
            hits += _leading(kept, asked)
            blocks += len(asked)
            tokens += prompt
    rate = _known(cache_blocks)
    assert rate.prefix == pytest.approx(hits * _BLOCK / tokens, abs=0.01)
    assert rate.per_block == pytest.approx(hits / blocks, abs=0.01)


def test_no_other_contents_are_better_than_the_most_popular() -> None:
    probabilities, blocks, cache_blocks = [0.5, 0.2, 0.2, 0.1], [3, 2, 4, 1], 5
    best = max(
        sum(p * n for p, n in zip(probabilities, kept, strict=True))
        for kept in itertools.product(*(range(n + 1) for n in blocks))
        if sum(kept) <= cache_blocks
    )
    rate = known_popularity([probabilities], blocks, [6, 4, 8, 2], cache_blocks, _BLOCK)
    asked = sum(p * n for p, n in zip(probabilities, blocks, strict=True))
    assert rate == HitRate(pytest.approx(best / asked), pytest.approx(best / asked))


def test_known_popularity_bounds_lru_on_draws_from_it() -> None:
    rng = random.Random(1)
    prompts: list[Prompt] = []
    for window in _WINDOWS:
        for document in rng.choices(range(len(window)), window, k=3000):
            own = _DOCUMENTS[document] // _BLOCK
            asked = (_DOCUMENTS[document] + 3) // _BLOCK - own
            path = [document] * own + [100 + rng.randrange(2)] * asked
            prompts.append((path, (_DOCUMENTS[document] + 3) % _BLOCK, 1))
    workload = _workload(prompts)
    for cache_blocks in (12, 16, 24):
        bound, lru = _known(cache_blocks), _lru(workload, cache_blocks)
        assert 0.05 < lru.prefix < bound.prefix
        assert lru.per_block < bound.per_block
