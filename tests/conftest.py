"""Puts the patched engine first on the path: `import vllm` in a test means the patched one.

What commands make in the checkout is neither read nor changed: runs of tests and of anything else
may follow each other in any order.
"""

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tokenizer import WordTokenizer

from harness import patching, upstream
from workloads import datasets

ROOT = Path(__file__).parents[1]
# Which vLLM is tested, of patches/vllm; for the workers, too, which find the patched one installed.
VERSION = os.environ.setdefault("KV_VLLM", patching.find_package("vllm").version)
SERIES = ROOT / patching.PATCHES / VERSION
# Like the installed packages, they are pinned by their hashes.
_SDISTS = ROOT / upstream.SDISTS
# What commands make here.
_MADE = ("results", "build", "data", ".snakemake")
# What Snakemake and its jobs read.
_SOURCES = (
    "Snakefile",
    "config",
    "figures",
    "harness",
    "patches",
    "profiles",
    "reference",
    "workloads",
)

_TREE = "vllm"

# The folder that all workers of a session share.
_SHARED = pytest.StashKey[Path]()
_BEFORE = pytest.StashKey[set[tuple[str, int]]]()

# Tests run two at a time, and so do engines.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    folder: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    is_worker = hasattr(config, "workerinput")
    # Workers start later, and have a folder each in that of the process that starts them.
    shared = folder.parent if is_worker else folder
    if not is_worker:
        series = patching.find_series(VERSION, ROOT / patching.PATCHES)
        patching.build(series, shared / _TREE, _SDISTS)
        config.stash[_BEFORE] = _made()
    config.stash[_SHARED] = shared
    sys.path.insert(0, str(shared / _TREE))
    # Two tests may have an engine at a time, and none waits for one outside.
    os.environ["HARNESS_LOCKS"] = str(folder)
    os.environ.setdefault(datasets.FOLDER_VARIABLE, str(shared / "data"))
    # In a background job it is ignored, and would be by all that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    before = session.config.stash.get(_BEFORE, None)
    if before is None:  # a worker
        return
    changed = sorted(path for path, _ in before ^ _made())
    if changed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.get_terminal_writer().line(
            f"\nerror: {changed[0]} changed while the tests ran: by a test, which must not, "
            "or by another command at the same time"
        )


def _made() -> set[tuple[str, int]]:
    """Return what commands have made here: each path, and when it was changed last."""
    folders = (entry for name in _MADE for entry in os.walk(ROOT / name))
    paths = (
        os.path.join(folder, name)
        for folder, inner, files in folders
        if _SDISTS not in (Path(folder), *Path(folder).parents)
        for name in (".", *inner, *files)
    )
    return {(path, os.lstat(path).st_mtime_ns) for path in paths}


@pytest.fixture(autouse=True)
def _no_preload() -> Iterator[None]:
    """Take back what vLLM sets for its processes: at a path with spaces others complain of it."""
    yield
    os.environ.pop("LD_PRELOAD", None)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout to run Snakemake in, in which nothing was made yet."""
    folder = tmp_path / "a checkout"
    for name in _SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            folder.mkdir()
            shutil.copy(source, folder)
    (folder / "env").mkdir()
    shutil.copy(ROOT / "env" / "conda.yaml", folder / "env")
    return folder


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Path:
    """The folder that all workers of a session share."""
    return pytestconfig.stash[_SHARED]


@pytest.fixture(scope="session")
def engine_tree(shared: Path) -> Path:
    return shared / _TREE


@pytest.fixture(scope="session")
def adding_a_policy() -> Path:
    """The page with the worked example, one for all versions."""
    (page,) = SERIES.parent.rglob("ADDING-A-POLICY.md")
    return page


@pytest.fixture(scope="session")
def series() -> patching.Series:
    return patching.read_series(SERIES)


@pytest.fixture(scope="session")
def tiny_model(shared: Path) -> Path:
    from harness import model

    folder = shared / "models" / model.TINY_QWEN3
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            model.make_tiny_qwen3(folder)
    return folder


@pytest.fixture
def word_tokenizer() -> WordTokenizer:
    return WordTokenizer()
