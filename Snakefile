"""The one place that knows the order: patches, model and workloads make cells, cells make figures."""

import os
import shlex
import sys
from pathlib import Path

from figures import catalogue
from harness import config as configs
from harness import configfile as configfile_yaml
from harness import model as models
from harness import patching
from harness import runlock
from harness import workload as workloads
from harness.analysis import maps
from harness.engines.registry import ENGINES
from harness.errors import HarnessError

if not config:

    configfile: "config/cpu.yaml"


CONFIG_FILE = os.path.relpath(workflow.configfiles[-1])
try:
    # Snakemake itself would drop a key that is there twice.
    for file in workflow.configfiles:
        configfile_yaml.read(Path(file))
    CONFIG = configs.parse(config, CONFIG_FILE)
    # Of each package whose cells can be measured here, and are to be on a patched engine.
    SERIES = {
        package: patching.find_series(
            CONFIG.vllm if package == "vllm" else None,
            patching.PATCHES.with_name(package),
        )
        for package in CONFIG.patched_packages
    }
except HarnessError as error:
    sys.exit(f"error: {error}")

# Jobs run the Python that runs Snakemake, also when its environment is not activated.
shell.prefix(
    # The first part is Snakemake's own prefix, which this replaces.
    "set -euo pipefail; "
    f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "
    # Set, it makes every start of an engine compile thousands of modules anew.
    "unset PYTHONDONTWRITEBYTECODE; "
)

# The cells that one job measures.
GROUPS = {name: list(cells.values()) for name, cells in CONFIG.groups.items()}
REPLAY_GROUPS = [name for name, cells in GROUPS.items() if cells[0].tier == "replay"]
ENGINE_GROUPS = [name for name in GROUPS if name not in REPLAY_GROUPS]
RESULTS = f"results/{CONFIG.name}"
ENGINE_TREES = {
    package: f"build/engines/{package}-{series.version}"
    for package, series in SERIES.items()
}
TINY_MODEL = f"build/models/{models.TINY_QWEN3}"
FIGURES = catalogue.names(CONFIG)
# Of a study, what its figures and its page say besides.
TRAFFIC = [f"{RESULTS}/traffic.json"] if CONFIG.study else []
ANSWER = [f"{RESULTS}/study.json", f"{RESULTS}/study.csv"] if CONFIG.study else []
MAP = [f"{RESULTS}/map.csv"] if CONFIG.map else []
# A study's traffic is put on this one, if it is there.
SHIPPED_MAP = [str(maps.SHIPPED)] if CONFIG.study and maps.SHIPPED.is_file() else []


def model_input(tier):
    # No job makes a model that the user named; a hub id is not even a file.
    return [TINY_MODEL] if CONFIG.tiers[tier].model == models.TINY_QWEN3 else []


def workload_file(tier, workload, seed):
    return f"build/workloads/{CONFIG.name}/{tier}/{workload}-s{seed}.jsonl"


def workload_of(group):
    cell = GROUPS[group][0]
    return workload_file(cell.tier, cell.workload, cell.seed)


def tree_of(group):
    """The patched tree that a group's cells need; none where their package is not installed."""
    patched = {
        ENGINES[cell.engine].package
        for cell in GROUPS[group]
        if ENGINES[cell.engine].is_patched
    }
    return [ENGINE_TREES[package] for package in patched & ENGINE_TREES.keys()]


