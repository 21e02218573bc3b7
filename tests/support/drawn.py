"""What is in a drawn figure, as plain numbers and words."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D


class Whiskered(NamedTuple):
    """Points with whiskers: their heights, and the ends of the whisker of each, if it has any."""

    y: list[float]
    ends: list[list[float]]


def x_of(line: Line2D) -> list[float]:
    values: list[float] = np.asarray(line.get_xdata(), float).tolist()
    return values


def y_of(line: Line2D) -> list[float]:
    values: list[float] = np.asarray(line.get_ydata(), float).tolist()
    return values


def lines(axes: Axes, color: object) -> list[Line2D]:
    """Return the lines of a colour, in the order in which they were drawn."""
    return [line for line in axes.get_lines() if line.get_color() == color]


def whiskered(axes: Axes) -> list[Whiskered]:
    """Return the points with whiskers, in the order in which they were drawn."""
    found = []
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            line, _, (whiskers,) = container.lines
            # Points without a number are without vertices.
            ends = [segment.reshape(-1, 2)[:, 1].tolist() for segment in whiskers.get_segments()]
            found.append(Whiskered([] if line is None else y_of(line), ends))
    return found


def bars(axes: Axes) -> list[float]:
    """Return the heights of the bars, in the order in which they were drawn."""
    return [round(patch.get_height(), 4) for patch in axes.patches]  # type: ignore[attr-defined]


def legend(drawn: Legend | None) -> list[str]:
    """Return the entries of a legend."""
    assert drawn is not None
    return [text.get_text() for text in drawn.get_texts()]


def caption(figure: Figure) -> str:
    """Return what a figure says of itself, on one line."""
    return figure.get_suptitle().replace("\n", " ")


def title(axes: Axes) -> str:
    """Return what is above a panel, on one line."""
    return axes.get_title(loc="left").replace("\n", " ")


def text(figure: Figure) -> str:
    """Return the words of a figure that says why there is none."""
    return " ".join(found.get_text() for found in figure.texts)
