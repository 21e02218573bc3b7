import pandas as pd
import pytest

from harness.analysis import costmodel


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
