"""The rules of ARC in SGLang's tree, one by one; they are in patches/sglang/README.md."""

import dataclasses
import random
from array import array

import pytest

from harness.engines.sglang import shim
from harness.engines.sglang.cache import Cache, make_params

shim.install()

from sglang.srt.arg_groups.kv_cache_hook import handle_cache_compatibility  # noqa: E402
from sglang.srt.mem_cache.radix_cache import RadixKey  # noqa: E402
from sglang.srt.mem_cache.unified_cache import tree_core_registry  # noqa: E402
from sglang.srt.mem_cache.unified_cache.components.base import ComponentType  # noqa: E402
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache  # noqa: E402
from sglang.srt.server_args import ServerArgs, prepare_server_args  # noqa: E402

PAGE = 16


def text(content: int, num_pages: int, page_size: int = PAGE) -> list[int]:
    """Make a prompt of full pages and one token more."""
    return [content * 1000 + i for i in range(num_pages * page_size)] + [7]


def make(num_pages: int = 32, page_size: int = PAGE, policy: str = "arc") -> Cache:
    return Cache(policy, num_pages, page_size)


@pytest.mark.parametrize("page_size", [1, PAGE])
def test_keeps_what_was_used_twice_through_a_scan(page_size: int) -> None:
    hits = {}
    for policy in ("lru", "arc"):
        cache = make(34, page_size, policy)
        kept = text(0, 8, page_size)
        cache.run(kept)
        assert cache.run(kept) == 8 * page_size
        for content in range(1, 9):
            cache.run(text(content, 8, page_size))
        hits[policy] = cache.run(kept)
    assert hits == {"lru": 0, "arc": 8 * page_size}


def test_a_request_uses_a_node_once() -> None:
    cache = make()
    request = cache.begin(text(0, 4))
    cache.publish(request)
    for _ in range(2 * PAGE):
        cache.decode(request, 1)
    cache.finish(request)
    assert (cache.state.t1, cache.state.t2) == (6, 0)
    # Looked up while it waits, and given up before it has computed anything.
    waiting = cache.begin(text(0, 4) + text(1, 1))
    for _ in range(3):
        waiting.init_next_round_input(cache.tree)
    cache.abort(waiting)
    assert (cache.state.t1, cache.state.t2) == (6, 0)
    cache.run(text(0, 4) + text(1, 1))
    assert (cache.state.t1, cache.state.t2) == (3, 4)


def test_a_split_changes_no_size_and_no_list() -> None:
    cache = make()
    cache.run(text(0, 8))
    before = cache.state
    assert cache.begin(text(0, 8)[: 4 * PAGE + 1]).prefix_len == 4 * PAGE
    assert cache.state == before
    nodes = cache.core._collect_all_nodes()[1:]
    assert sorted(len(node.page_hashes) for node in nodes) == [4, 4]
    assert sorted(node.num_path_pages for node in nodes) == [4, 8]


def test_only_the_part_that_is_used_again_goes_to_t2() -> None:
    cache = make()
    cache.run(text(0, 8))
    cache.run(text(0, 8)[: 4 * PAGE] + text(1, 2))
    assert (cache.state.t1, cache.state.t2) == (6, 4)


def fill_b1(cache: Cache) -> None:
    """Have 8 pages used twice, and 4 and 2 pages evicted to B1."""
    cache.run(text(0, 8))
    cache.run(text(0, 8))
    cache.run(text(1, 4))
    cache.run(text(2, 2))
    cache.run(text(3, 9))
    assert vars(cache.state) == {"t1": 9, "t2": 8, "b1": 6, "b2": 0, "p": 0, "evictions": 6}


def test_a_ghost_that_returns_goes_to_t2_and_moves_p() -> None:
    cache = make(18)
    fill_b1(cache)
    # Of its eight pages four are remembered: the new node is cut there.
    cache.run(text(1, 4)[:-1] + text(9, 4))
    assert cache.state.p == 4
    assert (cache.state.t1, cache.state.t2, cache.state.b1) == (4, 12, 11)
    assert cache.run(text(1, 4)) == 4 * PAGE


def test_p_moves_by_the_ratio_of_the_ghost_lists() -> None:
    cache = make(18)
    fill_b1(cache)
    core = cache.core
    key = RadixKey(array("q", text(50, 15)))
    core._ghosts.add(core._b2, core._hasher.hash_pages(key, core._hasher.seed(key), 0), 0)
    core._adapt(core._b1, 2)
    assert core.p == pytest.approx(15 / 6 + 15 / 5)
    core._adapt(core._b2, 1)
    assert core.p == pytest.approx(15 / 6 + 15 / 5 - 1)
    core._adapt(core._b2, 15)
    assert core.p == 0
    core._adapt(core._b1, 6)
    assert core.p == 18


def test_what_a_retracted_request_had_counts_nothing_twice() -> None:
    cache = make(18)
    cache.run(text(0, 4))
    cache.run(text(0, 4))
    request = cache.begin(text(1, 6))
    cache.publish(request)
    cache.retract(request)
    again = cache.begin(text(1, 6), request)
    assert again.prefix_len == 6 * PAGE
    cache.publish(again)
    assert (cache.state.t1, cache.state.t2) == (6, 4)
    # And if it was evicted meanwhile.
    cache.retract(again)
    cache.run(text(2, 13))
    assert cache.state.b1 == 5
    again = cache.begin(text(1, 6), again)
    assert again.prefix_len == 0
    cache.publish(again)
    # Five of its pages were remembered, and go back to T1.
    assert cache.state.p == 0
    assert cache.state.t2 == 4
    cache.finish(again)
    # For another request it is a second use.
    cache.run(text(1, 6))
    assert cache.state.t2 == 10


