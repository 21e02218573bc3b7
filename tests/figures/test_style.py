from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Patch
from PIL import Image

from figures import saved, style
from harness.policies import POLICIES


def test_every_policy_has_a_look_of_its_own() -> None:
    looks = POLICIES.values()
    assert len({look.color for look in looks}) == len({look.marker for look in looks}) == len(looks)
    assert style.LABELS["s3fifo"] == "S3-FIFO"


def test_caption_is_in_the_png_word_for_word(tmp_path: Path) -> None:
    png, pdf = tmp_path / "a.png", tmp_path / "a.pdf"
    said = ["A well-known caption " * 20 + "with doc-QA, 1/10 and ±.", "x" * 300, ""]
    figure = plt.figure(figsize=(3, 2))
    style.face(figure, *said)
    style.save(figure, png, pdf)
    assert saved.read(png).caption == " ".join(said[:2])


def test_placeholder_is_as_wide_as_a_figure_and_says_what_it_is(tmp_path: Path) -> None:
    png, pdf = tmp_path / "a.png", tmp_path / "a.pdf"
    reason = "no data-set " * 30 + "https://example.org/a-b"
    style.save(style.not_run("Figure 9", f"not run: {reason}"), png, pdf)
    not_run = saved.read(png)
    assert (not_run.caption, not_run.outcome) == (f"Figure 9. not run: {reason}", "not run")
    style.save(style.not_drawn("Figure 9", reason), png, pdf)
    not_drawn = saved.read(png)
    assert not_drawn.caption == f"Figure 9. not drawn: {reason}"
    assert not_drawn.outcome == "not drawn"
    figure, _ = plt.subplots(figsize=(11, 4.6), layout="constrained")
    style.face(figure, "Figure 9. A figure.")
    style.save(figure, png, pdf)
    drawn = saved.read(png)
    assert drawn.outcome == "drawn"
    assert not_run.width == pytest.approx(drawn.width, rel=0.05)


def test_legend_below_the_panels_is_above_the_foot(tmp_path: Path) -> None:
    figure, axes = plt.subplots(figsize=(4, 3), layout="constrained")
    axes.set_axis_off()
    figure.legend(handles=[Patch(color="red")], labels=[" "], loc="outside lower center")
    style.foot(figure, "Where it comes from, " * 10)
    style.save(figure, tmp_path / "a.png", tmp_path / "a.pdf")
    with Image.open(tmp_path / "a.png") as image:
        red, green, blue = np.asarray(image.convert("RGB"), dtype=int).transpose(2, 0, 1)
    (legend,), (foot,) = (
        np.nonzero(drawn.any(axis=1))
        for drawn in ((red > 200) & (green < 50), (red == green) & (green == blue) & (red < 150))
    )
    assert legend.max() < foot.min()