def replay_threads(group):
    """The processes that a group of replays is spread over: of all cores, its share."""
    return max(1, min(len(GROUPS[group]), (workflow.cores or 1) // len(REPLAY_GROUPS)))


def lacking(group):
    """What the engines of a group of cells lack here."""
    found = {ENGINES[cell.engine].lacks(cell.tier) for cell in GROUPS[group]}
    return sorted(filter(None, found))


def is_gpu(wildcards):
    return GROUPS[wildcards.group][0].tier == "gpu"


wildcard_constraints:
    group="|".join(ENGINE_GROUPS) or "none",
    replay_group="|".join(REPLAY_GROUPS) or "none",
    package="|".join(SERIES) or "none",
    tier="|".join(CONFIG.tiers),
    workload="|".join(CONFIG.workloads),
    figure="|".join(FIGURES) or "none",
    seed=r"\d+",


# Seconds each, not worth a place in a cluster's queue.
localrules:
    figures,
    engine_tree,
    tiny_model,
    cells_table,
    policies_table,
    map_table,
    answer,
    claims,
    figure,
    report,
    check,


onstart:
    try:
        runlock.acquire(RESULTS)
    except HarnessError as error:
        sys.exit(f"error: {error}")


rule figures:
    default_target: True
    input:
        expand(
            f"{RESULTS}/figures/{{figure}}.{{kind}}",
            figure=FIGURES,
            kind=["png", "pdf"],
        ),
        f"{RESULTS}/policies.md",
        f"{RESULTS}/report.html",
        f"{RESULTS}/.figures-drawn",


rule engine_tree:
    """An installed engine, patched, beside the package that stays as it is."""
    input:
        lambda wildcards: SERIES[wildcards.package].files,
    output:
        directory("build/engines/{package}-{version}"),
    log:
        "build/logs/engine_tree/{package}/{version}.log",
    conda:
        "env/conda.yaml"
    params:
        series=lambda wildcards: SERIES[wildcards.package].folder,
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
    """The requests of one workload and seed, the same for every cell of the tier."""
    input:
        model=lambda wildcards: model_input(wildcards.tier),
        sources=lambda wildcards: workloads.sources(
            Path(workload_file(wildcards.tier, wildcards.workload, wildcards.seed)),
            CONFIG.workloads[wildcards.workload],
        ),
    output:
        workload_file("{tier}", "{workload}", "{seed}"),
    log:
        f"build/logs/{CONFIG.name}-{{tier}}-{{workload}}-s{{seed}}.log",
    # First, so that of the replays the longest can go first.
    priority: 2 * len(CONFIG.cells) + 1
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
        model=lambda wildcards, input: input.model or CONFIG.tiers[wildcards.tier].model,
        # So that a changed parameter makes it anew.
        spec=lambda wildcards: CONFIG.workloads[wildcards.workload].model_dump_json(),
        size=lambda wildcards: CONFIG.tiers[wildcards.tier].model_dump_json(),
    shell:
        "python -m harness workload {params.config} {wildcards.tier} {wildcards.workload}"
        " {wildcards.seed} --model {params.model} --output {output} 2>&1 | tee -i {log} >&2"


rule engines:
    """Cells on engines of their own, which take turns; no other job runs beside."""
    input:
        model=lambda wildcards: model_input(GROUPS[wildcards.group][0].tier),
        workload=lambda wildcards: workload_of(wildcards.group),
        tree=lambda wildcards: tree_of(wildcards.group),
    output:
        directory(f"{RESULTS}/cells/{{group}}"),
    log:
        f"{RESULTS}/logs/{{group}}.log",
    priority: lambda wildcards: len(GROUPS) - ENGINE_GROUPS.index(wildcards.group)
    conda:
        "env/conda.yaml"
    threads: workflow.cores
    resources:
        engine=1,
        # For a cluster's scheduler; one machine heeds none of them. The runtime, in minutes, is
        # well above what a group takes.
        gpu=lambda wildcards: 1 if is_gpu(wildcards) else None,
        mem_mb=lambda wildcards: (
            (64000 if is_gpu(wildcards) else 4000) * len(GROUPS[wildcards.group])
        ),
        runtime=lambda wildcards: (
            (120 if is_gpu(wildcards) else 30) * len(GROUPS[wildcards.group])
        ),
    params:
        config=CONFIG_FILE,
        model=lambda wildcards, input: input.model or GROUPS[wildcards.group][0].model,
        # So that a changed cell is measured anew, and one that could not be measured.
        specs=lambda wildcards: [
            spec.model_dump_json() for spec in GROUPS[wildcards.group]
        ],
        lacking=lambda wildcards: lacking(wildcards.group),
        tree=lambda wildcards, input: (
            f"--engine-tree {input.tree}" if input.tree else ""
        ),
    shell:
        "python -m harness measure {params.config} {wildcards.group} --model {params.model}"
        " --workload {input.workload} {params.tree} --output {output} 2>&1 | tee -i {log} >&2"


rule replay:
    """All cells of tier replay that share a workload and seed: no clock, so they may overlap.

    Each of its threads is a process that takes cell after cell. Starting one takes as long as a
    small cell, so where there are many such jobs each has one.
    """
    input:
        model=lambda wildcards: model_input("replay"),
        workload=lambda wildcards: workload_of(wildcards.replay_group),
        tree=lambda wildcards: tree_of(wildcards.replay_group),
    output:
        directory(f"{RESULTS}/cells/{{replay_group}}"),
    log:
        f"{RESULTS}/logs/{{replay_group}}.log",
    # Before the engines, which want the machine for themselves; the longest first.
    priority: lambda wildcards: len(CONFIG.cells) + len(GROUPS[wildcards.replay_group])
    conda:
        "env/conda.yaml"
    threads: lambda wildcards: replay_threads(wildcards.replay_group)
    params:
        config=CONFIG_FILE,
        model=lambda wildcards, input: input.model or CONFIG.tiers["replay"].model,
        specs=lambda wildcards: [
            spec.model_dump_json() for spec in GROUPS[wildcards.replay_group]
        ],
        tree=lambda wildcards, input: (
            f"--engine-tree {input.tree}" if input.tree else ""
        ),
    shell:
        "python -m harness measure {params.config} {wildcards.replay_group}"
        " --model {params.model} --workload {input.workload} {params.tree}"
        " --processes {threads} --output {output} 2>&1 | tee -i {log} >&2"


rule bounds:
    """What no policy can beat, and what policies that know no prefixes reach."""
    input:
        workload=lambda wildcards: workload_file(
            "replay", wildcards.workload, wildcards.seed
        ),
    output:
        f"{RESULTS}/bounds/{{workload}}-s{{seed}}.csv",
    log:
        f"{RESULTS}/logs/bounds-{{workload}}-s{{seed}}.log",
    # Rivals take as long as many replays.
    priority: lambda wildcards: len(CONFIG.cells) * (1 + (wildcards.workload in CONFIG.rivals))
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
        sizes=lambda wildcards: CONFIG.replayed[wildcards.workload, int(wildcards.seed)],
        rivals=lambda wildcards: wildcards.workload in CONFIG.rivals,
    shell:
        "python -m harness bounds {params.config} {wildcards.workload} {wildcards.seed}"
        " --workload {input.workload} --output {output} 2>&1 | tee -i {log} >&2"


rule cells_table:
    input:
        expand(f"{RESULTS}/cells/{{group}}", group=GROUPS),
    output:
        f"{RESULTS}/cells.csv",
    log:
        f"{RESULTS}/logs/cells_table.log",
    conda:
        "env/conda.yaml"
    shell:
        "python -m harness table {input} --output {output} 2>&1 | tee -i {log} >&2"


rule policies_table:
    input:
        cells=f"{RESULTS}/cells.csv",
        bounds=[
            f"{RESULTS}/bounds/{workload}-s{seed}.csv"
            for workload, seed in CONFIG.replayed
            if not CONFIG.map
        ],
    output:
        csv=f"{RESULTS}/policies.csv",
        md=f"{RESULTS}/policies.md",
    log:
        f"{RESULTS}/logs/policies_table.log",
    conda:
        "env/conda.yaml"
    shell:
        "python -m harness policies {input.cells} {input.bounds} --csv {output.csv}"
        " --markdown {output.md} 2>&1 | tee -i {log} >&2"


rule traffic:
    """What a study's traffic is like, whatever cache serves it."""
    input:
        workload=[
            workload_file("replay", workload, seed)
            for workload, seed in CONFIG.replayed
            if CONFIG.study
        ],
    output:
        f"{RESULTS}/traffic.json",
    log:
        f"{RESULTS}/logs/traffic.log",
    # Before replays, which then have all cores.
    priority: 2 * len(CONFIG.cells)
    conda:
        "env/conda.yaml"
    shell:
        "python -m harness traffic {input.workload} {output} 2>&1 | tee -i {log} >&2"


rule map_table:
    """Where on a map each workload lies, and what policies gain there."""
    input:
        cells=f"{RESULTS}/cells.csv",
        policies=f"{RESULTS}/policies.csv",
        workloads=[
            workload_file("replay", workload, seed)
            for workload, seed in CONFIG.replayed
            if CONFIG.map
        ],
    output:
        f"{RESULTS}/map.csv",
    log:
        f"{RESULTS}/logs/map_table.log",
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
        results=lambda wildcards, input: os.path.dirname(input.cells),
        # So that what else is at full size makes it anew.
        map=CONFIG.map.model_dump_json() if CONFIG.map else "",
    shell:
        "python -m harness map {params.config} {params.results} {input.workloads}"
        " --output {output} 2>&1 | tee -i {log} >&2"


rule answer:
    """Of a study: which policy, what it is worth, and how sure that is."""
    input:
        cells=f"{RESULTS}/cells.csv",
        policies=f"{RESULTS}/policies.csv",
        traffic=f"{RESULTS}/traffic.json",
        map=SHIPPED_MAP,
    output:
        json=f"{RESULTS}/study.json",
        csv=f"{RESULTS}/study.csv",
    log:
        f"{RESULTS}/logs/answer.log",
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
        results=lambda wildcards, input: os.path.dirname(input.cells),
        # So that another question is answered anew.
        study=CONFIG.study.model_dump_json() if CONFIG.study else "",
    shell:
        "python -m harness answer {params.config} {params.results} 2>&1 | tee -i {log} >&2"


rule claims:
    """A verdict on each claim."""
    input:
        cells=f"{RESULTS}/cells.csv",
        policies=f"{RESULTS}/policies.csv",
        claims="harness/analysis/claims.yaml",
        history="reference/noise.csv",
    output:
        f"{RESULTS}/claims.json",
    log:
        f"{RESULTS}/logs/claims.log",
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
        results=lambda wildcards, input: os.path.dirname(input.cells),
    shell:
        "python -m harness judge {params.config} {params.results} --history {input.history}"
        " --output {output} 2>&1"
        " | tee -i {log} >&2"


rule report:
    """Claims, figures, cells and policies as one page."""
    input:
        cells=f"{RESULTS}/cells.csv",
        policies=f"{RESULTS}/policies.csv",
        claims=f"{RESULTS}/claims.json",
        answer=ANSWER,
        figures=expand(f"{RESULTS}/figures/{{figure}}.png", figure=FIGURES),
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
        results=lambda wildcards, input: os.path.dirname(input.cells),
    shell:
        "python -m figures.report {params.config} {params.results} {output} 2>&1"
        " | tee -i {log} >&2"


rule check:
    """The last job, and the one that fails if a figure could not be drawn."""
    input:
        report=f"{RESULTS}/report.html",
        figures=expand(f"{RESULTS}/figures/{{figure}}.png", figure=FIGURES),
    output:
        touch(f"{RESULTS}/.figures-drawn"),
    log:
        f"{RESULTS}/logs/check.log",
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
        results=lambda wildcards, input: os.path.dirname(input.report),
    shell:
        "python -m figures.check {params.config} {params.results} 2>&1 | tee -i {log} >&2"


rule figure:
    """A figure, or a picture that says why there is none."""
    input:
        cells=f"{RESULTS}/cells.csv",
        policies=f"{RESULTS}/policies.csv",
        traffic=TRAFFIC,
        map=MAP or SHIPPED_MAP,
    output:
        png=f"{RESULTS}/figures/{{figure}}.png",
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
    log:
        f"{RESULTS}/logs/{{figure}}.log",
    conda:
        "env/conda.yaml"
    params:
        config=CONFIG_FILE,
        results=lambda wildcards, input: os.path.dirname(input.cells),
        # So that another question is drawn anew.
        study=CONFIG.study.model_dump_json() if CONFIG.study else "",
    shell:
        "python -m figures {wildcards.figure} {params.config} {params.results} 2>&1"
        " | tee -i {log} >&2"
