"""The process of a server: ``vllm serve`` as it comes, and gone when its parent is.

Its arguments are those of the ``vllm`` command.
"""

import multiprocessing
import os
import sys
import threading

from harness.processes import die_with


def main() -> None:
    """Run vLLM's own command line."""
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    from vllm.entrypoints.cli.main import main as vllm
    from vllm.platforms import current_platform
    from vllm.v1.engine import utils

    from harness.engines.vllm import device

    if sys.argv[-1].startswith("--help"):
        device.name_one()

    # As vLLM does on a GPU. On a CPU it would start the engine's process anew, for the number of
    # its threads, which is set here for both; that is half of a server's start.
    if current_platform.is_cpu():
        utils.get_mp_context = lambda: multiprocessing.get_context("fork")
    sys.argv[0] = "vllm"
    vllm()


# Processes that vLLM spawns import this module, too.
if __name__ == "__main__":
    main()
