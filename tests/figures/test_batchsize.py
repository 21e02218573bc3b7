from pathlib import Path

import pytest
from support.results import results, row

from figures import batchsize
from figures.catalogue import FIGURES
from harness.errors import HarnessError

_ENTRY = FIGURES["fig6"]


def test_a_bar_for_each_policy_and_batch_size(root: Path, tmp_path: Path) -> None:
    rows = [
        row(policy=policy, batch_size=size, cache_tokens=200_000, seed=seed, hit_rate=rate + seed)
        for policy, rate in (("lru", 0.1), ("dbl", 0.2), ("arc", 0.3))
        for size in (1, 8, 32)
        for seed in (0, 1)
    ]
    rows.append(row(policy="arc", cache_tokens=50_000, hit_rate=0.9))
    # A seed that the other batch sizes do not have.
    rows.append(row(policy="arc", cache_tokens=200_000, seed=2, hit_rate=0.99))
    rows.append(row(policy="slru", cache_tokens=200_000, hit_rate=0.95))
    figure = batchsize.draw(results(root, tmp_path, *rows), _ENTRY)
    heights = sorted(round(patch.get_height(), 3) for patch in figure.axes[0].patches)  # type: ignore[attr-defined]
    assert heights == [0.6] * 3 + [0.7] * 3 + [0.8] * 3
    papers = [list(line.get_ydata()) for line in figure.axes[0].get_lines()]  # type: ignore[arg-type]
    assert [0.507, 0.504, 0.504] in papers
    assert "Tier replay" in figure.get_suptitle()


def test_nothing_valid_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"Figure 6: .*no valid cell"):
        batchsize.draw(results(root, tmp_path, row(cache_tokens=50_000)), _ENTRY)
