"""The paper's own points, read off its figures.

``paper.csv`` holds every plotted point of Shen, Madhyastha, Underwood, Nicolae, "Recency/Frequency
Adaptive KV Caching for Large Language Model Serving", arXiv 2606.21238, that could be read, with
the uncertainty of the reading. The paper ran Qwen3-14B on one H100 and reports one run a point.
"""

from pathlib import Path

import pandas as pd

_POINTS = Path(__file__).with_name("paper.csv")

SETTING = "Qwen3-14B, one H100"


def points(figure: str) -> pd.DataFrame:
    """Return one figure's points: ``policy`` (lower case), ``x``, ``value``, ordered by x."""
    table = pd.read_csv(_POINTS)
    table = table[table["figure"] == figure].sort_values("x")
    return table.assign(policy=table["policy"].str.lower())[["policy", "x", "value"]]
