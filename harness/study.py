"""From a log of one's own traffic to a page that says which policy suits it: ``harness study``.

It writes a config like any other, for the same DAG: what was interrupted goes on, and each number
has its cell.
"""

import filecmp
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness import config as configs
from harness import configfile, kvcache, runlock
from harness import model as models
from harness import workload as workloads
from harness.analysis import costmodel, traffic
from harness.analysis import study as studies
from harness.analysis.costmodel import TokenLine
from harness.analysis.traffic import Traffic
from harness.config import Config, Study
from harness.engines.registry import ENGINES
from harness.errors import HarnessError
from harness.policies import POLICIES
from workloads import file as workload_file
from workloads.file import BlockWorkload
from workloads.formats import source
from workloads.formats.log import refuse_lengths
from workloads.formats.registry import FORMATS, recognise

_ROOT = Path(__file__).parents[1]
_ENGINE = "replay"
_SEED = 42
_CLOSE = 1.6
# As 40GiB and 40 GB, of which the latter has powers of 1000; and as 40000, 40,000 and 4e4.
_BYTES = re.compile(r"(?P<number>[0-9.]+) *(?P<power>[MGT])(?P<binary>i?)B", re.IGNORECASE)
_TOKENS = re.compile(r"[0-9]{1,3}(,[0-9]{3})+|[0-9_]+|[0-9.]+(e\+?[0-9]+)?", re.IGNORECASE)
_POWERS = {"M": 2, "G": 3, "T": 4}


def run(
    trace: Path,
    *,
    model: str = kvcache.DEFAULT,
    cache: str | None = None,
    ttft: str | None = None,
    name: str | None = None,
    block_size: int = 16,
    form: str | None = None,
    skip_bad: int = 0,
    cores: str = "all",
    say: Callable[[str], object] = print,
) -> None:
    """Study a log: replay every policy on it at several cache sizes, and answer.

    Args:
        trace: A log in any format that a workload of kind ``trace`` may have.
        model: Whose KV cache sizes are said in GiB: see ``kvcache.of_model``. If it is a folder
            with a tokenizer, that counts the tokens of logs of text.
        cache: The size asked about, in tokens or, as ``40GiB`` or ``40GB``, in bytes; by default,
            the middle one of those replayed.
        ttft: What to predict TTFT by: see ``costmodel.of_points``, or the file of
            ``costmodel.of_bench``; by default, the paper's line.
        name: Results go to ``results/study-<name>``; by default, the log's name.
        block_size: Tokens a KV-cache block.
        form: The log's format, of ``FORMATS``; by default, it is recognised.
        skip_bad: So many bad records are left out.
        cores: For Snakemake.
        say: Called with a line on what was understood, and on the answer.

    Raises:
        HarnessError: if an argument is wrong or the run fails.
        WorkloadError: if the log cannot be read.

    """
    source.check(trace)
    refuse_lengths(trace, FORMATS[form] if form else recognise(trace))
    kv_cache, line = kvcache.of_model(model), _line(ttft)
    called = _slug(name or trace.name.partition(".")[0])
    folder = Path("results", f"study-{called}")
    path = folder / "config.yaml"
    log: dict[str, Any] = {"kind": "trace", "path": os.path.abspath(trace)}
    log |= {"format": form} if form else {}
    log |= {"skip_bad": skip_bad} if skip_bad else {}
    content = _content(log, called, model, block_size)
    _check_same_trace(path, log["path"])

    draft = _parsed(content, [configs.MOST_CACHE_TOKENS], None, path)
    workload = _workload(draft, called, cores, say)
    found = traffic.measure(workload)
    say(f"{trace}: {found.sentence}")
    sizes = traffic.cache_sizes(found, configs.MOST_CACHE_TOKENS)
    chosen = _chosen(cache, kv_cache, found, sizes, say)
    # One that is close to the size asked about would say the same.
    apart = (size for size in sizes[1:-1] if max(size / chosen, chosen / size) > _CLOSE)
    sizes = sorted({sizes[0], *apart, chosen, sizes[-1]})
    say(
        f"cache sizes: {', '.join(f'{tokens:,}' for tokens in sizes)} tokens, from what the "
        f"largest request needs to the working set of {found.working_set_tokens:,}; asked about: "
        f"{chosen:,}"
    )
    study = Study(
        cache_tokens=chosen,
        model=kv_cache.model,
        kv_bytes_per_token=kv_cache.bytes_per_token,
        base_ms=line.base_ms,
        ms_per_token=line.ms_per_token,
        ttft_from=line.source,
    )
    _parsed(content, sizes, study, path)
    handed = Path("build/workloads", folder.name, "replay", f"{called}-s{_SEED}.jsonl")
    with runlock.asking(str(folder)):
        _write(path, content | _grid(called, sizes) | {"study": study.model_dump()})
        _hand_over(workload, handed)
        del workload
        _snakemake("figures", "--configfile", str(path), cores=cores)
        for sentence in studies.read(folder / "study.json").sentences:
            say(sentence)
    say(f"{folder}/report.html has the page, {folder}/study.csv the table")


