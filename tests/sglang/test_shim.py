"""The stand-ins, each in a process of its own: once installed, they are there for all."""

import subprocess
import sys
from pathlib import Path

from harness.engines.sglang import shim


def _run(root: Path, script: str, *path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env={"PYTHONPATH": ":".join(map(str, path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


def test_names_are_there_and_say_what_is_missing(root: Path) -> None:
    script = """
from harness.engines.sglang import shim

shim.install()
from sgl_kernel.flash_attn import flash_attn_varlen_func
from torchvision.transforms import InterpolationMode
import torchvision.io as io

print(InterpolationMode.NEAREST.value is InterpolationMode.NEAREST.value)
print(issubclass(io.ImageReadMode, shim.Absent), isinstance(1, io.ImageReadMode))
print(hasattr(io, "__file_of__"))
try:
    flash_attn_varlen_func(1, causal=True)
except NotImplementedError as error:
    print(error)
"""
    assert _run(root, script).splitlines() == [
        "True",
        "True False",
        "False",
        "sgl_kernel.flash_attn.flash_attn_varlen_func has no build for a CPU",
    ]


def test_what_is_installed_comes_first(root: Path, tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("name = 'the real one'\n")
    script = """
from harness.engines.sglang import shim

shim.install()
import torchvision

print(torchvision.name)
"""
    assert _run(root, script, tmp_path) == "the real one\n"


def test_nothing_else_is_found(root: Path) -> None:
    script = """
from harness.engines.sglang import shim

shim.install()
shim.install()
import sys
print(sum(isinstance(finder, shim.Finder) for finder in sys.meta_path))
try:
    import sgl_kernel_other
except ModuleNotFoundError as error:
    print(error)
"""
    assert _run(root, script).splitlines() == ["1", "No module named 'sgl_kernel_other'"]


def test_stands_in_for_what_the_lock_leaves_out(root: Path) -> None:
    excluded = (root / "env" / "sglang-exclude.txt").read_text().splitlines()
    # The distribution of the module sgl_kernel.
    assert {"torchvision", "sglang-kernel"} <= set(excluded)
    assert set(shim.PACKAGES) == {"torchvision", "sgl_kernel"}
