"""Stands in for ``nvidia-smi``, of GPUs that are not there."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *names: str,
    mib: int = 81_559,
    driver: str = "580.65.06",
    processes: Sequence[str] = (),
    code: int = 0,
) -> None:
    """Put it first on the path.

    Args:
        folder: Where.
        monkeypatch: Of the test, at whose end it is gone.
        names: Of the GPUs, without commas but in the last column asked for.
        mib: Memory of each.
        driver: Its version.
        processes: Lines on what works on them.
        code: How it exits.

    """
    bin_folder = folder / "nvidia"
    bin_folder.mkdir(exist_ok=True)
    gpus = [f"{i}, GPU-{i}0aa, {mib}, {driver}, {name}" for i, name in enumerate(names)]
    for name, lines in (("gpus", gpus), ("processes", processes)):
        (bin_folder / name).write_text("".join(f"{line}\n" for line in lines))
    script = bin_folder / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\n"
        f"[ {code} = 0 ] || exit {code}\n"
        'case "$1" in *compute-apps*) name=processes ;; *) name=gpus ;; esac\n'
        f'while read -r line; do echo "$line"; done < "{bin_folder}/$name"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
