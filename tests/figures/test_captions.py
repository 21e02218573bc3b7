from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.results import results, row

from figures import captions
from figures.catalogue import FIGURES
from harness import config
from harness.analysis.results import Results
from harness.cell import BatchHTTP, ClosedLoop, Load, OpenLoop


@pytest.fixture
def cpu(root: Path, tmp_path: Path) -> Results:
    return results(root, tmp_path)


def test_engine_workload_and_cache_at_a_tenth_of_the_papers_size(cpu: Results) -> None:
    assert captions.engine(cpu, FIGURES["fig3-cpu"]) == (
        "Tier cpu: real vLLM engine, model tiny-qwen3 (float32), block size 32"
    )
    assert captions.workload(cpu, "cpu", "docqa-quality") == (
        "Doc-QA on 381 documents of synthetic text, documents and cache at 1/10 of the paper's size"
    )
    assert captions.cache(cpu, "cpu", "docqa-quality", 9984) == (
        "cache of 9,984 tokens (100k at the paper's scale)"
    )


def test_scale_of_another_config(root: Path, tmp_path: Path, cpu: Results) -> None:
    smoke = Results(config.load(root / "config" / "smoke.yaml"), tmp_path, cpu.cells, cpu.policies)
    assert "at 1/16 of the paper's size" in captions.workload(smoke, "cpu", "docqa-quality")
    assert "(50k at" in captions.cache(smoke, "cpu", "docqa-quality", 3136)


def test_real_text_and_real_conversations(root: Path, tmp_path: Path, cpu: Results) -> None:
    more = Results(config.load(root / "config" / "seeds.yaml"), tmp_path, cpu.cells, cpu.policies)
    assert captions.workload(more, "replay", "docqa-qmsum") == (
        "Doc-QA on 381 documents of real text (qmsum), at the paper's scale"
    )
    assert captions.workload(cpu, "cpu", "conversation-chat") == (
        "Conversations of ShareGPT at their own size"
    )
    assert captions.workload(more, "replay", "conversation-mooncake") == (
        "Conversations of mooncake at their own size"
    )
    assert captions.cache(cpu, "cpu", "conversation-chat", 8000) == "cache of 8,000 tokens"


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (BatchHTTP(mode="batch-http", batch_size=8), "batches of 8"),
        (
            OpenLoop(mode="open-loop", request_rate=8.5),
            "open loop, Poisson arrivals, 8.5 requests/s",
        ),
        (
            OpenLoop(mode="open-loop", request_rate=8, turn_requests=128),
            "open loop, Poisson arrivals in turns of 128, 8 requests/s",
        ),
        (
            OpenLoop(mode="open-loop", arrivals="constant", request_rate=8),
            "open loop, constant arrivals, 8 requests/s",
        ),
        (
            OpenLoop(mode="open-loop", arrivals="gamma", request_rate=8, burstiness=0.5),
            "open loop, gamma arrivals of shape 0.5, 8 requests/s",
        ),
        (OpenLoop(mode="open-loop", arrivals="trace"), "open loop, at the trace's own times"),
        (
            OpenLoop(mode="open-loop", arrivals="trace", speed=2),
            "open loop, at the trace's own times, 2 times faster",
        ),
        (
            ClosedLoop(mode="closed-loop", users=16, think_time_mean=1.5),
            "closed loop, 16 users who think for 1.5 s on average",
        ),
        (
            ClosedLoop(mode="closed-loop", users=16, think_time_mean=1.5, reading_speed=20),
            "closed loop, 16 users who read 20 tokens/s and think for 1.5 s on average",
        ),
    ],
)
def test_load(load: Load, said: str) -> None:
    assert captions.load(load) == said


def test_seeds_are_named_once_in_order() -> None:
    assert captions.seeds([43, 42, 43]) == "seeds 42, 43"
    assert captions.seeds([42]) == "seed 42"
    assert captions.over_seeds([43, 42, 43]) == "mean and 95 % interval over seeds 42, 43"
    assert captions.over_seeds([42, 42]) == "seed 42"


def test_what_is_not_drawn_is_counted() -> None:
    assert captions.not_drawn(0) == ""
    assert captions.not_drawn(1) == "1 invalid cell not drawn."
    assert captions.not_drawn(2) == "2 invalid cells not drawn."


def test_a_log_of_ones_own_is_named(root: Path, tmp_path: Path, cpu: Results) -> None:
    log = tmp_path / "mine.jsonl"
    log.write_text('{"prompt": "x"}\n')
    content = yaml.safe_load((root / "config" / "cpu.yaml").read_text())
    content["workloads"]["mine"] = {"kind": "trace", "path": str(log)}
    mine = Results(config.parse(content, "test"), tmp_path, cpu.cells, cpu.policies)
    assert captions.workload(mine, "replay", "mine") == "Requests of mine.jsonl at their own size"


def test_what_a_figure_leaves_out_is_named() -> None:
    found = pd.DataFrame(
        [
            row(),
            row(policy="s3fifo", cache_tokens=1_600_000),
            row(policy="new", seed=43),
            row(policy="dbl", valid=False),  # said elsewhere
        ]
    )
    assert captions.left_out(found, found) == ""
    assert captions.left_out(found, found[:1]) == (
        "Not in this figure, but in cells.csv: policies new, S3-FIFO; cache size 1,600,000 tokens; "
        "seed 43."
    )
