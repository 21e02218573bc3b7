"""Runs vLLM's own tests of v1/core on the stock engine, on the patched one, and on it with arc.

    .venv/bin/python tests/upstream/run.py

What passes on the stock engine must pass on the patched one, and with arc unless the test asserts
what only LRU does: such tests are listed in ``arc_differences.toml``. The tests whose outcomes
differ are printed and written to ``results/upstream.json``; the logs are in ``build/upstream``.
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
from dataclasses import dataclass
from pathlib import Path

import hub

from harness import patching, runlock, upstream
from harness.errors import HarnessError

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "upstream"
RESULT = ROOT / "results" / "upstream.json"
ARC_DIFFERENCES = Path(__file__).with_name("arc_differences.toml")

_TESTS = "tests/v1/core"
_IGNORED = {
    "prefix_cache/test_hybrid_prefix_cache_hit_rate.py": "serves a model, with weights of the hub",
    "test_reset_prefix_cache_e2e.py": "serves a model, with weights of the hub",
    "test_scheduler_e2e.py": "serves a model, with weights of the hub",
}
_RUN_SECONDS = 3600
_TEST_SECONDS = 600
_PASSED, _MISSING = "passed", "missing"
_PYTEST_RAN = (0, 1)  # Exit codes: all passed, some failed.


@dataclass(frozen=True)
class Engine:
    """One engine that the tests are run on."""

    name: str
    package: Path
    plugins: tuple[str, ...] = ()


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
    """Run everything; return the exit code."""
    # An exception, on which the run of pytest is ended too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        problems = _run_all()
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
        reasons: Why a test differs with arc, by test.

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
        if reason is not None and not is_arc_different:
            problems.append(
                f"{test} is in {ARC_DIFFERENCES.name} and does not differ any more "
                f"({on_stock}, with arc {on_arc}): take it out"
            )
    return differences, problems


def _run_all() -> list[str]:
    runlock.acquire(str(BUILD))
    series = patching.read_series(ROOT / patching.VLLM_SERIES)
    reasons = tomllib.loads(ARC_DIFFERENCES.read_text())
    sdist = upstream.fetch_sdist(series.version, BUILD)
    tree = BUILD / "patched"
    patching.build(series, tree)
    hub.make(BUILD / "hub")
    stock = patching.find_package(series.engine)
    patched = tree / series.engine
    runs = [
        _run(engine, sdist)
        for engine in (
            Engine("stock", stock.folder),
            Engine("patched-lru", patched),
            Engine("patched-arc", patched, ("arc_plugin",)),
        )
    ]
    differences, problems = compare(*(run.outcomes for run in runs), reasons)
    _print_table(runs, differences)
    _write(series, runs, differences, problems)
    return problems


def _run(engine: Engine, sdist: Path) -> Run:
    """Run the tests on an engine.

    Raises:
        HarnessError: if pytest did not get through them, or another engine was imported.

    """
    # Only the tests: the package beside them in the source distribution would be imported.
    folder = BUILD / "tests-only"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("tests", "pyproject.toml"):
        (folder / name).symlink_to(sdist / name)
    outcomes = BUILD / f"{engine.name}.jsonl"
    log = BUILD / f"{engine.name}.log"
    outcomes.unlink(missing_ok=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VLLM_", "PYTEST_", "HF_"))
    } | {
        "PYTHONPATH": os.pathsep.join([str(engine.package.parent), str(Path(__file__).parent)]),
        "UPSTREAM_OUTCOMES": str(outcomes),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(BUILD / "hf"),
        "HF_HUB_CACHE": str(BUILD / "hub"),
        "VLLM_CACHE_ROOT": str(BUILD / "cache"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    command = [
        *(sys.executable, "-m", "pytest", _TESTS, "-q", "--tb=short"),
        *("--config-file=pyproject.toml", "--rootdir=.", f"--timeout={_TEST_SECONDS}"),
        *(f"--ignore={_TESTS}/{name}" for name in _IGNORED),
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
    runs: Sequence[Run],
    differences: Sequence[Difference],
    problems: Sequence[str],
) -> None:
    result = {
        "version": series.version,
        "sdist_sha256": upstream.SDIST_SHA256[series.version],
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
        "problems": problems,
    }
    RESULT.parent.mkdir(exist_ok=True)
    partial = RESULT.with_name(f".{RESULT.name}.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, RESULT)


if __name__ == "__main__":
    sys.exit(main())
