from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support.results import CHAT, due, experiment, measured, open_loop, record

from figures import online
from figures.catalogue import FIGURES
from figures.online import Panel
from harness.cell import CellSpec, ClosedLoop, OpenLoop
from harness.errors import HarnessError
from harness.measure import validity
from harness.measure.records import RequestRecord

_ENTRY = FIGURES["online-ttft"]
_RATES = [open_loop(rate) for rate in (12, 6, 9)]
_FAILED = {"status": "truncated", "error": "cut off"}


def _made(spec: CellSpec) -> list[RequestRecord]:
    if spec.load.mode == "closed-loop":
        return [record(i, 100 * i, 20, session=i % 2, turn=i // 2) for i in range(4)]
    return [due(i, 100 * i, 20) for i in range(4)]


def _cells(panel: Panel) -> set[tuple[str, int]]:
    return set(zip(panel.cells["policy"], panel.cells["seed"], strict=True))


def test_a_panel_for_each_workload_and_load_in_order(root: Path, tmp_path: Path) -> None:
    constant = open_loop(6, arrivals="constant")
    drawn_from = measured(
        root,
        tmp_path,
        _made,
        experiment(**CHAT),
        experiment(loads=[constant, *_RATES]),
        experiment(engine="vllm-stock", policies=["lru"], loads=[open_loop(20)]),
    )
    selection = online.select(drawn_from, _ENTRY)
    assert [panel.title.replace("\n", " ") for panel in selection.panels] == [
        "Doc-QA: open loop, Poisson arrivals, 6 requests/s",
        "Doc-QA: open loop, Poisson arrivals, 9 requests/s",
        "Doc-QA: open loop, Poisson arrivals, 12 requests/s",
        "Doc-QA: open loop, constant arrivals, 6 requests/s",
        "Conversation: closed loop, 4 users who think for 0.5 s on average",
    ]
    for panel in selection.panels:
        assert panel.policies == ["lru", "arc"]
        assert set(panel.cells["engine"]) == {"vllm"}
    assert selection.invalid == 0
    assert not any(selection.sentences)


def test_smallest_cache_is_taken_of_each_workload(root: Path, tmp_path: Path) -> None:
    docqa = experiment(cache_tokens=[200_000, 100_000], loads=[open_loop(6)])
    chat = experiment(**CHAT | {"cache_tokens": [16_000, 32_000]})
    selection = online.select(measured(root, tmp_path, _made, docqa, chat), _ENTRY)
    # In whole blocks of 32.
    assert [set(panel.cells["cache_tokens"]) for panel in selection.panels] == [{9984}, {16_000}]


def test_invalid_cells_are_counted_and_take_their_seed_with_them(
    root: Path, tmp_path: Path
) -> None:
    def made(spec: CellSpec) -> list[RequestRecord]:
        broken = spec.policy == "arc" and spec.seed == 43
        return [*_made(spec), due(4, 400, 20, **_FAILED if broken else {})]

    load = experiment(loads=[open_loop(6)], seeds=[42, 43])
    selection = online.select(measured(root, tmp_path, made, load), _ENTRY)
    (panel,) = selection.panels
    assert _cells(panel) == {("lru", 42), ("arc", 42)}
    assert selection.invalid == 1
    assert "1 invalid cell not drawn." in selection.sentences


def test_policies_with_other_seeds_are_not_compared(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(
        root,
        tmp_path,
        _made,
        experiment(loads=[open_loop(6)], seeds=[41, 42]),
        experiment(loads=[open_loop(6)], seeds=[42, 43], policies=["dbl", "lru"]),
    )
    (panel,) = online.select(drawn_from, _ENTRY).panels
    assert _cells(panel) == {("lru", 42), ("arc", 42), ("dbl", 42)}


def test_first_seed_alone(root: Path, tmp_path: Path) -> None:
    load = experiment(loads=[open_loop(6)], seeds=[43, 42])
    (panel,) = online.select(measured(root, tmp_path, _made, load), _ENTRY).panels
    assert _cells(panel.of_first_seed()) == {("lru", 42), ("arc", 42)}


def test_cells_that_were_not_run_are_named_beside_the_others(root: Path, tmp_path: Path) -> None:
    def made(spec: CellSpec) -> list[RequestRecord] | str:
        return _made(spec) if spec.workload == "docqa-quality" else "no network"

    experiments = experiment(loads=[open_loop(6)]), experiment(**CHAT)
    selection = online.select(measured(root, tmp_path, made, *experiments), _ENTRY)
    assert [panel.workload for panel in selection.panels] == ["docqa-quality"]
    assert selection.invalid == 0
    assert "Not drawn: conversation-chat: not run: no network." in selection.sentences


def test_nothing_that_could_be_run_has_a_reason(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, lambda _: "no network", experiment(**CHAT))
    selection = online.select(drawn_from, _ENTRY)
    assert not selection.panels
    assert selection.reason == "conversation-chat: not run: no network"


def test_no_valid_cell_is_refused(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(
        root, tmp_path, lambda _: [due(0, 0, 20, **_FAILED)], experiment(loads=[open_loop(6)])
    )
    with pytest.raises(HarnessError, match=r"none of its 2 cells is valid: 1 of 1 requests"):
        online.select(drawn_from, _ENTRY)


def test_no_cell_at_all_is_refused(root: Path, tmp_path: Path) -> None:
    batches = experiment(loads=[{"mode": "batch-http", "batch_size": 2}])
    with pytest.raises(HarnessError, match="no cell for it"):
        online.select(measured(root, tmp_path, _made, batches), _ENTRY)


def _panel(load: OpenLoop | ClosedLoop, workload: str = "docqa-quality") -> Panel:
    return Panel(workload, load, pd.DataFrame(), pd.DataFrame())


def test_middle_rate_of_each_kind_of_arrivals_and_all_that_has_no_rate() -> None:
    poisson = [_panel(OpenLoop(mode="open-loop", request_rate=rate)) for rate in (6, 9, 12)]
    constant = [
        _panel(OpenLoop(mode="open-loop", arrivals="constant", request_rate=rate))
        for rate in (3, 4)
    ]
    trace = _panel(OpenLoop(mode="open-loop", arrivals="trace"))
    closed = [
        _panel(ClosedLoop(mode="closed-loop", users=users, think_time_mean=1), "conversation-chat")
        for users in (4, 8)
    ]
    other = replace(poisson[0], workload="docqa-qmsum")
    kept = online.middle_rate([*poisson, *constant, trace, *closed, other])
    assert [id(panel) for panel in kept] == [
        id(panel) for panel in (poisson[1], constant[1], trace, *closed, other)
    ]


def _requests(*rows: RequestRecord) -> pd.DataFrame:
    return pd.DataFrame(rows)


def test_hit_rate_is_of_tokens_not_of_requests() -> None:
    requests = _requests(
        record(0, 0, 1, prompt_tokens=900, cached_tokens=0),
        record(1, 0, 1, prompt_tokens=100, cached_tokens=50),
    )
    assert online.hit_rate(requests) == 0.05


@pytest.mark.parametrize(("ttft_ms", "saturated"), [(20, False), (500, False), (1000, True)])
def test_saturated_is_finishing_later_than_was_offered(ttft_ms: float, saturated: bool) -> None:
    # 10 s are offered; at a whole second of delay, 10 of 11 are 91 %.
    requests = _requests(*(due(i, 100 * i, ttft_ms) for i in range(101)))
    assert online.is_saturated(requests) == saturated


def test_what_turns_of_a_saturated_server_take_adds_up() -> None:
    # Ten turns of 1 s, each of which ends 0.3 s late, though the next is due as if it had not.
    requests = _requests(*(due(i, 100 * i, 300) for i in range(100)))
    assert not online.is_saturated(requests)
    assert online.is_saturated(requests, turn_requests=10)


@pytest.mark.parametrize(("service_ms", "saturated"), [(80, False), (120, True)])
def test_short_turns_alone_do_not_make_a_server_saturated(service_ms: int, saturated: bool) -> None:
    # One at a time, in turns of 16 that are due within 1.5 s: the last answer is not lateness.
    waits = [max(service_ms, (service_ms - 100) * place + service_ms) for place in range(16)]
    requests = _requests(*(due(i, 100 * i, waits[i % 16]) for i in range(160)))
    assert online.is_saturated(requests, turn_requests=16) == saturated


def test_order_of_sending_is_not_that_of_the_workload() -> None:
    requests = _requests(record(0, 50, 1), record(1, 0, 1), record(2, 100, 1), record(3, 50, 1))
    assert list(online.order_of_sending(requests)["request"]) == [1, 0, 3, 2]


def test_failed_requests_are_not_among_a_panels(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validity, "MAX_ERROR_RATE", 0.5)

    def made(spec: CellSpec) -> list[RequestRecord]:
        return [*_made(spec), due(4, 400, 9000, **_FAILED)]

    load = experiment(loads=[open_loop(6)])
    drawn_from = measured(root, tmp_path, made, load)
    assert drawn_from.cells["valid"].all()
    (panel,) = online.select(drawn_from, _ENTRY).panels
    assert list(panel.requests(drawn_from, "arc")["ttft_ms"]) == [20] * 4


def test_clusters_are_conversations_or_blocks_of_one_seed(root: Path, tmp_path: Path) -> None:
    seeds = {"seeds": [42, 43]}
    drawn_from = measured(
        root,
        tmp_path,
        _made,
        experiment(loads=[open_loop(6)], **seeds),
        experiment(**CHAT, **seeds),
    )
    docqa, chat = online.select(drawn_from, _ENTRY).panels
    # Of each seed two blocks of two requests, or two conversations of two turns.
    assert list(docqa.requests(drawn_from, "arc")["cluster"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert list(chat.requests(drawn_from, "arc")["cluster"]) == [0, 1, 0, 1, 2, 3, 2, 3]


def test_since_when_ttft_counts() -> None:
    opened = _panel(OpenLoop(mode="open-loop", request_rate=6))
    closed = _panel(ClosedLoop(mode="closed-loop", users=4, think_time_mean=1))
    assert online.since([opened]) == (
        "TTFT is from when a request was due (scheduled), not from when it was sent."
    )
    assert online.since([closed]) == "TTFT is from sending."
    assert online.since([opened, closed]) == (
        "TTFT is from when a request was due (scheduled) in the open loop, from sending in the "
        "closed loop."
    )


def test_setting_names_each_workload_with_its_cache_requests_and_seeds(
    root: Path, tmp_path: Path
) -> None:
    drawn_from = measured(
        root, tmp_path, _made, experiment(loads=_RATES, seeds=[42, 43]), experiment(**CHAT)
    )
    panels = online.select(drawn_from, _ENTRY).panels
    engine, docqa, chat = online.setting(drawn_from, _ENTRY, panels)
    assert engine.startswith("Online traffic: distribution of TTFT. Tier cpu: real vLLM engine")
    assert docqa.startswith("Doc-QA on 381 documents of synthetic text")
    assert docqa.endswith("(100k at the paper's scale); 4 requests a cell, seeds 42, 43.")
    assert chat.endswith("cache of 8,000 tokens; 4 requests a cell, seed 42.")
