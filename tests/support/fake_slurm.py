"""Stands in for Slurm's commands, each a script that calls ``main`` with its name.

A cluster of this machine alone, without GPUs: a job that asks for one fails. ``FAKE_SLURM`` names
the folder in which it keeps its jobs.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "sinfo", "scontrol")


def install(folder: Path) -> dict[str, str]:
    """Put the commands into a folder; return the environment that has a program call them."""
    (folder / "jobs").mkdir(parents=True)
    for name in COMMANDS:
        script = folder / name
        code = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
            f"import fake_slurm; fake_slurm.main({name!r})"
        )
        # Not Python's own path in its first line: that may have spaces.
        script.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n'
        )
        script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "FAKE_SLURM": str(folder / "jobs")}


def jobs(folder: Path) -> list[list[str]]:
    """Return the arguments of every ``sbatch``, in the order in which jobs were submitted."""
    files = sorted((folder / "jobs").glob("*.json"), key=lambda file: int(file.stem))
    return [json.loads(file.read_text())["argv"] for file in files]


def main(command: str) -> None:
    arguments, folder = sys.argv[1:], Path(os.environ["FAKE_SLURM"])
    if command == "sbatch":
        _sbatch(arguments, folder)
    elif command == "srun":
        program = next(i for i, argument in enumerate(arguments) if not argument.startswith("-"))
        sys.exit(subprocess.run(arguments[program:], check=False).returncode)
    elif command == "sacct" and "--format=JobIdRaw,State" in arguments:
        for job in folder.glob("*.json"):
            print(f"{job.stem}|{json.loads(job.read_text())['state']}")


def _sbatch(arguments: list[str], folder: Path) -> None:
    number = len(list(folder.iterdir())) + 1
    job = folder / f"{number}.json"
    job.touch(exist_ok=False)
    wrapped = next(a for a in arguments if a.startswith("--wrap=")).removeprefix("--wrap=")
    log = Path(arguments[arguments.index("--output") + 1].replace("%j", str(number)))
    if any(argument.startswith("--gpus=") for argument in arguments):
        state = "FAILED"
    else:
        with log.open("w") as output:
            run = subprocess.run(
                ["sh", "-c", wrapped],
                cwd=arguments[arguments.index("-D") + 1],
                env=os.environ | {"SLURM_JOB_ID": str(number)},
                stdout=output,
                stderr=output,
                check=False,
            )
        state = "FAILED" if run.returncode else "COMPLETED"
    job.write_text(json.dumps({"argv": arguments, "state": state}))
    print(number)
