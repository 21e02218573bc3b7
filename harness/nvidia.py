"""The NVIDIA GPUs of this machine, as ``nvidia-smi`` tells of them."""

import os
import subprocess
from dataclasses import dataclass

_MIB = 2**20
# Last what may have commas in it.
_PROCESS_COLUMNS = "pid,used_memory,process_name"
_GPU_COLUMNS = "index,uuid,memory.total,driver_version,name"


@dataclass(frozen=True)
class GPU:
    """A GPU; ``memory`` is all that it has, in bytes."""

    name: str
    memory: int
    driver: str


def gpus() -> list[GPU]:
    """Return the GPUs that programs started here would see; none where there is no driver.

    These are all, or those that ``CUDA_VISIBLE_DEVICES`` names, by number or by UUID.
    """
    found = []
    for index, uuid, memory, driver, name in _query("gpu", _GPU_COLUMNS):
        if _is_visible(index, uuid):
            found.append(GPU(name, int(memory) * _MIB, driver))
    return found


def processes() -> list[str]:
    """Return what works on any GPU of this machine: process number, memory, name."""
    return [
        f"{name} (process {pid}, {memory} MiB)"
        for pid, memory, name in _query("compute-apps", _PROCESS_COLUMNS)
    ]


def _is_visible(index: str, uuid: str) -> bool:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return True
    names = [name.strip() for name in chosen.split(",")]
    # A UUID may be cut short.
    return any(name and (name == index or uuid.startswith(name)) for name in names)


def _query(what: str, columns: str) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-{what}={columns}", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    count = columns.count(",")
    return [[cell.strip() for cell in line.split(",", count)] for line in run.stdout.splitlines()]
