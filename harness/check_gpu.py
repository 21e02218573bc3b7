"""Whether a machine is fit for a config's cells on a GPU, before hours are paid for.

``harness check-gpu`` checks, in this order, all that can be without a GPU, the GPU itself, and with
one at last a short cell in each mode. What cannot be checked here is said, and fails nothing.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness import config as configs
from harness import kvcache, nvidia, patching
from harness import model as models
from harness import workload as workloads
from harness.cell import CellSpec
from harness.config import Config
from harness.engines.registry import ENGINES
from harness.errors import HarnessError
from harness.measure import supervisor
from harness.measure.records import read_summary
from workloads import file as workload_file

Outcome = Literal["ok", "failed", "not checked"]

_GIB = 2**30
# What an engine takes beside weights and cache: CUDA itself, captured graphs, and what one step of
# some ten thousand tokens computes.
MARGIN_GIB = 4.0
# For records, figures and logs.
_RESULTS_GIB = 2.0
_REQUESTS = 64
_POLICIES = ("lru", "arc")
_OPTION = "prefix-cache-eviction-policy"
# The oldest driver that runs what is built for a CUDA, by its first number: NVIDIA's "CUDA
# compatibility", minor version compatibility.
_DRIVERS = {"11": 450, "12": 525, "13": 580}
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_HUB_SECONDS = 10.0


@dataclass(frozen=True)
class Row:
    """What one check found."""

    check: str
    outcome: Outcome
    said: str


class _NotCheckedError(HarnessError):
    """Why something cannot be checked here."""


@dataclass(frozen=True)
class _Order:
    """What is checked: the cells of tier gpu, and where."""

    config: Config
    cells: Mapping[str, CellSpec]
    gpus: list[nvidia.GPU]
    card_gib: float | None
    build: Path
    say: Callable[[str], object]

    @property
    def model(self) -> str:
        return self.config.tiers["gpu"].model

    @property
    def tree(self) -> Path:
        return self.build / "vllm"


def run(
    path: Path,
    *,
    card_gib: float | None = None,
    build: Path = Path("build/check-gpu"),
    say: Callable[[str], object] = print,
) -> list[Row]:
    """Check this machine for a config's cells of tier gpu; return a row a check.

    Args:
        path: The config.
        card_gib: Memory of the GPU that is meant, in GiB, where there is none here to ask.
        build: Folder for a patched tree and short cells; what was in it is removed.
        say: Called with a line on what takes minutes.

    Raises:
        HarnessError: if the config is wrong, or has no such cells.

    """
    config = configs.load(path)
    cells = {name: cell for name, cell in config.cells.items() if cell.tier == "gpu"}
    if not cells:
        raise HarnessError(f"{path}: no cell is of tier gpu: there is nothing to check")
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    order = _Order(config, cells, nvidia.gpus(), card_gib, build, say)
    rows: dict[str, Row] = {}
    for name, (check, needed) in _CHECKS.items():
        unmet = [other for other in needed if rows[other].outcome != "ok"]
        if unmet:
            rows[name] = Row(name, "not checked", f"needs: {', '.join(unmet)}")
            continue
        try:
            rows[name] = Row(name, "ok", check(order))
        except _NotCheckedError as error:
            rows[name] = Row(name, "not checked", str(error))
        except HarnessError as error:
            # Of an engine's log only its last line, which mostly is the reason.
            first, *_, last = str(error).splitlines() * 2
            rows[name] = Row(name, "failed", first if first == last else f"{first} {last}")
    return list(rows.values())


def _environment(order: _Order) -> str:
    for cell in order.cells.values():
        if lacking := ENGINES[cell.engine].lacks("gpu"):
            raise HarnessError(f"no cell could start an engine: {lacking}")
    package = patching.find_package("vllm")
    return f"vLLM {package.version}, torch for CUDA {_cuda()}, in {package.folder.parent}"


def _cuda() -> str:
    """Return the version of CUDA that torch is built for, without the seconds of its import."""
    found = importlib.util.find_spec("torch")
    file = Path(found.origin).with_name("version.py") if found and found.origin else Path("none")
    version = re.search(r"cuda.* = '([\d.]+)'", file.read_text() if file.is_file() else "")
    if version is None:
        raise HarnessError("torch is not built for CUDA: `make env-cuda`")
    return version[1]


def _patched_tree(order: _Order) -> str:
    series = patching.find_series(order.config.vllm)
    patching.build(series, order.tree)
    return f"{len(series.patches)} patches fit vLLM {series.version}"


def _option(order: _Order) -> str:
    root = str(Path(__file__).parents[1])
    said = subprocess.run(
        [sys.executable, "-m", "harness.engines.vllm.serving", "serve", f"--help={_OPTION}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(order.tree.resolve()), root])},
        capture_output=True,
        text=True,
        check=False,
    )
    policies = sorted({cell.policy for cell in order.cells.values()})
    missing = [name for name in policies if not re.search(rf"\b{name}\b", said.stdout)]
    if said.returncode or f"--{_OPTION}" not in said.stdout or missing:
        last = (said.stderr.strip().splitlines() or ["it says nothing of it"])[-1]
        raise HarnessError(
            f"`vllm serve --help` of the patched tree does not take --{_OPTION} with "
            f"{', '.join(missing) or 'these policies'}: {last}. No server could be measured"
        )
    return f"`vllm serve` takes --{_OPTION} {', '.join(policies)}"


def _model(order: _Order) -> str:
    if order.model == models.TINY_QWEN3:
        return f"{order.model} is made by a rule"
    if Path(order.model).is_dir():
        if not _files(Path(order.model)):
            raise HarnessError(f"{order.model}: a model's folder without weights")
        return f"{order.model} is a folder here"
    if _folder(order.model):
        return f"{order.model} is in the hub's cache"
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(order.model, timeout=_HUB_SECONDS)
    except Exception as error:  # the library has many
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HarnessError(
            f"{order.model} is neither here nor can the hub be asked for it ({reason}): download "
            f"it where there is a network, `hf download {order.model}`, and set HF_HOME to that "
            "cache, or name the model's folder in the config"
        ) from None
    return f"{order.model} will be downloaded from the hub"


def _memory(order: _Order) -> str:
    largest = max(order.cells.values(), key=lambda cell: cell.cache_tokens)
    cache = kvcache.of_model(_config(order.model), largest.dtype).bytes_per_token
    cache *= largest.cache_tokens / _GIB
    weights = _weights(order) / _GIB
    needed = cache + weights + MARGIN_GIB
    said = (
        f"{needed:.1f} GiB: {cache:.1f} for {largest.cache_tokens:,} tokens of cache, "
        f"{weights:.1f} for weights, {MARGIN_GIB:g} for all else"
    )
    card = min((gpu.memory / _GIB for gpu in order.gpus), default=order.card_gib)
    if card is None:
        raise _NotCheckedError(f"needs {said}; --memory GIB holds it against a card")
    if needed > card:
        raise HarnessError(
            f"the card has {card:.1f} GiB, and cell {largest.id} needs {said}: it would end out of "
            "memory. Take smaller caches, a smaller model or another card"
        )
    # The number of blocks is given, so that vLLM does not go by that share itself.
    return f"{said}; of {card:.1f} that is a gpu_memory_utilization of {needed / card:.2f}"


def _disk(order: _Order) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    needs = {Path.cwd(): _RESULTS_GIB}
    if order.model != models.TINY_QWEN3 and not _folder(order.model):
        needs[Path(HF_HUB_CACHE)] = _weights(order) / _GIB
    said = []
    of_device: dict[int, float] = {}
    for place, gib in needs.items():
        there = next(path for path in (place, *place.parents) if path.exists())
        device = there.stat().st_dev
        of_device[device] = of_device.get(device, 0.0) + gib
        free = shutil.disk_usage(there).free / _GIB
        if free < of_device[device]:
            raise HarnessError(
                f"the disk of {place} has {free:.1f} GiB free, and {of_device[device]:.1f} are "
                "needed: the run would end when it is full"
            )
        said.append(f"{gib:.1f} GiB of {free:.0f} in {place}")
    return ", ".join(said)


def _gpu(order: _Order) -> str:
    if not order.gpus:
        raise _NotCheckedError("no NVIDIA GPU could be used here, says nvidia-smi")
    if len(order.gpus) > 1:
        names = ", ".join(gpu.name for gpu in order.gpus)
        raise HarnessError(
            f"{len(order.gpus)} GPUs ({names}), and an engine uses the first: say which with "
            "CUDA_VISIBLE_DEVICES=0, so that records name the one that was measured"
        )
    (gpu,) = order.gpus
    return f"{gpu.name}, {gpu.memory / _GIB:.1f} GiB"


def _driver(order: _Order) -> str:
    (gpu,) = order.gpus
    cuda = _cuda()
    oldest = _DRIVERS.get(cuda.partition(".")[0])
    if oldest is None:
        raise _NotCheckedError(f"{gpu.driver}; what CUDA {cuda} needs is not known here")
    if int(gpu.driver.partition(".")[0]) < oldest:
        raise HarnessError(
            f"driver {gpu.driver} is older than {oldest}, which CUDA {cuda} needs: no engine could "
            "start. Install a newer one"
        )
    return f"{gpu.driver}, {oldest} or newer as CUDA {cuda} needs"


def _idle(order: _Order) -> str:
    if others := nvidia.processes():
        raise HarnessError(
            f"on the GPU works {', '.join(others)}: times would mean nothing, and vLLM wants 0.92 "
            "of the memory free when it starts. End it, or wait"
        )
    return "no other process"


def _cells(order: _Order) -> str:
    short = _short(order.config)
    summaries: dict[str, Mapping[str, Any]] = {}
    for group, specs in short.groups.items():
        order.say(f"{group}: {_REQUESTS} requests ...")
        summaries |= _measured(order, short, group, specs)
    for name, summary in summaries.items():
        if not summary["valid"]:
            raise HarnessError(f"cell {name} is invalid: {summary['invalid_reason']}")
    said = []
    for name, spec in short.cells.items():
        if spec.tier == "gpu":
            found = summaries[name]
            said.append(
                f"{spec.load.mode} {spec.policy} hit rate {found['hit_rate']:.3f}, mean TTFT "
                f"{found['mean_ttft_ms']:.0f} ms"
            )
            if twin := _replayed(short, spec):
                ours, replayed = (each["hit_tokens"] for each in (found, summaries[twin]))
                if ours != replayed:
                    raise HarnessError(
                        f"cell {name} hit {ours} tokens, and {replayed} when replayed: the engine "
                        "does not do what tier replay takes it to do"
                    )
    return "; ".join(said)


def _short(config: Config) -> Config:
    """Return a config with a cell a mode and policy, and those that can be replayed, too."""
    experiments: dict[str, Any] = {}
    for experiment in config.experiments.values():
        if experiment.tier != "gpu" or not ENGINES[experiment.engine_name].is_patched:
            continue
        for load in experiment.loads:
            one = {
                **experiment.model_dump(mode="json"),
                "policies": [p for p in _POLICIES if p in ENGINES[experiment.engine_name].policies],
                "cache_tokens": [min(experiment.cache_tokens)],
                "loads": [load.model_dump(mode="json")],
                "seeds": experiment.seeds[:1],
                "repeats": 1,
            }
            experiments.setdefault(load.mode, one)
    if batch := experiments.get("batch"):
        experiments["replay"] = {**batch, "tier": "replay", "engine": None}
    gpu = {
        **config.tiers["gpu"].model_dump(mode="json"),
        "requests": _REQUESTS,
        "take_turns": False,
    }
    given = config.model_dump(mode="json")
    for params in given["workloads"].values():
        if "warm_up" in params:
            params["warm_up"] = 0
    return Config.model_validate(
        given
        | {"name": f"{config.name}-check", "rivals": [], "study": None, "experiments": experiments}
        | {"tiers": {"gpu": gpu, "replay": gpu}}
    )


def _replayed(short: Config, spec: CellSpec) -> str | None:
    """Return the cell of tier replay that must hit what another does; None if there is none."""
    alike = {"tier", "engine"}
    for name, other in short.cells.items():
        if other.tier == "replay" and other.model_dump(exclude=alike) == spec.model_dump(
            exclude=alike
        ):
            return name
    return None


def _measured(
    order: _Order, short: Config, group: str, specs: Mapping[str, CellSpec]
) -> dict[str, Mapping[str, Any]]:
    """Measure a group of cells as always; return their summaries."""
    spec = next(iter(specs.values()))
    model = order.model
    if model == models.TINY_QWEN3:
        model = str(order.build / model)
        if not Path(model).is_dir():
            models.make_tiny_qwen3(Path(model))
    path = order.build / f"{spec.tier}-{spec.workload}.jsonl"
    if not path.exists():
        made = workloads.build(short, spec.tier, spec.workload, spec.seed, model)
        if made.header.missing:
            raise _NotCheckedError(f"{spec.workload}: {made.header.missing}")
        workload_file.write(path, made)
    folder = order.build / "cells" / group
    supervisor.run(
        specs,
        model=model,
        workload=path,
        engine_tree=order.tree,
        patches_sha256=patching.read_manifest(order.tree)["patches_sha256"],
        folder=folder,
    )
    return {spec.id: read_summary(folder / name) for name, spec in specs.items()}


def _files(folder: Path) -> list[Path]:
    """Return a model's weights, in the first of the forms in which they are there."""
    return next(filter(None, (sorted(folder.glob(form)) for form in _WEIGHTS)), [])


