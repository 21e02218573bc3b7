"""Stands in for the ``serving`` of an engine to prove what starts and ends a server.

It serves nothing.

``FAKE_SERVING`` says how it behaves. It answers /health, and of the rest only what a cell asks for
before its first request.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness.processes import die_with

_METRICS = """
vllm:prefix_cache_queries_total{engine="0"} 0.0
vllm:prefix_cache_hits_total{engine="0"} 0.0
"""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        unhealthy = os.environ["FAKE_SERVING"] == "never healthy" and self.path == "/health"
        self.send_response(503 if unhealthy else 200)
        self.end_headers()
        self.wfile.write(_METRICS.encode())

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        print(self.path)


def main() -> None:
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    behaviour = os.environ["FAKE_SERVING"]
    child = subprocess.Popen(["sleep", "300"])
    print(f"pids {os.getpid()} {child.pid}", flush=True)
    if behaviour == "die":
        print("ValueError: no such model", flush=True)
        sys.exit(3)
    if behaviour == "refuse":
        argparse.ArgumentParser().error("unrecognized arguments: --of-the-patches")
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    if behaviour == "slow":
        time.sleep(2)
    server.serve_forever()


if __name__ == "__main__":
    main()