def _line(ttft: str | None) -> TokenLine:
    if ttft is None:
        return costmodel.of_papers_tokens()
    if ":" in ttft and not Path(ttft).exists():
        return costmodel.of_points(ttft)
    return costmodel.of_bench(Path(ttft))


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug:
        raise HarnessError(f"{name}: no name for a folder; give one with --name (NAME=)")
    return slug


def _content(log: Mapping[str, Any], called: str, model: str, block_size: int) -> dict[str, Any]:
    """Return a config without its cells."""
    tier: dict[str, Any] = {"block_size": block_size}
    if (Path(model) / "tokenizer.json").is_file():
        tier["model"] = model
    return {
        "name": f"study-{called}",
        "tiers": {"replay": tier},
        "workloads": {called: dict(log)},
    }


def _grid(called: str, sizes: list[int]) -> dict[str, Any]:
    policies = [
        name
        for name, policy in POLICIES.items()
        if name in ENGINES[_ENGINE].policies and not policy.is_ablation
    ]
    cells = {"tier": "replay", "workload": called, "policies": policies, "seeds": [_SEED]}
    return {"experiments": {called: cells | {"cache_tokens": sizes}}}


def _parsed(content: dict[str, Any], sizes: list[int], study: Study | None, path: Path) -> Config:
    """Return the config, checked."""
    (called,) = content["workloads"]
    asked = {} if study is None else {"study": study.model_dump()}
    return configs.parse(content | _grid(called, sizes) | asked, str(path))


def _check_same_trace(path: Path, given: str) -> None:
    """Refuse to write over another log's study. Its config is not checked: its log may be gone."""
    if not path.exists():
        return
    before = configfile.read(path)
    workloads_before = before.get("workloads") if isinstance(before, dict) else None
    (log,) = workloads_before.values() if isinstance(workloads_before, dict) else (None,)
    if not isinstance(log, dict) or log.get("path") != given:
        raise HarnessError(
            f"{path.parent} is the study of another log, {workloads_before}: name this one's with "
            "--name (NAME=), or remove that folder"
        )


def _workload(
    draft: Config, called: str, cores: str, say: Callable[[str], object]
) -> BlockWorkload:
    model = draft.tiers["replay"].model
    if model == models.TINY_QWEN3:
        model = f"build/models/{model}"
        if not Path(model).exists():
            _snakemake(model, cores=cores)
    workload = workloads.build(draft, "replay", called, _SEED, model, say)
    assert isinstance(workload, BlockWorkload)
    return workload


def _hand_over(workload: BlockWorkload, path: Path) -> None:
    """Write the workload where the DAG would make it again, which may take as long as a replay.

    One that is the same is left alone: newer, it would have all replays made anew.
    """
    made = path.with_name(f".{path.name}.made")
    workload_file.write(made, workload)
    if path.exists() and filecmp.cmp(made, path, shallow=False):
        made.unlink()
    else:
        os.replace(made, path)


def _chosen(
    cache: str | None,
    size: kvcache.Size,
    found: Traffic,
    sizes: list[int],
    say: Callable[[str], object],
) -> int:
    if cache is None:
        return sizes[len(sizes) // 2]
    try:
        blocks = int(_tokens(cache.strip(), size) // found.block_size)
    except (ValueError, OverflowError):
        raise HarnessError(
            f"cache {cache}: neither a number of tokens, as 200000, nor of bytes, as 40GiB"
        ) from None
    tokens = blocks * found.block_size
    if tokens < found.longest_tokens:
        # Rounded up: as much has to do.
        gib = math.ceil(1000 * found.longest_tokens * size.bytes_per_token / 2**30) / 1000
        raise HarnessError(
            f"cache {cache}: less than the largest request needs, {found.longest_tokens:,} tokens "
            f"({gib:,} GiB of {size.model}): name that or more"
        )
    if tokens > sizes[-1]:
        say(
            f"cache {cache}: {tokens:,} tokens of {size.model}, more than the {sizes[-1]:,} that "
            "are replayed at most, and which are asked about instead"
        )
    # More than the working set makes no difference, but costs memory.
    return min(tokens, sizes[-1])


def _tokens(cache: str, size: kvcache.Size) -> float:
    """Return how many tokens a cache has. Raises a ValueError if it is no size."""
    if found := _BYTES.fullmatch(cache):
        thousand = 1024.0 if found["binary"] else 1000.0
        unit = math.pow(thousand, _POWERS[found["power"].upper()])
        return float(found["number"]) * unit / size.bytes_per_token
    if _TOKENS.fullmatch(cache):
        return float(cache.replace(",", ""))
    raise ValueError(cache)


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(
            "# Written by `harness study`. To change it, run that with other options.\n"
            + yaml.safe_dump(content, sort_keys=False)
        )
        os.replace(partial, path)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be written: {error.strerror}") from None


def _snakemake(target: str, *options: str, cores: str) -> None:
    command = [sys.executable, "-m", "snakemake", target, "--cores", cores]
    command += ["--snakefile", str(_ROOT / "Snakefile"), *options]
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as error:
        raise HarnessError(f"snakemake does not start: {error}") from None
    if code:
        raise HarnessError("the run failed, as said above; run the same command again to go on")