def _folder(model: str) -> Path | None:
    """Return the model's folder: itself, or a hub's in the local cache, if its weights are."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent if isinstance(found, str) and _files(Path(found).parent) else None


def _config(model: str) -> str:
    """Return what ``kvcache.of_model`` knows a model by."""
    if model == models.TINY_QWEN3:
        raise _NotCheckedError(f"{model} fits any card")
    return str(_folder(model) or model)


def _weights(order: _Order) -> float:
    """Return how many bytes a model's weights are."""
    if folder := _folder(order.model):
        return sum(file.stat().st_size for file in _files(folder))
    size = kvcache.of_model(order.model, order.config.tiers["gpu"].dtype)
    if size.weights is None:
        raise _NotCheckedError(f"how large {order.model} is is not known before it is here")
    return size.weights


_CHECKS: Mapping[str, tuple[Callable[[_Order], str], tuple[str, ...]]] = {
    "environment": (_environment, ()),
    "patched tree": (_patched_tree, ("environment",)),
    "option": (_option, ("patched tree",)),
    "model": (_model, ()),
    "memory": (_memory, ()),
    "disk": (_disk, ()),
    "GPU": (_gpu, ()),
    "driver": (_driver, ("environment", "GPU")),
    "idle": (_idle, ("GPU",)),
    "short cells": (_cells, ("option", "model", "disk", "GPU", "driver", "idle")),
}


def lines(rows: list[Row]) -> Iterator[str]:
    """Yield a table of what was found."""
    width = max(len(row.check) for row in rows)
    for row in rows:
        yield f"{row.check:{width}}  {row.outcome:11}  {row.said}"
