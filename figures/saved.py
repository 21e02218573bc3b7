"""A figure as it was saved: what its PNG says of itself, without the libraries that drew it."""

from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from harness.errors import HarnessError

DPI = 200
# Of a PNG's metadata.
CAPTION, OUTCOME = "Description", "Warning"

# Not run: what it needs, as a data set, cannot be had here. Not drawn: what ran gives no figure.
Outcome = Literal["drawn", "not run", "not drawn"]


class Saved(NamedTuple):
    """What a figure says of itself, its width in inches, and whether it is one."""

    caption: str
    width: float
    outcome: Outcome


def read(png: Path) -> Saved:
    """Return what is known of a figure that ``style.save`` wrote.

    Raises:
        HarnessError: if there is no such figure.

    """
    try:
        with Image.open(png) as image:
            outcome = image.info.get(OUTCOME, "drawn")
            return Saved(image.info[CAPTION], image.width / DPI, outcome)
    except OSError as error:
        raise HarnessError(f"{png}: no figure: {error.strerror or 'not a PNG'}; draw it") from None
    except KeyError:
        raise HarnessError(f"{png}: has no caption in it; draw it anew") from None
