"""The commands that the Snakefile and the Makefile run: ``harness --help``."""

import argparse
import hashlib
import json
import secrets
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from harness import config as configs
from harness import kvcache, nvidia, patching, porting, runlock
from harness import model as models
from harness import workload as workloads
from harness.analysis import tables
from harness.bench import eviction, replay, results, sglang
from harness.cell import CellSpec
from harness.config import Config
from harness.engines import registry
from harness.errors import HarnessError
from harness.load import closed_loop
from harness.measure import supervisor
from workloads import datasets
from workloads import file as workload_file
from workloads.datasets import DatasetMissing
from workloads.file import BlockWorkload, Workload, WorkloadError
from workloads.formats import convert as converting
from workloads.formats.cutting import Cutter
from workloads.formats.registry import FORMATS, recognise
from workloads.tokens import token_ids


def _bench_client(build: Path, output: Path) -> list[results.Result]:
    # Loads a web server, which the other commands can do without.
    from harness.bench import client

    return client.run(build, output)


def _bench_verdicts(build: Path, output: Path) -> list[results.Result]:
    # Loads the statistics, which the other commands can do without.
    from harness.bench import verdicts

    return verdicts.run(build, output)


_BENCHMARKS = {
    "client": _bench_client,
    "eviction": eviction.run,
    "replay": replay.run,
    "sglang": sglang.run,
    "verdicts": _bench_verdicts,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    arguments = _parser().parse_args(argv)
    try:
        runlock.end_with_run()
        arguments.run(arguments)
    except (HarnessError, WorkloadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _exit_on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    # An exception, so that what is open is closed and the engine is ended.
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    check = commands.add_parser("check", help="check a config and list its groups of cells")
    check.add_argument("config", type=Path)
    check.set_defaults(run=_check)

    gpu = commands.add_parser(
        "check-gpu", help="check that this machine is fit for a config's cells on a GPU"
    )
    gpu.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))
    gpu.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="of the card that is meant, where there is none here to ask",
    )
    gpu.set_defaults(run=_check_gpu)

    schema = commands.add_parser("schema", help="print the JSON schema of a config")
    schema.set_defaults(run=_schema)

    model = commands.add_parser("model", help=f"make the model {models.TINY_QWEN3}")
    model.add_argument("folder", type=Path)
    model.set_defaults(run=lambda a: models.make_tiny_qwen3(a.folder))

    patch = commands.add_parser("patch", help="build, edit, export or port a patched engine")
    patches = patch.add_subparsers(required=True, metavar="action")
    for name, run, target, text in (
        ("build", _patch_build, "tree", "make the patched tree of the engine"),
        ("edit", _patch_edit, "checkout", "make a git checkout to edit the series in"),
        ("export", _patch_export, "checkout", "write the commits of a checkout as the series"),
        ("port", _patch_port, "checkout", "carry the series to another version, in a checkout"),
    ):
        action = patches.add_parser(name, help=text)
        action.add_argument("series", type=Path, help="folder of the series")
        if name == "port":
            action.add_argument("target", type=Path, help="folder of the series to be")
        action.add_argument(target, type=Path)
        action.set_defaults(run=run)

    workload = commands.add_parser("workload", help="make the file of one workload and seed")
    workload.add_argument("config", type=Path)
    workload.add_argument("tier")
    workload.add_argument("name")
    workload.add_argument("seed", type=int)
    workload.add_argument("--model", required=True, help="folder or hub id; its tokenizer counts")
    workload.add_argument("--output", type=Path, required=True)
    workload.set_defaults(run=_workload)

    prompts = commands.add_parser(
        "prompts", help="write a workload's prompts for Locust by hand (harness/load/README.md)"
    )
    prompts.add_argument("workload", type=Path, help="workload file")
    prompts.add_argument("--model", required=True, help="folder or hub id; its tokenizer is used")
    prompts.add_argument("--output", type=Path, required=True, help="JSON lines file to write")
    prompts.set_defaults(run=_prompts)

    convert = commands.add_parser(
        "convert",
        help="write a log as lines like Mooncake's, with hashes in place of text "
        "(workloads/formats/README.md)",
    )
    convert.add_argument("source", metavar="IN", type=Path, help="log, in any known format")
    convert.add_argument(
        "target", metavar="OUT", type=Path, help="file to write: .jsonl, .jsonl.gz or .jsonl.zst"
    )
    convert.add_argument(
        "--model",
        default=models.TINY_QWEN3,
        help="folder or hub id, whose tokenizer is used of text; by default %(default)s's, whose "
        "8,192 entries make more tokens of a text than most",
    )
    convert.add_argument(
        "--block-size", type=_positive, default=16, help="tokens an id, of text (16)"
    )
    convert.add_argument("--format", choices=FORMATS, help="by default, recognised")
    convert.add_argument(
        "--key-file",
        type=Path,
        help="key of the hashes, 16 bytes or more, so that several logs share ids; by default a "
        "random one that is thrown away",
    )
    convert.add_argument(
        "--skip-bad", type=_count, default=0, metavar="N", help="leave out up to N bad records"
    )
    convert.set_defaults(run=_convert)

    measure = commands.add_parser("measure", help="measure a group of cells")
    measure.add_argument("config", type=Path)
    measure.add_argument("group", help="of those that `harness check` lists")
    measure.add_argument("--model", required=True, help="folder or hub id")
    measure.add_argument("--workload", type=Path, required=True, help="workload file")
    measure.add_argument("--engine-tree", type=Path, help="patched tree; stock engines need none")
    measure.add_argument("--output", type=Path, required=True, help="folder to write")
    measure.add_argument(
        "--processes", type=int, default=1, help="for cells of tier replay (%(default)s)"
    )
    measure.set_defaults(run=_measure)

    bench = commands.add_parser("bench", help="measure what our own code costs")
    bench.add_argument("benchmark", choices=_BENCHMARKS, help="what to measure")
    bench.add_argument("--build", type=Path, required=True, help="folder for what it needs")
    bench.add_argument("--output", type=Path, required=True, help="JSON file to write")
    bench.set_defaults(run=_bench)

    bounds = commands.add_parser("bounds", help="work out what no policy can beat, and rivals")
    bounds.add_argument("config", type=Path)
    bounds.add_argument("workload_name", metavar="workload")
    bounds.add_argument("seed", type=int)
    bounds.add_argument("--workload", type=Path, required=True, help="workload file of blocks")
    bounds.add_argument("--output", type=Path, required=True, help="CSV file to write")
    bounds.set_defaults(run=_bounds)

    study = commands.add_parser("study", help="say which policy suits a log of your own traffic")
    study.add_argument("trace", type=Path, help="the log")
    study.add_argument(
        "--model",
        default=kvcache.DEFAULT,
        help="whose KV cache it is: a name, a folder or a config.json (%(default)s)",
    )
    study.add_argument("--cache", help="the size asked about: 200000 (tokens), 40GiB or 40GB")
    study.add_argument(
        "--ttft",
        help="what predicts TTFT: two points of prompt tokens and ms, 1000:80,15000:900, or a "
        "detailed result of vllm bench serve (JSON)",
    )
    study.add_argument("--name", help="results go to results/study-NAME; by default, the log's")
    study.add_argument(
        "--block-size", type=_positive, default=16, help="tokens a block (%(default)s)"
    )
    study.add_argument("--format", choices=FORMATS, help="of the log; by default, recognised")
    study.add_argument(
        "--skip-bad", type=_count, default=0, metavar="N", help="leave out up to N bad records"
    )
    study.add_argument("--cores", type=_cores, default="all", help="for Snakemake (%(default)s)")
    study.set_defaults(run=_study)

    traffic = commands.add_parser("traffic", help="describe the traffic of a workload of blocks")
    traffic.add_argument("workload", type=Path, help="workload file of blocks")
    traffic.add_argument("output", type=Path, help="JSON file to write")
    traffic.set_defaults(run=_traffic)

    maps = commands.add_parser("map", help="write the map that a config's results make")
    maps.add_argument("config", type=Path)
    maps.add_argument("results", type=Path, help="folder of the results")
    maps.add_argument("workloads", type=Path, nargs="+", help="workload files of blocks")
    maps.add_argument("--output", type=Path, required=True, help="CSV file to write")
    maps.set_defaults(run=_map)

    answer = commands.add_parser("answer", help="answer a study from its results")
    answer.add_argument("config", type=Path)
    answer.add_argument("results", type=Path, help="folder of the results")
    answer.set_defaults(run=_answer)

    table = commands.add_parser("table", help="write cells.csv from measured cells")
    table.add_argument("cells", type=Path, nargs="+")
    table.add_argument("--output", type=Path, required=True)
    table.set_defaults(run=_table)

    comparison = commands.add_parser("policies", help="compare policies with each other and bounds")
    comparison.add_argument("cells", type=Path, help="cells.csv")
    comparison.add_argument("bounds", type=Path, nargs="*", help="CSV files of `harness bounds`")
    comparison.add_argument("--csv", type=Path, required=True)
    comparison.add_argument("--markdown", type=Path, required=True)
    comparison.set_defaults(run=_policies)

    judge = commands.add_parser("judge", help="hold results against the claims")
    judge.add_argument("config", type=Path)
    judge.add_argument("results", type=Path, help="folder of the results")
    judge.add_argument("--history", type=Path, help="table of other runs, for the noise (CSV)")
    judge.add_argument("--output", type=Path, required=True, help="claims.json to write")
    judge.set_defaults(run=_judge)

    reference = commands.add_parser("reference", help="keep what can be drawn of a run's results")
    reference.add_argument("config", type=Path)
    reference.add_argument("results", type=Path, help="folder of the results")
    reference.add_argument("folder", type=Path, help="folder to write")
    reference.set_defaults(run=_reference)

    noise = commands.add_parser("noise", help="add what a run's cells differ by to a table of runs")
    noise.add_argument("config", type=Path)
    noise.add_argument("results", type=Path, help="folder of the results")
    noise.add_argument(
        "--history", type=Path, required=True, help="CSV file for `harness judge`; made if need be"
    )
    noise.set_defaults(run=_noise)

    verdicts = commands.add_parser("claims", help="print the table of claims and verdicts")
    verdicts.add_argument("verdicts", type=Path, help="claims.json of `harness judge`")
    verdicts.add_argument(
        "--markdown", action="store_true", help="only what was judged, in Markdown"
    )
    verdicts.set_defaults(run=_claims)

    gate = commands.add_parser("gate", help="hold tonight's claims against the nights before")
    gate.add_argument("verdicts", type=Path, help="claims.json of `harness judge`")
    gate.add_argument("--history", type=Path, required=True, help="JSON lines file, a line a night")
    gate.add_argument(
        "--append", action="store_true", help="add tonight; makes the file if need be"
    )
    gate.set_defaults(run=_gate)

    same_hits = commands.add_parser(
        "same-hits", help="compare each request's hits in runs on different versions of the engine"
    )
    same_hits.add_argument("results", type=Path, help="folder of the results")
    same_hits.add_argument(
        "others", type=Path, nargs="+", help="folders of the same cells' results"
    )
    same_hits.set_defaults(run=_same_hits)

    data = commands.add_parser("data", help="list the data sets, and download what is missing")
    data.set_defaults(run=_data)
    return parser


