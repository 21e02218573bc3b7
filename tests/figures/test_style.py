from pathlib import Path
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch
from PIL import Image

from figures import style
from harness.cell import Policy


def test_every_policy_has_a_look_of_its_own() -> None:
    policies = set(get_args(Policy))
    assert policies == set(style.COLORS) == set(style.MARKERS) == set(style.LABELS)
    assert len(set(style.COLORS.values())) == len(set(style.MARKERS.values())) == len(policies)


def test_caption_is_in_the_png_word_for_word(tmp_path: Path) -> None:
    png, pdf = tmp_path / "a.png", tmp_path / "a.pdf"
    said = ["A well-known caption " * 20 + "with doc-QA, 1/10 and ±.", "x" * 300, ""]
    figure = plt.figure(figsize=(3, 2))
    style.face(figure, *said)
    style.save(figure, png, pdf)
    assert style.saved(png).caption == " ".join(said[:2])


def test_figure_that_says_why_there_is_none_has_that_for_its_caption(tmp_path: Path) -> None:
    reason = "not run: " + "no data-set " * 30 + "https://example.org/a-b"
    style.save(style.not_run("Figure 9", reason), tmp_path / "a.png", tmp_path / "a.pdf")
    assert style.saved(tmp_path / "a.png").caption == reason


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
