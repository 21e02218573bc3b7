"""The one place that knows the order: patches, model and workloads make cells, cells make figures."""

import os
import shlex
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

# Jobs run the Python that runs Snakemake, also when its environment is not activated.
shell.prefix(
    # The first part is Snakemake's own prefix, which this replaces.
    "set -euo pipefail; "
    f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "
)

CELLS = CONFIG.cells
# Cells that will be compared run one after the other, so that a machine whose speed drifts does
# little harm to their ratio.
CELL_ORDER = sorted(
    CELLS,
    key=lambda cell: (
        CELLS[cell].workload,
        CELLS[cell].batch_size,
        CELLS[cell].cache_blocks,
        CELLS[cell].seed,
        CELLS[cell].engine,
        CELLS[cell].policy,
    ),
)
RESULTS = f"results/{CONFIG.name}"
ENGINE_TREE = f"build/engines/{SERIES.engine}-{SERIES.version}"
TINY_MODEL = f"build/models/{models.TINY_QWEN3}"
# No job makes a model that the user named; a hub id is not even a file.
MODEL_INPUT = [TINY_MODEL] if CONFIG.model.source == models.TINY_QWEN3 else []


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
    log:
        "build/logs/engine_tree.log",
    conda:
        "env/conda.yaml"
    params:
        series=SERIES.folder,
    shell:
        "python -m harness patch build {params.series} {output} 2>&1 | tee -i {log} >&2"


rule tiny_model:
    output:
        directory(TINY_MODEL),
    log:
        "build/logs/tiny_model.log",
    conda:
        "env/conda.yaml"
    shell:
        "python -m harness model {output} 2>&1 | tee -i {log} >&2"


rule workload:
    """The requests of one workload and seed, the same for every cell that has both."""
    input:
        model=MODEL_INPUT,
    output:
        f"build/workloads/{CONFIG.name}/{{workload}}-s{{seed}}.jsonl",
    log:
        f"build/logs/{CONFIG.name}-{{workload}}-s{{seed}}.log",
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
        model=lambda wildcards, input: input.model or CONFIG.model.source,
        # So that a changed parameter makes it anew.
        spec=lambda wildcards: CONFIG.workloads[wildcards.workload].model_dump_json(),
    shell:
        "python -m harness workload {params.config} {wildcards.workload} {wildcards.seed}"
        " --model {params.model} --output {output} 2>&1 | tee -i {log} >&2"


rule cell:
    """One measurement with an engine of its own; never two at a time."""
    input:
        model=MODEL_INPUT,
        workload=lambda wildcards: (
            f"build/workloads/{CONFIG.name}/"
            f"{CELLS[wildcards.cell].workload}-s{CELLS[wildcards.cell].seed}.jsonl"
        ),
        tree=lambda wildcards: (
            [ENGINE_TREE] if CELLS[wildcards.cell].engine == "vllm" else []
        ),
    output:
        directory(f"{RESULTS}/cells/{{cell}}"),
    log:
        f"{RESULTS}/logs/{{cell}}.log",
    priority: lambda wildcards: len(CELL_ORDER) - CELL_ORDER.index(wildcards.cell)
    conda:
        "env/conda.yaml"
    threads: workflow.cores
    resources:
        engine=1,
    params:
        config=CONFIG_FILE,
        model=lambda wildcards, input: input.model or CONFIG.model.source,
        # So that a changed cell is measured anew.
        spec=lambda wildcards: CELLS[wildcards.cell].model_dump_json(),
        tree=lambda wildcards, input: (
            f"--engine-tree {input.tree}" if input.tree else ""
        ),
    shell:
        "python -m harness cell {params.config} {wildcards.cell} --model {params.model}"
        " --workload {input.workload} {params.tree} --output {output} 2>&1 | tee -i {log} >&2"


rule cells_table:
    input:
        expand(f"{RESULTS}/cells/{{cell}}", cell=CELLS),
    output:
        f"{RESULTS}/cells.csv",
    log:
        f"{RESULTS}/logs/cells_table.log",
    conda:
        "env/conda.yaml"
    shell:
        "python -m harness table {input} --output {output} 2>&1 | tee -i {log} >&2"


rule figure_3:
    input:
        cells=f"{RESULTS}/cells.csv",
        paper="figures/paper.csv",
    output:
        png=f"{RESULTS}/figures/fig3.png",
        pdf=f"{RESULTS}/figures/fig3.pdf",
    log:
        f"{RESULTS}/logs/fig3.log",
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
    shell:
        "python -m figures.fig3 {params.config} {input.cells} {output.png} {output.pdf}"
        " 2>&1 | tee -i {log} >&2"
