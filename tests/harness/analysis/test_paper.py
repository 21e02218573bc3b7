from harness.analysis import paper


def test_every_point_that_could_be_read_is_there() -> None:
    for figure, values in (("fig3a", 18), ("fig3b", 18), ("fig4a", 18), ("fig5a", 15)):
        assert len(paper.points(figure)) == values
    assert len(paper.points("fig7", "docqa-quality")) == 5


def test_hit_rate_and_ttft_are_joined_by_cache_size() -> None:
    table = paper.joined("docqa-quality")
    assert len(table) == 18
    lru = table[table["policy"] == "lru"].set_index("cache_tokens")
    assert lru["hit_rate"][50_000] == 0.227
    assert lru["ttft_mean"][50_000] == 447
    assert paper.joined("conversation-mooncake").empty
    assert paper.joined("docqa-qmsum").equals(table)


def test_stand_in_has_the_original_s_points_at_caches_for_its_prompts() -> None:
    original = paper.joined("conversation-bailian-a")
    points = paper.comparable("conversation-short")
    assert points.drop(columns="cache_tokens").equals(original.drop(columns="cache_tokens"))
    sizes = sorted(set(points["cache_tokens"].round()))
    assert sizes == [7_200, 12_000, 24_000, 48_000, 72_000]
    assert paper.stands_in_for("conversation-short") == "conversation-bailian-a"
    # There is no saying what its requests would take there.
    assert paper.joined("conversation-short").empty
    table = paper.joined("docqa-quality")
    assert paper.comparable("docqa-quality").equals(table.astype({"cache_tokens": float}))
    assert paper.stands_in_for("docqa-quality") is None
