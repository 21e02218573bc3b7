"""Runs vLLM's own tests on the stock engine, on the patched one, and on it with arc.

    .venv/bin/python tests/upstream/run.py [VERSION ...]

Without a version, on each that there are patches for. What passes on the stock engine must pass on
the patched one, and with arc unless the test asserts what only LRU does: such tests are listed in
``arc_differences.toml``. The tests whose outcomes differ are printed and written to
``results/upstream-VERSION.json``; the logs are in ``build/upstream/VERSION``.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import hub

from harness import patching, runlock, upstream
from harness.errors import HarnessError

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "upstream"
RESULTS = ROOT / "results"
ARC_DIFFERENCES = Path(__file__).with_name("arc_differences.toml")

_TESTS = (
    "tests/v1/core",
    "tests/v1/kv_connector/unit",
    "tests/v1/kv_offload",
    "tests/v1/simple_kv_offload",
)
_SERVES = "serves a model, with weights of the hub"
_IGNORED = {
    "tests/v1/core/prefix_cache/test_hybrid_prefix_cache_hit_rate.py": _SERVES,
    "tests/v1/core/test_reset_prefix_cache_e2e.py": _SERVES,
    "tests/v1/core/test_scheduler_e2e.py": _SERVES,
    **dict.fromkeys(
        [
            "tests/v1/kv_connector/unit/test_bidirectional_kv_transfer.py",
            "tests/v1/kv_connector/unit/test_nixl_connector.py",
        ],
        "needs ray, which is not installed",
    ),
    **dict.fromkeys(
        [
            "tests/v1/kv_connector/unit/test_hf3fs_connector.py",
            "tests/v1/kv_connector/unit/test_hf3fs_metadata_server.py",
            "tests/v1/kv_connector/unit/test_nixl_rocm_gpu_mem_diag.py",
        ],
        "needs orjson, which is not installed",
    ),
    "tests/v1/kv_offload/cpu/test_gpu_worker.py": "copies between a GPU and the host",
    "tests/v1/kv_offload/cpu/test_shared_offload_region.py": "gives processes that import vLLM "
    "half a minute, which is not enough here, and does not end",
}
_RUN_SECONDS = 3600
_TEST_SECONDS = 600
# For tests that differ without a reason: those of sockets fail now and then, on any engine.
_MORE_TRIES = 3
_PASSED, _MISSING = "passed", "missing"
_PYTEST_RAN = (0, 1)  # Exit codes: all passed, some failed.


@dataclass(frozen=True)
class Engine:
    """One engine that the tests are run on; its outcomes and its log go beside its tree."""

    name: str
    tree: Path
    plugins: tuple[str, ...] = ()

    @property
    def package(self) -> Path:
        """The folder that is to be imported."""
        return self.tree / "vllm"


@dataclass(frozen=True)
class Run:
    """What came of the tests on one engine."""

    engine: Engine
    outcomes: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Difference:
    """A test whose outcomes are not all the same, with the reason that is listed for it."""

    test: str
    outcomes: tuple[str, ...]
    reason: str | None


def main() -> int:
    """Run everything on the versions that are named, or on all; return the exit code."""
    # An exception, on which the run of pytest is ended too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # Where patches are, and what is built and fetched.
    os.chdir(ROOT)
    try:
        runlock.acquire(str(BUILD))
        known = sorted(path.parent.name for path in patching.PATCHES.glob("*/series"))
        series = [patching.find_series(version) for version in sys.argv[1:] or known]
        problems = [problem for one in series for problem in _run_all(one)]
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def compare(
    stock: Mapping[str, str],
    lru: Mapping[str, str],
    arc: Mapping[str, str],
    reasons: Mapping[str, str],
) -> tuple[list[Difference], list[str]]:
    """Compare the outcomes of the three runs, each by test.

    Args:
        stock: On the stock engine.
        lru: On the patched engine.
        arc: On the patched engine with arc.
        reasons: Why a test differs with arc, by test, in any version.

    Returns:
        The tests whose outcomes differ, and what is wrong, a line each.

    """
    differences, problems = [], []
    for test in dict.fromkeys([*stock, *lru, *arc, *reasons]):
        outcomes = tuple(run.get(test, _MISSING) for run in (stock, lru, arc))
        reason = reasons.get(test)
        if len(set(outcomes)) > 1:
            differences.append(Difference(test, outcomes, reason))
        on_stock, on_lru, on_arc = outcomes
        if on_stock == _PASSED != on_lru:
            problems.append(f"{test} passes on the stock engine and {on_lru} on the patched one")
        is_arc_different = on_stock == _PASSED != on_arc
        if is_arc_different and reason is None:
            problems.append(
                f"{test} passes on the stock engine and {on_arc} with arc: mend arc, or give the "
                f"reason in {ARC_DIFFERENCES.name}"
            )
        # Some versions are without some tests.
        if reason is not None and on_stock != _MISSING and not is_arc_different:
            problems.append(
                f"{test} is in {ARC_DIFFERENCES.name} and does not differ any more "
                f"({on_stock}, with arc {on_arc}): take it out"
            )
    return differences, problems


def _run_all(series: patching.Series) -> list[str]:
    """Run everything on one version; return what is wrong, a line each."""
    build = BUILD / series.version
    reasons = tomllib.loads(ARC_DIFFERENCES.read_text())
    sdist = upstream.fetch_sdist(series.version, upstream.SDISTS)
    stock, patched = build / "stock", build / "patched"
    patching.build(replace(series, patches=(), base_hashes={}), stock)
    patching.build(series, patched)
    hub.make(BUILD / "hub")
    runs = [
        _run(engine, _TESTS, sdist, build)
        for engine in (
            Engine("stock", stock),
            Engine("patched-lru", patched),
            Engine("patched-arc", patched, ("arc_plugin",)),
        )
    ]
    differences, problems = compare(*(run.outcomes for run in runs), reasons)
    again: dict[str, None] = {}
    for _ in range(_MORE_TRIES):
        unexplained = [
            one.test for one in differences if one.reason is None and _MISSING not in one.outcomes
        ]
        if not unexplained:
            break
        again |= dict.fromkeys(unexplained)
        runs = [_renew(run, unexplained, sdist, build) for run in runs]
        differences, problems = compare(*(run.outcomes for run in runs), reasons)
    binaries = patching.read_manifest(patched)["binaries"]
    print(f"vLLM {series.version}, with the compiled files of {binaries}")
    _print_table(runs, differences)
    for test in again:
        print(f"\n{test}\n    differed without a reason, and was run again on each engine")
    _write(series, binaries, runs, differences, list(again), problems)
    return [f"vLLM {series.version}: {problem}" for problem in problems]


def _renew(run: Run, tests: Sequence[str], sdist: Path, build: Path) -> Run:
    """Run some tests once more; their outcomes are the new ones."""
    new = _run(replace(run.engine, name=f"{run.engine.name}-again"), tests, sdist, build)
    return replace(
        run, outcomes={**run.outcomes, **new.outcomes}, seconds=run.seconds + new.seconds
    )


def _run(engine: Engine, tests: Sequence[str], sdist: Path, build: Path) -> Run:
    """Run tests of a source distribution on an engine.

    Raises:
        HarnessError: if pytest did not get through them, or another engine was imported.

    """
    # Only the tests: the package beside them in the source distribution would be imported.
    folder = build / "tests-only"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("tests", "pyproject.toml"):
        (folder / name).symlink_to((sdist / name).resolve())
    outcomes = build / f"{engine.name}.jsonl"
    log = build / f"{engine.name}.log"
    outcomes.unlink(missing_ok=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VLLM_", "PYTEST_", "HF_"))
    } | {
        "PYTHONPATH": os.pathsep.join([str(engine.tree), str(Path(__file__).parent)]),
        "UPSTREAM_OUTCOMES": str(outcomes),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(BUILD / "hf"),
        "HF_HUB_CACHE": str(BUILD / "hub"),
        "VLLM_CACHE_ROOT": str(BUILD / "cache"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    command = [
        # Its own tracebacks of deep recursions end pytest on Python 3.11: it parses the source.
        *(sys.executable, "-m", "pytest", *tests, "-q", "--tb=native"),
        *("--config-file=pyproject.toml", "--rootdir=.", f"--timeout={_TEST_SECONDS}"),
        *(f"--ignore={path}" for path in _IGNORED),
        *("-p", "no:cacheprovider", "-p", "outcomes_plugin"),
        *(part for plugin in engine.plugins for part in ("-p", plugin)),
    ]
    print(f"{engine.name}: running, log in {log.relative_to(ROOT)} ...", file=sys.stderr)
    start = time.monotonic()
    with log.open("w") as file:
        try:
            status = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=_RUN_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise HarnessError(
                f"{engine.name}: the tests took more than {_RUN_SECONDS} s, see {log}"
            ) from None
    seconds = time.monotonic() - start
    if status not in _PYTEST_RAN:
        raise HarnessError(f"{engine.name}: pytest ended with exit code {status}, see {log}")
    imported, *lines = map(json.loads, outcomes.read_text().splitlines())
    print(f"{engine.name}: {imported['vllm']}, {seconds:.0f} s", file=sys.stderr)
    expected = {
        "vllm": str(engine.package / "__init__.py"),
        "block_pool": str(engine.package / "v1" / "core" / "block_pool.py"),
    }
    if imported != expected:
        raise HarnessError(
            f"{engine.name}: the tests imported {imported}, not {expected}: remove whatever puts "
            "another vllm on Python's path"
        )
    return Run(engine, {line["test"]: line["outcome"] for line in lines}, seconds)


def _print_table(runs: Sequence[Run], differences: Sequence[Difference]) -> None:
    counts = [Counter(run.outcomes.values()) for run in runs]
    names = list(dict.fromkeys([_PASSED, "failed", "error", "skipped", *sum(counts, Counter())]))
    print(f"{'':12}" + "".join(f"{name:>9}" for name in names))
    for run, count in zip(runs, counts, strict=True):
        print(f"{run.engine.name:12}" + "".join(f"{count[name]:9}" for name in names))
    for difference in differences:
        outcomes = zip(runs, difference.outcomes, strict=True)
        print(f"\n{difference.test}")
        print("    " + ", ".join(f"{run.engine.name} {outcome}" for run, outcome in outcomes))
        print(f"    {difference.reason or 'no reason is listed'}")


def _write(
    series: patching.Series,
    binaries: str,
    runs: Sequence[Run],
    differences: Sequence[Difference],
    again: Sequence[str],
    problems: Sequence[str],
) -> None:
    result = {
        "version": series.version,
        "binaries": binaries,
        "sdist_sha256": upstream.pinned_sha256(series.version),
        "patches_sha256": series.sha256,
        "tests": _TESTS,
        "ignored": _IGNORED,
        "runs": {
            run.engine.name: {
                "counts": Counter(run.outcomes.values()),
                "seconds": round(run.seconds),
                "not_passed": {
                    test: outcome for test, outcome in run.outcomes.items() if outcome != _PASSED
                },
            }
            for run in runs
        },
        "differences": [
            {
                "test": difference.test,
                "outcomes": dict(
                    zip((run.engine.name for run in runs), difference.outcomes, strict=True)
                ),
                "reason": difference.reason,
            }
            for difference in differences
        ],
        "again": again,
        "problems": problems,
    }
    RESULTS.mkdir(exist_ok=True)
    name = f"upstream-{series.version}.json"
    partial = RESULTS / f".{name}.partial"
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, RESULTS / name)


if __name__ == "__main__":
    sys.exit(main())
