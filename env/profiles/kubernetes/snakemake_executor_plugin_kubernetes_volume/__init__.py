"""Snakemake's Kubernetes executor, for a project in a volume that every pod mounts at one path.

The original takes it that pods share no files. It copies all inputs and outputs by way of a storage
plugin, which each pod downloads first, and the patched engine, a tree of links, would be copied
into each of them whole. With the volume, jobs run as they do on Slurm.
"""

import shlex
from dataclasses import replace

import snakemake_executor_plugin_kubernetes as original
from snakemake_executor_plugin_kubernetes import ExecutorSettings
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = replace(
    original.common_settings,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(original.Executor):
    """Runs each job in a pod, in the folder of the run."""

    def get_job_exec_prefix(self, job: JobExecutorInterface) -> str:
        """Return what a job's command begins with."""
        return f"cd {shlex.quote(self.workflow.workdir_init)}"
