"""A pytest plugin for a run of vLLM's tests: writes which engine it was, and each test's outcome.

A line a test, when it ends, into the file that ``UPSTREAM_OUTCOMES`` names.
"""

import importlib.util
import json
import os
import sys
from types import ModuleType

import pytest

if importlib.util.find_spec("tblib") is None:
    # vLLM's conftest carries exceptions between processes by it, which no test here needs.
    tblib = ModuleType("tblib")
    tblib.pickling_support = ModuleType("tblib.pickling_support")  # type: ignore[attr-defined]
    tblib.pickling_support.install = lambda: None
    sys.modules |= {"tblib": tblib, "tblib.pickling_support": tblib.pickling_support}


def pytest_sessionstart(session: pytest.Session) -> None:
    import vllm
    from vllm.v1.core import block_pool

    with open(os.environ["UPSTREAM_OUTCOMES"], "w") as file:
        json.dump({"vllm": vllm.__file__, "block_pool": block_pool.__file__}, file)
        file.write("\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Upstream's own mark against the cleaning up of GPUs, which takes longer than the tests.
    for item in items:
        item.add_marker("skip_global_cleanup")


class _Outcomes:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.current: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        category = self.config.hook.pytest_report_teststatus(report=report, config=self.config)[0]
        self.current += [category] if category else []
        if report.when == "teardown":
            # One that passed and could not be torn down has two: passed, error.
            with open(os.environ["UPSTREAM_OUTCOMES"], "a") as file:
                json.dump({"test": report.nodeid, "outcome": self.current[-1]}, file)
                file.write("\n")
            self.current = []


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Outcomes(config))
