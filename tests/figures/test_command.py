import subprocess
import sys
from pathlib import Path

import pytest

from figures import command


def test_values_come_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["it", "b", "a c"])
    assert command.arguments("it", "Does it.", "NAME", "OUT.html") == ["b", "a c"]


@pytest.mark.parametrize("module", ["figures", "figures.report", "figures.check", "figures.trend"])
def test_what_is_lacking_is_one_message_that_names_it(module: str, root: Path) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )

    asked = run("--help")
    assert asked.returncode == 0
    assert asked.stdout.startswith(f"usage: python -m {module} [-h] ")
    last = asked.stdout.split("\n", 1)[0].split()[-1]
    lacking = run()
    assert lacking.returncode == 2
    assert "the following arguments are required: " in lacking.stderr
    assert lacking.stderr.endswith(f"{last}\n")
    assert "Traceback" not in lacking.stderr
