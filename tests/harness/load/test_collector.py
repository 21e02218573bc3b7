import gc
import weakref

import pytest

from harness.load import collector


class _Cycle:
    def __init__(self) -> None:
        self.me = self


def test_collects_before_and_not_within() -> None:
    before = weakref.ref(_Cycle())
    with collector.stopped():
        assert before() is None
        assert not gc.isenabled()
    assert gc.isenabled()


def test_goes_on_after_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), collector.stopped():
        raise KeyboardInterrupt
    assert gc.isenabled()
