"""Puts the patched engine first on the path: `import vllm` in a test means the patched one."""

import signal
import sys
from pathlib import Path

import pytest
from support.tokenizer import WordTokenizer

from harness import patching

ROOT = Path(__file__).parents[1]
SERIES = ROOT / patching.VLLM_SERIES
_TREE = ROOT / "build" / "tests" / "vllm"


def pytest_sessionstart(session: pytest.Session) -> None:
    patching.ensure(patching.read_series(SERIES), _TREE)
    sys.path.insert(0, str(_TREE))
    # In a background job it is ignored, and would be by all that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def engine_tree() -> Path:
    return _TREE


@pytest.fixture(scope="session")
def series_folder() -> Path:
    return SERIES


@pytest.fixture(scope="session")
def series() -> patching.Series:
    return patching.read_series(SERIES)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from harness import model

    folder = tmp_path_factory.mktemp("models") / "tiny-qwen3"
    model.make_tiny_qwen3(folder)
    return folder


@pytest.fixture
def word_tokenizer() -> WordTokenizer:
    return WordTokenizer()
