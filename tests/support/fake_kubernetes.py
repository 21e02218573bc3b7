"""Stands in for a Kubernetes cluster: of its API, what Snakemake's executor asks for.

A job's container is a process of this machine, in a folder of its own. A job that asks for a GPU
fails: there is none.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


class Cluster(ThreadingHTTPServer):
    """The jobs that it was given, in that order, and a kubeconfig that leads to it.

    ``asked`` is what a role must allow for that: verb and resource.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.jobs: list[dict[str, Any]] = []
        self.ended: dict[str, bool] = {}
        self.asked: set[tuple[str, str]] = set()
        self.kubeconfig = folder / "kubeconfig"
        server = {"server": f"http://127.0.0.1:{self.server_port}"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "clusters": [{"name": "fake", "cluster": server}],
            "users": [{"name": "fake", "user": {}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(content))

    def container(self, number: int) -> dict[str, Any]:
        container: dict[str, Any]
        (container,) = self.jobs[number]["spec"]["template"]["spec"]["containers"]
        return container

    def run(self, job: dict[str, Any]) -> None:
        self.jobs.append(job)
        container = self.container(-1)
        succeeded = False
        if "nvidia.com/gpu" not in container["resources"]["requests"]:
            folder = self.folder / f"pod-{len(self.jobs)}"
            folder.mkdir()
            kept = {"PATH", "HOME", "PYTHONPATH"}  # a pod has nothing from who submits it
            run = subprocess.run(
                [*container["command"], *container["args"]],
                cwd=folder,
                env={name: value for name, value in os.environ.items() if name in kept},
                capture_output=True,
                check=False,
            )
            (folder / "log").write_bytes(run.stdout + run.stderr)
            succeeded = run.returncode == 0
        self.ended[job["metadata"]["name"]] = succeeded


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_POST(self) -> None:
        content = json.loads(self._note("create"))
        if self.path.endswith("/jobs"):
            self.server.run(content)
        self._reply(content)

    def do_GET(self) -> None:
        self._note("get" if self.path.endswith("/status") else "list")
        if self.path.endswith("/status"):
            name = self.path.split("/")[-2]
            status = {"succeeded" if self.server.ended[name] else "failed": 1}
            spec = {"template": {"spec": {"containers": []}}}
            self._reply({"metadata": {"name": name}, "spec": spec, "status": status})
        else:
            self._reply({"items": []})  # pods: gone

    def do_DELETE(self) -> None:
        self._note("delete")
        self._reply({"status": "Success"})

    def _note(self, verb: str) -> bytes:
        """Note what is asked for; return the body."""
        resource = self.path.partition("?")[0].split("/namespaces/default/")[1].split("/")
        self.server.asked.add((verb, "/".join(resource[::2])))
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run a cluster that keeps its pods' folders in ``folder``."""
    with Cluster(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
