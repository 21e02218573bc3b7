"""The documents: that the commands in them are there, and which of them CI runs as written."""

import re
import shlex
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from harness import cli, config

_ROOT = Path(__file__).parents[1]
_FILES = [
    "README.md",
    "ARTIFACT.md",
    "CONTRIBUTING.md",
    "env/README.md",
    "harness/load/README.md",
    "workloads/formats/README.md",
    "patches/vllm/README.md",
    "patches/sglang/README.md",
]
_PROGRAMS = ("make", "harness", "snakemake", "python")
# The user's own.
_YOURS = ("config/yours.yaml",)
# What CI does not run: it is too long, needs a GPU, or changes what is under version control; and
# `smoke`, which it runs under another name.
_NOT_IN_CI = {
    "bench",
    "check-gpu",
    "test-upstream",
    "env-cuda",
    "env-sglang-cuda",
    "format",
    "lock",
    "patches",
    "port",
    "smoke",
    "versions",
}


def _commands(name: str) -> list[list[str]]:
    """Return the words of the commands that start this project's programs."""
    text = (_ROOT / name).read_text()
    fence = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    lines = [
        line for block in fence.findall(text) for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"(?<!`)`([^`]+)`(?!`)", fence.sub("", text))
    found = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # not a command
            continue
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        if len(words) > 1 and words[0].removeprefix(".venv/bin/") in _PROGRAMS:
            found.append([words[0].removeprefix(".venv/bin/"), *words[1:]])
    return found


_ALL = [(name, *command) for name in _FILES for command in _commands(name)]


def _of(program: str) -> list[tuple[str, ...]]:
    found = dict.fromkeys(tuple(rest) for _, first, *rest in _ALL if first == program)
    assert found
    return list(found)


def _targets(words: tuple[str, ...]) -> list[str]:
    return [word for word in words if "=" not in word]


@pytest.mark.parametrize("words", _of("make"), ids=" ".join)
def test_make_has_the_target_and_what_it_needs(words: tuple[str, ...]) -> None:
    rules = (_ROOT / "Makefile").read_text()
    for target in _targets(words):
        assert re.search(rf"^{target}: .*## ", rules, re.MULTILINE)
    for word in words:
        name = word.removeprefix("CONFIG=")
        if name != word and name not in _YOURS:
            config.load(_ROOT / name)


def test_ci_runs_every_target_that_it_can() -> None:
    script = (_ROOT / ".ci" / "run").read_text() + (_ROOT / "Makefile").read_text()
    run = {
        target
        for line in re.findall(r"^\s*(?:make|@\$\(MAKE\)) (.*)", script, re.MULTILINE)
        for target in _targets(tuple(line.split()))
    }
    named = {target for words in _of("make") for target in _targets(words)}
    assert named - run == _NOT_IN_CI & named


@pytest.mark.parametrize("words", _of("snakemake"), ids=" ".join)
def test_snakemake_is_given_what_is_there(words: tuple[str, ...]) -> None:
    # That their jobs can be planned, tests/dag shows.
    for option, value in pairwise(words):
        if option == "--configfile" and value not in _YOURS:
            config.load(_ROOT / value)
        if option == "--workflow-profile":
            assert (_ROOT / value / "config.yaml").is_file()


@pytest.mark.parametrize("words", _of("harness"), ids=" ".join)
def test_harness_takes_the_arguments(words: tuple[str, ...]) -> None:
    if any(word.startswith("--") for word in words[1:]):
        cli._parser().parse_args(words)
    else:  # named in a sentence
        with pytest.raises(SystemExit, match=r"^0$"):
            cli._parser().parse_args([*words[:2], "--help"])


@pytest.mark.parametrize("words", _of("python"), ids=" ".join)
def test_python_has_the_module(words: tuple[str, ...]) -> None:
    if words[0] == "-m":
        assert find_spec(words[1])
    else:
        assert (_ROOT / words[0]).is_file()


def test_files_that_are_named_are_there() -> None:
    for name in _FILES:
        folder = (_ROOT / name).parent
        for target in re.findall(r"\]\(([^)#:]+)\)", (_ROOT / name).read_text()):
            assert (folder / target).exists(), f"{name}: {target}"
