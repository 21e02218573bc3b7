"""The process of a server: ``vllm serve`` as it comes, and gone when its parent is.

Its arguments are those of the ``vllm`` command.
"""

import os
import sys
import threading

from harness.engines.worker import die_with


def main() -> None:
    """Run vLLM's own command line."""
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    from vllm.entrypoints.cli.main import main as vllm

    sys.argv[0] = "vllm"
    vllm()


# Processes that vLLM spawns import this module, too.
if __name__ == "__main__":
    main()
