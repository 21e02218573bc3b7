"""The scheduler without a model, in this process, on the patched engine."""

import random
from pathlib import Path
from typing import Any

import pytest

from harness.cell import Batch, CellSpec
from harness.errors import HarnessError
from workloads.file import BlockRequest, BlockWorkload, Header


def _prompt(*contents: object, output_tokens: int = 1) -> Any:
    from harness.engines.vllm.replay import HashedPrompt

    names = ["/".join(map(str, contents[: i + 1])) for i in range(len(contents))]
    hashes = [name.encode().rjust(32, b".") for name in names]
    return HashedPrompt(hashes, len(hashes) * 16 + 1, output_tokens)


def _replay(model: Path, policy: str, cache_blocks: int, batch_size: int = 1) -> Any:
    from harness.engines.vllm.replay import Replay

    return Replay(str(model), policy, cache_blocks, 16, max_tokens=1024, batch_size=batch_size)


def test_needs_no_device(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.platforms import current_platform

    # As where vLLM is built for CUDA and there is no GPU.
    monkeypatch.setattr(current_platform, "device_type", "")
    assert _replay(tiny_model, "lru", 20).run([_prompt("a", 1, 2)]) == [0]


def test_finds_what_it_cached(tiny_model: Path) -> None:
    replay = _replay(tiny_model, "arc", 20)
    assert replay.run([_prompt("a", 1, 2)]) == [0]
    assert replay.run([_prompt("a", 1, 3)]) == [32]
    assert replay.policy.get_stats()["t2"] == 2


@pytest.mark.parametrize("policy", ["lru", "arc", "dbl", "slru", "s3fifo", "alrfu"])
def test_batches_that_have_to_preempt_lose_no_block(tiny_model: Path, policy: str) -> None:
    replay = _replay(tiny_model, policy, 30, batch_size=6)
    rng = random.Random("batches")
    for _ in range(60):
        batch = [
            _prompt(rng.randrange(4), *range(rng.randrange(1, 5)), rng.random(), output_tokens=60)
            for _ in range(6)
        ]
        replay.run(batch)
        pool = replay.pool
        free = list(pool.free_block_queue.iter_blocks_after(None))
        assert len(free) == len(set(map(id, free))) == pool.get_num_free_blocks() == 30
    assert replay.num_preemptions > 0


def test_rivals_are_replayed_in_a_cache_that_under_lru_hits_what_the_engine_does(
    tiny_model: Path,
) -> None:
    from harness.analysis.rivals.chains import Chains, PrefixCache

    rng = random.Random("chains")
    lengths = [rng.randint(1, 12) for _ in range(12)]
    prompts, requests = [], []
    for number in range(600):
        document = int(12 * rng.random() ** 2)
        length = rng.choice([lengths[document], rng.randint(1, lengths[document])])
        prompts.append(
            _prompt(document, *range(length - 1), *[f"{number}?", "?"][: rng.choice([0, 2])])
        )
        runs = [(20 * document, length)]
        if len(prompts[-1].block_hashes) > length:
            runs.append((1000 + 2 * number, 2))
        requests.append(
            BlockRequest(
                request=number,
                prompt_tokens=16 * sum(count for _, count in runs) + 1,
                output_tokens=1,
                runs=tuple(runs),
            )
        )
    header = Header(
        content="blocks", name="w", seed=1, block_size=16, requests=len(requests), params={}
    )
    chains = Chains(BlockWorkload(header, tuple(requests)))
    replay, cache = _replay(tiny_model, "lru", 40), PrefixCache(chains, 40)
    found = [replay.run([prompt])[0] for prompt in prompts]
    assert found == [16 * cache.run(request) for request in chains.requests]
    assert 0 < sum(found) < sum(request.prompt_tokens for request in requests) / 2


@pytest.mark.parametrize("policy", ["lru", "arc", "s3fifo", "alrfu"])
def test_share_of_blocks_that_cannot_be_reached(tiny_model: Path, policy: str) -> None:
    from harness.engines.vllm.replay import ReplayEngine

    rng = random.Random("unreachable")
    requests = []
    # Conversations that grow, and sometimes an answer that is cached, too.
    said = [0] * 40
    for number in range(330):
        one = rng.randrange(number // 15, number // 15 + 8)
        said[one] = min(24, said[one] + rng.randint(1, 4))
        found = [(100 * one, said[one])]
        requests.append(
            BlockRequest(
                request=number,
                prompt_tokens=16 * sum(count for _, count in found) + 1,
                output_tokens=rng.choice([1, 1, 40]),
                runs=tuple(found),
            )
        )
    header = Header(
        content="blocks", name="w", seed=1, block_size=16, requests=len(requests), params={}
    )
    spec = CellSpec(
        tier="replay",
        engine="replay",
        policy=policy,
        workload="w",
        load=Batch(batch_size=1),
        cache_blocks=60,
        block_size=16,
        threads=None,
        seed=1,
        model="",
        dtype="float32",
        scale=1,
        repeat=0,
    )
    engine = ReplayEngine(spec, str(tiny_model), BlockWorkload(header, tuple(requests)))
    before: dict[int, int | None] = {}
    shares = []
    for request in requests:
        chain = [None, *request.blocks()]
        before.update(zip(chain[1:], chain, strict=False))  # type: ignore[arg-type]
        engine.generate([request])
        share = engine.policy_state()["unreachable"]
        if share == share:
            names = {
                int.from_bytes(key[:32])
                for key in engine._replay.pool.cached_block_hash_to_block._cache
            }
            assert share == _unreachable(before, names & before.keys())
            shares.append(share)
    assert 15 <= len(shares) <= 20
    # What LRU and ALRFU evict is the end of a chain.
    assert (max(shares) > 0.02) == (policy in ("arc", "s3fifo"))


def _unreachable(before: dict[int, int | None], cached: set[int]) -> float:
    def is_reached(block: int | None) -> bool:
        return block is None or (block in cached and is_reached(before[block]))

    return sum(not is_reached(block) for block in cached) / max(1, len(cached))


def test_a_ghost_takes_less_than_200_bytes() -> None:
    from harness.bench.scheduling import bytes_per_ghost

    for num_ghosts in (1000, 3125, 18_750, 100_000):
        assert bytes_per_ghost(num_ghosts) < 200


def test_variant_has_another_constant_and_the_next_engine_has_its_own(tiny_model: Path) -> None:
    def half_lives(policy: str) -> int:
        return len(_replay(tiny_model, policy, 20).policy._shadows)

    usual = half_lives("alrfu")
    assert half_lives("alrfu:HALF_LIVES=0+8") == 2
    assert half_lives("alrfu") == usual > 2
    for name in ("alrfu:MAX_GHOST=1", "alrfu:MAX_GHOSTS=1+2"):
        with pytest.raises(HarnessError, match=r"no constant MAX_GHOSTS? .* has .*MAX_GHOSTS = 8"):
            _replay(tiny_model, name, 20)
    assert half_lives("alrfu") == usual


def test_constant_of_its_own_value_changes_nothing_and_one_half_life_is_followed_for_good(
    tiny_model: Path,
) -> None:
    def hits(policy: str) -> list[int]:
        replay, rng = _replay(tiny_model, policy, 40), random.Random("prompts")
        return [
            replay.run([_prompt(min(rng.randrange(9), rng.randrange(9)), *range(6), rng.random())])
            for _ in range(400)
        ]

    usual = hits("alrfu")
    assert hits("alrfu:LONG_WINDOW=8") == hits("alrfu:MAX_GHOSTS=8") == usual
    assert hits("alrfu:HALF_LIVES=0") == hits("lru") != usual
    assert hits("alrfu:HALF_LIVES=8") not in (usual, hits("lru"))