def _bench(arguments: argparse.Namespace) -> None:
    found = _BENCHMARKS[arguments.benchmark](arguments.build, arguments.output)
    if found:
        print(results.table(found))
    missed = [result.name for result in found if result.ok is False]
    if missed:
        raise HarnessError(f"{arguments.output}: targets missed: {', '.join(missed)}")


def _check(arguments: argparse.Namespace) -> None:
    for group, specs in configs.load(arguments.config).groups.items():
        print(group)
        for name in specs:
            if name != ".":
                print(f"  {name}")


def _check_gpu(arguments: argparse.Namespace) -> None:
    from harness import check_gpu

    rows = check_gpu.run(
        arguments.config,
        card_gib=arguments.memory,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for line in check_gpu.lines(rows):
        print(line)
    failed = [row.check for row in rows if row.outcome == "failed"]
    left = [row.check for row in rows if row.outcome == "not checked"]
    if left:
        print(f"not checked here: {', '.join(left)}")
    if failed:
        raise HarnessError(f"this machine is not fit for {arguments.config}: {', '.join(failed)}")


def _schema(arguments: argparse.Namespace) -> None:
    print(json.dumps(configs.Config.model_json_schema(), indent=2))


def _patch_build(arguments: argparse.Namespace) -> None:
    patching.build(patching.read_series(arguments.series), arguments.tree)


def _patch_edit(arguments: argparse.Namespace) -> None:
    porting.edit(patching.read_series(arguments.series), arguments.checkout)
    print(f"edit {arguments.checkout}, one commit a patch; then run `make patches`")


def _patch_export(arguments: argparse.Namespace) -> None:
    series = porting.export(arguments.checkout, arguments.series)
    print(f"{arguments.series}: {len(series.patches)} patches")


def _patch_port(arguments: argparse.Namespace) -> None:
    source = patching.read_series(arguments.series)
    porting.port(source, arguments.target, arguments.checkout)
    print(f"{arguments.checkout}: all patches fit {arguments.target.name}; then run `make patches`")


def _workload(arguments: argparse.Namespace) -> None:
    config = configs.load(arguments.config)
    for key, known in (("name", config.workloads), ("tier", config.tiers)):
        if (given := getattr(arguments, key)) not in known:
            raise HarnessError(f"{arguments.config} has no {key} {given!r}")
    made = workloads.build(
        config,
        arguments.tier,
        arguments.name,
        arguments.seed,
        arguments.model,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    if made.header.missing:
        print(f"warning: {arguments.name}: {made.header.missing}", file=sys.stderr)
    for note in made.header.notes:
        print(f"{arguments.name}: {note}", file=sys.stderr)
    workload_file.write(arguments.output, made)


def _prompts(arguments: argparse.Namespace) -> None:
    workload = workload_file.read(arguments.workload)
    if not workload.requests:
        raise HarnessError(
            f"{arguments.workload} has no requests to send: {workload.header.missing or 'empty'}"
        )
    tokenizer = models.load_tokenizer(arguments.model)
    prompts = token_ids(workload, tokenizer, tokenizer.vocab_size)
    closed_loop.write_prompts(arguments.output, workload, prompts)
    most = workload_file.longest(workload.requests)
    print(
        f"{arguments.output}: {len(prompts)} requests; the longest needs a server with "
        f"--max-model-len {most.prompt_tokens + most.output_tokens}"
    )


def _convert(arguments: argparse.Namespace) -> None:
    key = _key(arguments.key_file) if arguments.key_file else secrets.token_bytes(32)
    notes = converting.convert(
        arguments.source,
        arguments.target,
        FORMATS[arguments.format] if arguments.format else recognise(arguments.source),
        lambda: Cutter(models.load_tokenizer(arguments.model), arguments.block_size, key),
        key,
        arguments.skip_bad,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for note in notes:
        print(f"{arguments.target}: {note}")


def _key(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: no such key: {error.strerror}") from None
    if len(key) < 16:
        raise HarnessError(
            f"{path}: a key of {len(key)} bytes could be guessed: 16 or more are needed, as of "
            "head -c 32 /dev/urandom"
        )
    # What BLAKE2b takes is no longer than this.
    return hashlib.blake2b(key).digest()


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text}: not a whole number of {least} or more")
    return number


_count = partial(_whole, least=0)
_positive = partial(_whole, least=1)


def _cores(text: str) -> str:
    return text if text == "all" else str(_positive(text))


def _bounds(arguments: argparse.Namespace) -> None:
    # Loads libcachesim, which the other commands can do without.
    from harness.analysis import policies

    config = configs.load(arguments.config)
    name, seed = arguments.workload_name, arguments.seed
    if (name, seed) not in config.replayed:
        raise HarnessError(f"config {config.name} replays no {name} of seed {seed}")
    workload = workload_file.read(arguments.workload)
    seeds = [of_name for other, of_name in config.replayed if other == name]
    policies.write_bounds(
        _blocks(workload, arguments.workload, config.tiers["replay"].block_size),
        config.workloads[name],
        config.replayed[name, seed],
        # Each of them is a run of its own, and one seed shows where they stand.
        rivals=name in config.rivals and seed == min(seeds),
        path=arguments.output,
        report=lambda line: print(f"{arguments.output.stem}: {line}", file=sys.stderr, flush=True),
    )


def _study(arguments: argparse.Namespace) -> None:
    # Loads the analysis, which the other commands can do without.
    from harness import study

    study.run(
        arguments.trace,
        model=arguments.model,
        cache=arguments.cache,
        ttft=arguments.ttft,
        name=arguments.name,
        block_size=arguments.block_size,
        form=arguments.format,
        skip_bad=arguments.skip_bad,
        cores=arguments.cores,
        say=lambda line: print(line, flush=True),
    )


def _traffic(arguments: argparse.Namespace) -> None:
    from harness.analysis import traffic

    workload = _any_blocks(arguments.workload)
    traffic.write(traffic.measure(workload), arguments.output)


def _any_blocks(path: Path) -> BlockWorkload:
    workload = workload_file.read(path)
    if not isinstance(workload, BlockWorkload):
        raise HarnessError(f"{path} has {workload.header.content}, not blocks")
    return workload


def _map(arguments: argparse.Namespace) -> None:
    from harness.analysis import maps, results, traffic

    found = results.read(arguments.config, arguments.results)
    if found.config.map is None:
        raise HarnessError(f"{arguments.config} makes no map")
    workloads = map(_any_blocks, arguments.workloads)
    traffics = [traffic.measure(each) for each in workloads if not each.header.missing]
    maps.write(maps.table(found, traffics), arguments.output)


def _answer(arguments: argparse.Namespace) -> None:
    from harness.analysis import maps, results, study, traffic

    folder = arguments.results
    found = results.read(arguments.config, folder)
    if found.config.study is None:
        raise HarnessError(f"{arguments.config} asks nothing: it has no study")
    shipped = maps.read(maps.SHIPPED) if maps.SHIPPED.is_file() else None
    answer, table = study.answer(found, traffic.read(folder / "traffic.json"), shipped)
    study.write(answer, table, folder / "study.json", folder / "study.csv")


def _gate(arguments: argparse.Namespace) -> None:
    from harness.analysis import gate

    if not (arguments.append or arguments.history.exists()):
        raise HarnessError(f"{arguments.history}: no such history; --append begins one")
    night, history = gate.read_night(arguments.verdicts), gate.read_history(arguments.history)
    if arguments.append:
        gate.append(arguments.history, night)
    judgements = gate.judge(night, history)
    print(gate.table(night, history, judgements), flush=True)
    if alarms := gate.alarms(judgements):
        raise HarnessError("\n  ".join([f"{arguments.verdicts} raises alarms:", *alarms]))


def _table(arguments: argparse.Namespace) -> None:
    tables.write_cells(arguments.cells, arguments.output)
    table = tables.read_cells(arguments.output)
    for _, cell in table[table["disturbed"].notna()].iterrows():
        print(f"warning: cell {cell['cell']} was disturbed: {cell['disturbed']}", file=sys.stderr)


def _policies(arguments: argparse.Namespace) -> None:
    from harness.analysis import policies

    cells = tables.read_cells(arguments.cells)
    table = policies.compare(cells, [policies.read_bounds(path) for path in arguments.bounds])
    policies.write(table, arguments.csv, arguments.markdown)


def _judge(arguments: argparse.Namespace) -> None:
    from harness.analysis import claims, noise, results

    found = results.read(arguments.config, arguments.results)
    judged = claims.judge(found, noise.read(arguments.history))
    claims.write(judged, arguments.output)


def _noise(arguments: argparse.Namespace) -> None:
    from harness.analysis import comparisons, noise, results

    before = noise.read(arguments.history if arguments.history.exists() else None)
    compared = comparisons.compare(results.read(arguments.config, arguments.results))
    noise.add(before, compared, arguments.history)


def _reference(arguments: argparse.Namespace) -> None:
    from harness.analysis import reference

    reference.write(arguments.config, arguments.results, arguments.folder)


def _claims(arguments: argparse.Namespace) -> None:
    from harness.analysis import claims, terminal

    judged = claims.load(arguments.verdicts)
    if arguments.markdown:
        print(terminal.markdown(judged))
    else:
        terminal.show(judged)


def _same_hits(arguments: argparse.Namespace) -> None:
    from harness.analysis import samehits

    differences: list[str] = []
    for other in arguments.others:
        found = samehits.compare(arguments.results, other)
        differences += found.differences
        print(
            f"vLLM {' and '.join(found.versions)}: {found.cells} cells, {found.requests} requests: "
            + (f"{len(found.differences)} cells differ" if found.differences else "the same hits")
        )
    if differences:
        raise HarnessError("\n  ".join(["not the same hits:", *differences]))


def _data(arguments: argparse.Namespace) -> None:
    for name, card in datasets.cards().items():
        if card.files:
            try:
                datasets.locate(name)
            except DatasetMissing as error:
                print(f"warning: {error}", file=sys.stderr)
    print(datasets.table())


def _group(config: Config, name: str) -> dict[str, CellSpec]:
    if name not in config.groups:
        raise HarnessError(f"config {config.name} has no group of cells {name!r}")
    return config.groups[name]


def _blocks(workload: Workload, path: Path, block_size: int) -> BlockWorkload:
    if not isinstance(workload, BlockWorkload) or workload.header.block_size != block_size:
        raise HarnessError(
            f"{path} has {workload.header.content} of size {workload.header.block_size}, not "
            f"blocks of {block_size} tokens"
        )
    return workload


def _measure(arguments: argparse.Namespace) -> None:
    """Measure cells that share a workload file, after what can be checked without an engine."""
    specs = _group(configs.load(arguments.config), arguments.group)
    workload = workload_file.read(arguments.workload)
    kinds = [registry.ENGINES[spec.engine] for spec in specs.values()]
    lacking = (registry.ENGINES[spec.engine].lacks(spec.tier) for spec in specs.values())
    if missing := workload.header.missing or next(filter(None, lacking), None):
        print(f"warning: {arguments.group}: not run: {missing}", file=sys.stderr)
        supervisor.write_not_run(specs, missing, arguments.output)
        return
    most = workload_file.longest(workload.requests)
    (package,) = {kind.package for kind in kinds}
    patches_sha256 = None
    if arguments.engine_tree is not None:
        manifest = patching.read_manifest(arguments.engine_tree)
        if manifest["engine"] != package:
            raise HarnessError(
                f"group {arguments.group}: --engine-tree {arguments.engine_tree} is the patched "
                f"{manifest['engine']}, not {package}: name another, or make it with "
                "`harness patch build`"
            )
        patches_sha256 = manifest["patches_sha256"]
    patching.find_package(package)
    for spec in specs.values():
        header = workload.header
        if (header.name, header.seed) != (spec.workload, spec.seed):
            raise HarnessError(
                f"cell {spec.id}: {arguments.workload} has the requests of {header.name}, seed "
                f"{header.seed}, not of {spec.workload}, seed {spec.seed}"
            )
        if most.prompt_tokens + most.output_tokens > spec.cache_tokens:
            raise HarnessError(
                f"cell {spec.id}: a cache of {spec.cache_tokens} tokens cannot hold request "
                f"{most.request} of {arguments.workload}, which needs "
                f"{most.prompt_tokens} + {most.output_tokens}"
            )
        if patches_sha256 is None and registry.ENGINES[spec.engine].is_patched:
            raise HarnessError(f"cell {spec.id}: engine {spec.engine} needs --engine-tree")
        if spec.tier == "replay":
            _blocks(workload, arguments.workload, spec.block_size)
        if spec.tier == "gpu" and not nvidia.gpus():
            raise HarnessError(
                f"cell {spec.id}: tier gpu needs an NVIDIA GPU, and nvidia-smi tells of none that "
                f"could be used here; `harness check-gpu {arguments.config}` says what is there"
            )
    supervisor.run(
        specs,
        model=arguments.model,
        workload=arguments.workload,
        engine_tree=arguments.engine_tree,
        patches_sha256=patches_sha256,
        folder=arguments.output,
        processes=arguments.processes,
        requests=len(workload.requests),
    )
