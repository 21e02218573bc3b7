"""The commands that the Snakefile and the Makefile run: ``harness --help``."""

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from harness import cell as cells
from harness import config as configs
from harness import model as models
from harness import patching
from harness.analysis import tables
from harness.bench import eviction, results
from harness.errors import HarnessError
from workloads import docqa, vocabulary
from workloads import file as workload_file
from workloads.file import WorkloadError


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    arguments = _parser().parse_args(argv)
    try:
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

    check = commands.add_parser("check", help="check a config and list its cells")
    check.add_argument("config", type=Path)
    check.set_defaults(run=_check)

    schema = commands.add_parser("schema", help="print the JSON schema of a config")
    schema.set_defaults(run=_schema)

    model = commands.add_parser("model", help=f"make the model {models.TINY_QWEN3}")
    model.add_argument("folder", type=Path)
    model.set_defaults(run=lambda a: models.make_tiny_qwen3(a.folder))

    patch = commands.add_parser("patch", help="build, edit or export a patched engine")
    patches = patch.add_subparsers(required=True, metavar="action")
    for name, run, target, text in (
        ("build", _patch_build, "tree", "make the patched tree of the installed package"),
        ("edit", _patch_edit, "checkout", "make a git checkout to edit the series in"),
        ("export", _patch_export, "checkout", "write the commits of a checkout as the series"),
    ):
        action = patches.add_parser(name, help=text)
        action.add_argument("series", type=Path, help="folder of the series")
        action.add_argument(target, type=Path)
        action.set_defaults(run=run)

    workload = commands.add_parser("workload", help="make the file of one workload and seed")
    workload.add_argument("config", type=Path)
    workload.add_argument("name")
    workload.add_argument("seed", type=int)
    workload.add_argument("--model", required=True, help="folder or hub id; its tokenizer counts")
    workload.add_argument("--output", type=Path, required=True)
    workload.set_defaults(run=_workload)

    cell = commands.add_parser("cell", help="measure one cell")
    cell.add_argument("config", type=Path)
    cell.add_argument("id")
    cell.add_argument("--model", required=True, help="folder or hub id")
    cell.add_argument("--workload", type=Path, required=True, help="workload file")
    cell.add_argument("--engine-tree", type=Path, help="patched tree; without: the stock package")
    cell.add_argument("--output", type=Path, required=True, help="folder to write")
    cell.set_defaults(run=_cell)

    bench = commands.add_parser("bench", help="measure what the eviction policies cost")
    bench.add_argument("--build", type=Path, required=True, help="folder for what it needs")
    bench.add_argument("--output", type=Path, required=True, help="JSON file to write")
    bench.set_defaults(run=_bench)

    table = commands.add_parser("table", help="write cells.csv from measured cells")
    table.add_argument("cells", type=Path, nargs="+")
    table.add_argument("--output", type=Path, required=True)
    table.set_defaults(run=lambda a: tables.write_cells(a.cells, a.output))
    return parser


def _bench(arguments: argparse.Namespace) -> None:
    found = eviction.run(arguments.build, arguments.output)
    print(results.table(found))
    missed = [result.name for result in found if result.ok is False]
    if missed:
        raise HarnessError(f"{arguments.output}: targets missed: {', '.join(missed)}")


def _check(arguments: argparse.Namespace) -> None:
    for cell in configs.load(arguments.config).cells:
        print(cell)


def _schema(arguments: argparse.Namespace) -> None:
    print(json.dumps(configs.Config.model_json_schema(), indent=2))


def _patch_build(arguments: argparse.Namespace) -> None:
    patching.build(patching.read_series(arguments.series), arguments.tree)


def _patch_edit(arguments: argparse.Namespace) -> None:
    patching.edit(patching.read_series(arguments.series), arguments.checkout)
    print(f"edit {arguments.checkout}, one commit a patch; then run `make patches`")


def _patch_export(arguments: argparse.Namespace) -> None:
    series = patching.export(arguments.checkout, arguments.series)
    print(f"{arguments.series}: {len(series.patches)} patches")


def _workload(arguments: argparse.Namespace) -> None:
    config = configs.load(arguments.config)
    if arguments.name not in config.workloads:
        raise HarnessError(f"{arguments.config} has no workload {arguments.name!r}")
    tokenizer, sha256 = models.load_tokenizer(arguments.model)
    workload = docqa.build(
        arguments.name,
        config.workloads[arguments.name],
        arguments.seed,
        tokenizer,
        sha256,
        vocabulary.words(),
    )
    workload_file.write(arguments.output, workload)


def _cell(arguments: argparse.Namespace) -> None:
    config = configs.load(arguments.config)
    if arguments.id not in config.cells:
        raise HarnessError(f"{arguments.config} has no cell {arguments.id!r}")
    spec = config.cells[arguments.id]
    workload = workload_file.read(arguments.workload)
    longest = workload.longest
    if longest.prompt_tokens + longest.output_tokens > spec.cache_tokens:
        raise HarnessError(
            f"cell {spec.id}: a cache of {spec.cache_tokens} tokens cannot hold request "
            f"{longest.request} of {arguments.workload}, which needs "
            f"{longest.prompt_tokens} + {longest.output_tokens}"
        )
    patches_sha256 = None
    if arguments.engine_tree is not None:
        patches_sha256 = patching.read_manifest(arguments.engine_tree)["patches_sha256"]
    if (patches_sha256 is None) != (spec.engine == "vllm-stock"):
        raise HarnessError(
            f"cell {spec.id}: engine {spec.engine} "
            + ("needs --engine-tree" if patches_sha256 is None else "takes no --engine-tree")
        )
    cells.run(
        spec,
        model=arguments.model,
        workload=arguments.workload,
        engine_tree=arguments.engine_tree,
        patches_sha256=patches_sha256,
        folder=arguments.output,
    )
