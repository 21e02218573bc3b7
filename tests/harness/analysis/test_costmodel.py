import json
from pathlib import Path

import pandas as pd
import pytest

from harness.analysis import costmodel, paper
from harness.errors import HarnessError


def test_line_through_points_on_a_line() -> None:
    points = pd.DataFrame({"hit_rate": [0.1, 0.3, 0.5], "ttft_mean": [90.0, 70.0, 50.0]})
    model = costmodel.fit(points)
    assert model.cold_ms == pytest.approx(100)
    assert model.saved_ms == pytest.approx(100)
    assert model.ttft_ms(0.25) == pytest.approx(75)


@pytest.mark.parametrize(
    ("workload", "points"),
    [("docqa-quality", 12), ("docqa-wikiqa", 12), ("conversation-bailian-a", 10)],
)
def test_predicts_the_papers_arc_and_dbl_points_from_its_lru_points(
    workload: str, points: int
) -> None:
    table = costmodel.check(workload)
    assert len(table) == points
    assert set(table["policy"]) == {"arc", "dbl"}
    assert table["error"].abs().max() < 0.01


def test_workload_that_the_paper_did_not_run_has_no_model() -> None:
    assert costmodel.of_paper("conversation-mooncake") is None
    assert costmodel.check("conversation-mooncake").empty


def test_papers_line_by_tokens_is_its_line_by_hit_rate_at_the_mean_prompt() -> None:
    by_rate, by_tokens = costmodel.of_paper("docqa-quality"), costmodel.of_papers_tokens()
    assert by_rate is not None
    for hit_rate in (0.0, 0.4, 1.0):
        computed = 5768 * (1 - hit_rate)
        predicted = by_tokens.base_ms + by_tokens.ms_per_token * computed
        assert predicted == pytest.approx(by_rate.ttft_ms(hit_rate))
    assert paper.SETTING in by_tokens.source


def test_line_of_ones_own_points() -> None:
    line = costmodel.of_points("15000:900,1000:60")
    assert line.ms_per_token == pytest.approx(0.06)
    assert line.base_ms == pytest.approx(0)
    for wrong in ("1000:80", "1000:80,15000", "1000:80,1000:90", "1000:80,2000:40", "a:b,c:d"):
        with pytest.raises(HarnessError, match="not two points of prompt tokens and ms"):
            costmodel.of_points(wrong)


def test_line_of_a_result_of_vllms_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"input_lens": [100, 200, 300], "ttfts": [0.02, 0.0, 0.04]}))
    line = costmodel.of_bench(path)
    # Of a request that failed there is no time.
    assert (line.base_ms, line.ms_per_token) == pytest.approx((10, 0.1))
    for content, message in (
        ("{}", "run vllm bench serve with --save-result --save-detailed"),
        ("no", "no line from prompt length"),
        ('{"input_lens": [9, 9], "ttfts": [1, 2]}', "all prompts have one length"),
    ):
        path.write_text(content)
        with pytest.raises(HarnessError, match=message):
            costmodel.of_bench(path)
