"""The process of a server: SGLang's own command line, and gone when its parent is.

Its arguments are those of the ``sglang`` command.
"""

import importlib
import os
import sys
import threading

# At the top of the module, as processes that SGLang spawns run no more of it than that.
from harness.engines.sglang import shim
from harness.processes import die_with

shim.install()


def main() -> None:
    """Run SGLang's own command line."""
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    sys.argv[0] = "sglang"
    sys.exit(importlib.import_module("sglang.cli.main").main())


if __name__ == "__main__":
    main()
