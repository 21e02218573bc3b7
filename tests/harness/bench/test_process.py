import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.bench import process
from harness.errors import HarnessError


@pytest.mark.parametrize("run", [process.output, process.measure])
def test_a_process_that_fails_shows_its_last_lines(run: Callable[[Sequence[str]], object]) -> None:
    with pytest.raises(HarnessError, match="exit code 3:\nthe reason"):
        run([sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)"])


def test_processes_take_turns(tmp_path: Path) -> None:
    said = tmp_path / "said"
    steps = "[(print(flush=True), input(), said.write(name), said.flush()) for _ in range({})]"
    code = "import sys; name = '{}'; said = open({!r}, 'a'); " + steps + "; print('last', name)"
    commands = [
        ([sys.executable, "-c", code.format(name, str(said), count)], None)
        for name, count in (("a", 3), ("b", 5))
    ]
    assert process.in_turns(commands) == ["last a", "last b"]
    assert said.read_text() == "abababbb"


def test_a_turn_that_fails_is_named_and_the_others_end(tmp_path: Path) -> None:
    waits = "print(flush=True); input(); import time; time.sleep(100)"
    commands = [
        ([sys.executable, "-c", code], None)
        for code in ("import sys; print(flush=True); input(); sys.exit(3)", waits)
    ]
    start = time.monotonic()
    with pytest.raises(HarnessError, match="exit code 3:\nits own words are above"):
        process.in_turns(commands)
    assert time.monotonic() - start < 50


def test_patched_tree_comes_first_on_the_search_path(tmp_path: Path) -> None:
    show = [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"]
    stock, patched = process.output(show), process.output(show, tmp_path)
    assert patched == [str(tmp_path), *stock]


def test_memory_is_that_of_all_descendants() -> None:
    hold = "import time; held = b'x' * (100 << 20); time.sleep(0.5)"
    cost = process.measure(
        [
            sys.executable,
            "-c",
            f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {hold!r}])",
        ]
    )
    assert 100 << 20 < cost.peak_bytes < 200 << 20
    assert 0.5 < cost.seconds < 5


def test_nothing_is_left_running_by_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(pid: int) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "_resident_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        # Would be waited for.
        process.measure(["sleep", "1000"])