def test_what_is_in_use_counts_and_stays() -> None:
    cache = make(18)
    running = cache.begin(text(0, 8))
    cache.publish(running)
    assert cache.state.t1 == 8
    cache.run(text(1, 4))
    cache.run(text(1, 4))  # T2, of which there is enough by its share, and nothing else to evict.
    cache.run(text(2, 8))
    assert cache.state.t1 == 16
    assert (cache.state.t2, cache.state.b2) == (0, 4)
    cache.check([running])
    cache.finish(running)
    assert cache.run(text(0, 8)) == 8 * PAGE


def test_what_is_below_a_node_of_t2_goes_before_it() -> None:
    cache = make(20)
    cache.run(text(0, 6)[:-1] + text(1, 1))
    cache.run(text(0, 6)[:-1] + text(2, 1))
    cache.run(text(5, 2))
    cache.run(text(5, 2))
    assert (cache.state.t1, cache.state.t2) == (2, 8)
    cache.core.p = 15.0  # T2 is meant to give something up.
    cache.run(text(3, 12))
    # Both questions, then the document that they are on, which was used before the other.
    assert (cache.state.b1, cache.state.b2) == (2, 6)
    assert cache.run(text(5, 2)) == 2 * PAGE


def test_bounds_hold() -> None:
    rng = random.Random(0)
    cache = make(40)
    for _ in range(400):
        cache.run(text(rng.randrange(20), rng.randrange(1, 12)))
        state = cache.state
        assert state.t1 + state.t2 <= 40
        assert state.t1 + state.b1 <= 40
        assert state.t1 + state.t2 + state.b1 + state.b2 <= 80
        assert 0 <= state.p <= 40
        cache.check()


def test_namespaces_share_no_ghosts() -> None:
    cache = make(18)
    fill_b1(cache)
    request = cache.begin(text(1, 4))
    request.extra_key = "another"
    cache.abort(request)
    state = cache.state
    request.reset_for_retract()
    cache.begin([], request)
    cache.publish(request)
    assert cache.state.p == state.p == 0
    assert cache.state.t2 == state.t2


def test_bigrams_of_speculative_decoding() -> None:
    cache = Cache("arc", 18, 1, is_eagle=True)
    cache.run(text(0, 8, 1))
    assert cache.run(text(0, 8, 1)) > 0
    for content in range(1, 6):
        cache.run(text(content, 6, 1))
    assert cache.state.b1 > 0
    p = cache.state.p
    cache.run(text(4, 6, 1))
    assert cache.state.p > p


def test_reset_forgets() -> None:
    cache = make(18)
    fill_b1(cache)
    cache.tree.reset()
    cache.pool.clear()
    assert set(vars(cache.state).values()) == {0}
    assert cache.run(text(0, 8)) == 0
    fresh = vars(cache.state)
    assert fresh == {"t1": 8, "t2": 0, "b1": 0, "b2": 0, "p": 0, "evictions": 0}


def test_lru_has_no_state() -> None:
    assert make(policy="lru").tree.get_policy_state() == {}


@pytest.mark.parametrize("core", [None, "rust", "python"])
def test_chosen_by_its_name_alone(core: str | None) -> None:
    tree = UnifiedRadixCache(make_params("ARC", 18, 1, tree_core_backend=core))
    assert type(tree.tree_core).__name__ == "ARCTreeCore"


def test_lru_keeps_its_core() -> None:
    for core, name in (("rust", "RustUnifiedTreeCore"), ("python", "UnifiedTreeCore")):
        tree = UnifiedRadixCache(make_params("lru", 18, 1, tree_core_backend=core))
        assert type(tree.tree_core).__name__ == name


def test_other_cores_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tree_core_registry._TREE_CORE_REGISTRY, "other", lambda *_: None)
    with pytest.raises(ValueError, match=r"arc is a policy of the Python TreeCore.*'other'"):
        UnifiedRadixCache(make_params("arc", 18, 1, tree_core_backend="other"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"eviction_policy_config": {"p": 1}}, "has no parameters"),
        ({"enable_session_radix_cache": True}, "exclude each other"),
        ({"token_to_kv_pool_allocator": None}, "needs the KV pool's size"),
    ],
)
def test_what_it_does_not_go_with(changes: dict[str, object], told: str) -> None:
    params = dataclasses.replace(make_params("arc", 18, 1), **changes)
    with pytest.raises(ValueError, match=told):
        UnifiedRadixCache(params)


def test_models_with_other_states_are_refused() -> None:
    core = tree_core_registry.get_tree_core_factory("python")
    assert core is not None
    components = {ComponentType.FULL: None, ComponentType.SWA: None}
    with pytest.raises(
        ValueError, match="full attention only, and this model's cache has FULL, SWA"
    ):
        core(make_params("arc", 18, 1), components)


def test_flag(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model-path", "none", "--radix-eviction-policy"]
    with pytest.raises(SystemExit):
        prepare_server_args([*flags, "belady"])
    assert "'belady' (choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("enable_hierarchical_cache", True), ("disable_radix_cache", True)]
)
def test_flags_that_it_does_not_go_with(option: str, value: object) -> None:
    arguments = ServerArgs(model_path="none", radix_eviction_policy="arc", **{option: value})
    flag = option.replace("_", "-")
    with pytest.raises(ValueError, match=f"arc and --{flag} exclude each other"):
        handle_cache_compatibility(arguments)
