"""The one place that knows the order: patches, model and workloads make cells, cells make figures."""

import os
import sys

from harness import config as configs
from harness import model as models
from harness import patching
from harness import runlock
from harness.errors import HarnessError


if not config:

    configfile: "config/cpu.yaml"


CONFIG_FILE = os.path.relpath(workflow.configfiles[-1])
try:
    CONFIG = configs.parse(config, CONFIG_FILE)
    SERIES = patching.read_series(patching.VLLM_SERIES)
except HarnessError as error:
    sys.exit(f"error: {error}")

CELLS = CONFIG.cells
HARNESS = f"{sys.executable} -m harness"
RESULTS = f"results/{CONFIG.name}"
ENGINE_TREE = f"build/engines/{SERIES.engine}-{SERIES.version}"
MODEL = CONFIG.model.source
if MODEL == models.TINY_QWEN3:
    MODEL = f"build/models/{models.TINY_QWEN3}"


def made_model(wildcards):
    """The model's folder if it is made here; a folder of the user's or a hub id is no job's output."""
    return [MODEL] if CONFIG.model.source == models.TINY_QWEN3 else []


def cell_workload(wildcards):
    spec = CELLS[wildcards.cell]
    return f"build/workloads/{CONFIG.name}/{spec.workload}-s{spec.seed}.jsonl"


def cell_engine_tree(wildcards):
    return [ENGINE_TREE] if CELLS[wildcards.cell].engine == "vllm" else []


wildcard_constraints:
    cell="|".join(CELLS),
    workload="|".join(CONFIG.workloads),
    seed=r"\d+",


localrules:
    figures,


onstart:
    try:
        runlock.acquire(RESULTS)
    except HarnessError as error:
        sys.exit(f"error: {error}")


rule figures:
    default_target: True
    input:
        f"{RESULTS}/figures/fig3.png",
        f"{RESULTS}/figures/fig3.pdf",


rule engine_tree:
    """The installed vLLM, patched, beside the package that stays as it is."""
    input:
        SERIES.patches,
        SERIES.folder / "series",
        SERIES.folder / "base.sha256",
    output:
        directory(ENGINE_TREE),
    params:
        series=str(SERIES.folder),
    shell:
        "{HARNESS} patch build {params.series} {output}"


rule tiny_model:
    output:
        directory(f"build/models/{models.TINY_QWEN3}"),
    shell:
        "{HARNESS} model {output}"


rule workload:
    """The requests of one workload and seed, the same for every cell that has both."""
    input:
        made_model,
    output:
        f"build/workloads/{CONFIG.name}/{{workload}}-s{{seed}}.jsonl",
    params:
        # So that a changed parameter makes it anew.
        spec=lambda wildcards: CONFIG.workloads[wildcards.workload].model_dump_json(),
    shell:
        "{HARNESS} workload {CONFIG_FILE} {wildcards.workload} {wildcards.seed}"
        " --model {MODEL} --output {output}"


rule cell:
    """One measurement with an engine of its own; never two at a time."""
    input:
        made_model,
        workload=cell_workload,
        tree=cell_engine_tree,
    output:
        directory(f"{RESULTS}/cells/{{cell}}"),
    params:
        spec=lambda wildcards: CELLS[wildcards.cell].model_dump_json(),
        tree=lambda wildcards, input: f"--engine-tree {input.tree}" if input.tree else "",
    threads: workflow.cores
    resources:
        engine=1,
    shell:
        "{HARNESS} cell {CONFIG_FILE} {wildcards.cell} --model {MODEL}"
        " --workload {input.workload} {params.tree} --output {output}"


rule cells_table:
    input:
        expand(f"{RESULTS}/cells/{{cell}}", cell=CELLS),
    output:
        f"{RESULTS}/cells.csv",
    shell:
        "{HARNESS} table {input} --output {output}"


rule figure_3:
    input:
        f"{RESULTS}/cells.csv",
        "figures/paper.csv",
    output:
        png=f"{RESULTS}/figures/fig3.png",
        pdf=f"{RESULTS}/figures/fig3.pdf",
    shell:
        "{sys.executable} -m figures.fig3 {CONFIG_FILE} {input[0]} {output.png} {output.pdf}"
