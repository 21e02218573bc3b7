"""The cluster profiles, with the real executors and a cluster that is played.

Jobs are really submitted, really run where they need no GPU, and what a cell asks for is read from
what the cluster was sent.
"""

import os
import shlex
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support import fake_kubernetes, slurm

from harness import config, patching

_PROFILES = "env/profiles"
_KUBERNETES = "1.34"
_CONFIG = {
    "name": "test",
    "tiers": {"gpu": {"block_size": 16, "scale": 0.05}},
    "workloads": {"docqa": {"kind": "docqa", "documents": 10, "requests": 10, "window": 10}},
    "experiments": {
        "one": {"tier": "gpu", "workload": "docqa", "policies": ["arc"], "cache_tokens": [25_000]}
    },
}


@pytest.fixture
def copy(root: Path, checkout: Path, tiny_model: Path) -> Path:
    """A checkout in which a cell of tier gpu lacks nothing but its workload."""
    shutil.copytree(root / _PROFILES, checkout / _PROFILES)
    shutil.copytree(tiny_model, checkout / "build" / "models" / "tiny-qwen3")
    version = patching.find_package("vllm").version
    (checkout / "build" / "engines" / f"vllm-{version}").mkdir(parents=True)
    (checkout / "config" / "test.yaml").write_text(yaml.safe_dump(_CONFIG))
    return checkout


def _python(copy: Path) -> str:
    """Return this Python by a path without spaces: executors do not quote it in a job's command."""
    environment = copy.parent / "environment"
    if not environment.exists():
        environment.symlink_to(sys.prefix)
    return str(environment / Path(sys.executable).relative_to(sys.prefix))


def _measure(
    copy: Path, profile: str, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    (cell,) = config.load(copy / "config" / "test.yaml").cells
    path = os.pathsep.join([str(copy), str(copy / _PROFILES / profile)])
    run = subprocess.run(
        [
            *(_python(copy), "-m", "snakemake", "--configfile", "config/test.yaml"),
            *("--workflow-profile", f"{_PROFILES}/{profile}", *arguments),
            *("--seconds-between-status-checks", "1"),
            f"results/test/cells/{cell}",
        ],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    (workload,) = (copy / "build" / "workloads" / "test" / "gpu").glob("*.jsonl")
    assert len(workload.read_text().splitlines()) > 10
    return run


@pytest.mark.slurm
def test_slurm_gives_a_cell_a_gpu_and_a_node_of_its_own(copy: Path) -> None:
    with slurm.cluster() as cluster:
        options = ("--slurm-init-seconds-before-status-checks", "1")
        options += ("--slurm-status-command", "squeue")
        run = _measure(copy, "slurm", *options, **cluster.environment)
        assert run.returncode == 0, run.stderr
        workload, cell = cluster.call("scontrol", "show", "job", "--oneliner").splitlines()
    assert "Comment=rule_workload_" in workload
    assert "TimeLimit=01:00:00 " in workload
    assert "TRES=cpu=1,mem=8000M," in workload
    assert "gres:" not in workload
    assert "Comment=rule_engines_" in cell
    assert "TimeLimit=02:00:00 " in cell
    assert "CPUs/Task=8 " in cell
    assert f"TRES=cpu={slurm.CPUS},mem=62.50G,node=1," in cell
    assert "TresPerJob=gres:gpu:1 NtasksPerTRES=1" in cell


def test_kubernetes_gives_a_cell_a_gpu_and_cpus_of_its_own(copy: Path, tmp_path: Path) -> None:
    with fake_kubernetes.cluster(tmp_path) as cluster:
        environment = {"KUBECONFIG": str(cluster.kubeconfig), "HF_HOME": "/volume/huggingface"}
        run = _measure(copy, "kubernetes", **environment)
        assert run.returncode != 0  # no node has a GPU
        assert "Error in rule engines" in run.stderr, run.stderr
        workload, cell = (cluster.container(number) for number in range(2))
        profile = yaml.safe_load((copy / _PROFILES / "kubernetes" / "config.yaml").read_text())
        claim, path = profile["kubernetes-volume-persistent-volumes"].split(":")
        for job in cluster.jobs:
            kubernetes_validate.validate(_as_sent(job), _KUBERNETES, strict=True)
        for container in (workload, cell):
            assert container["image"] == profile["container-image"]
            assert {"name": claim, "mountPath": path} in container["volumeMounts"]
            assert [variable["name"] for variable in container["env"]] == ["HF_HOME"]
            command = f"cd {shlex.quote(str(copy))} && {_python(copy)} -m snakemake "
            assert container["args"][1].startswith(command)
        asked = {"cpu": "8000m", "memory": "64000M", "ephemeral-storage": "4000M"}
        asked["nvidia.com/gpu"] = "1"
        # Equal, or there is neither a GPU nor a CPU of its own.
        assert cell["resources"] == {"limits": asked, "requests": asked}
        assert "nvidia.com/gpu" not in workload["resources"]["requests"]
        (toleration,) = cluster.jobs[1]["spec"]["template"]["spec"]["tolerations"]
        assert toleration["key"] == "nvidia.com/gpu"
        (role,) = (part for part in _submit(copy) if part["kind"] == "Role")
        allowed = {
            (verb, resource)
            for rule in role["rules"]
            for verb, resource in product(rule["verbs"], rule["resources"])
        }
        # The rest is asked for when a pod is left over, or has failed.
        assert allowed - cluster.asked == {("delete", "pods"), ("get", "pods/log")}
        assert cluster.asked <= allowed


def _as_sent(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job with the kind that the executor leaves to the address that it is sent to."""
    return {"apiVersion": "batch/v1", "kind": "Job", **job}


def test_manifests_are_of_the_version_that_they_are_written_for(root: Path) -> None:
    assert f"Kubernetes {_KUBERNETES}" in (root / "env" / "README.md").read_text()
    for part in _submit(root):
        kubernetes_validate.validate(part, _KUBERNETES, strict=True)
        wrong = part | {"metadata": part["metadata"] | {"nmae": "x"}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, _KUBERNETES, strict=True)


def _submit(root: Path) -> list[dict[str, Any]]:
    text = (root / _PROFILES / "kubernetes" / "submit.yaml").read_text()
    return list(yaml.safe_load_all(text))


def test_submitting_pod_is_like_those_of_the_jobs(root: Path) -> None:
    profile = yaml.safe_load((root / _PROFILES / "kubernetes" / "config.yaml").read_text())
    claim, path = profile["kubernetes-volume-persistent-volumes"].split(":")
    parts = {part["kind"]: part for part in _submit(root)}
    pod = parts["Pod"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == profile["container-image"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [path]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    assert parts["PersistentVolumeClaim"]["metadata"]["name"] == claim
    assert profile["envvars"] in [variable["name"] for variable in container["env"]]
    assert parts["ServiceAccount"]["metadata"]["name"] == pod["serviceAccountName"]


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_profile_keeps_what_the_default_one_says_of_runs(root: Path, name: str) -> None:
    default = yaml.safe_load((root / "profiles" / "default" / "config.yaml").read_text())
    profile = yaml.safe_load((root / _PROFILES / name / "config.yaml").read_text())
    # A cell has a node for itself, so that cells may run side by side.
    assert default.pop("resources") == {"engine": 1}
    assert "resources" not in profile
    assert default.items() <= profile.items()
