"""Stands in for ``harness.measure.worker`` to prove what its supervisor does; measures nothing.

``FAKE_WORKER`` says how it behaves.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time

from harness.measure.order import DONE, WorkerOrder
from harness.measure.records import SUMMARY
from harness.processes import die_with
from harness.turns import Turns


def main() -> None:
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    order = WorkerOrder.model_validate_json(sys.argv[1])
    behaviour = os.environ["FAKE_WORKER"]
    print("the engine's own log", flush=True)
    with os.fdopen(order.progress_fd, "w", buffering=1) as progress:
        child = subprocess.Popen(["sleep", "300"])
        print(f"pids {os.getpid()} {child.pid}", file=progress)
        if behaviour == "die":
            print("ValueError: no such device")
            sys.exit(3)
        if behaviour == "refuse":
            parser = argparse.ArgumentParser()
            for i in range(100):
                parser.add_argument(f"--option-{i}")
            parser.error("no such option")
        if behaviour == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if behaviour == "hang":
            time.sleep(300)
        if behaviour == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(300)
        if behaviour == "replay":
            for folder, _ in order.mine():
                # Long enough for the others to take one, too.
                time.sleep(0.2)
                (folder / SUMMARY).write_text(json.dumps({"by": os.getpid()}))
                print(f"{DONE}100", file=progress)
            return
        (home,) = order.cells
        turns = Turns(order.place)
        if behaviour == "take turns":
            with turns.take():
                for _ in range(3):
                    with (home.parent.parent / "log").open("a") as log:
                        log.write(home.name)
                    turns.offer()
        if behaviour in ("one dies", "one hangs"):
            with turns.take():
                turns.offer()
                if home.name == "b":
                    if behaviour == "one hangs":
                        time.sleep(300)
                    print("ValueError: no such device")
                    sys.exit(3)
                turns.offer()
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    for folder in order.cells:
        (folder / SUMMARY).write_text(json.dumps(threads))


if __name__ == "__main__":
    main()
