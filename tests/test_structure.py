"""Imports run one way: from what measures down to what a cell is, never back."""

import ast
from collections.abc import Iterator
from pathlib import Path

# From the ground floor up; what is on one floor may import each other.
_FLOORS = (
    {"harness.cell", "harness.errors", "harness.policies", "harness.turns", "harness.disturbance"},
    {"workloads"},
    {
        "harness.git",
        "harness.processes",
        "harness.runlock",
        "harness.model",
        "harness.kvcache",
        "harness.nvidia",
    },
    {"harness.patching", "harness.porting", "harness.upstream"},
    {"harness.engines"},
    {"harness.configfile", "harness.config", "harness.workload"},
    {"harness.load"},
    {"harness.measure"},
    {"harness.analysis"},
    {"figures", "harness.bench", "harness.study", "harness.check_gpu"},
    {"harness.cli", "harness.__main__"},
)


def test_no_import_runs_back_up(root: Path) -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, imported in _imports(root)
        if _floor(imported) > _floor(module)
    ]
    assert not wrong


def test_what_a_cell_is_imports_nothing_of_ours(root: Path) -> None:
    ground = {"harness.cell", "harness.policies"}
    assert not [imported for module, imported in _imports(root) if module in ground]


def _floor(module: str) -> int:
    (found,) = (
        i
        for i, floor in enumerate(_FLOORS)
        if any(module == room or module.startswith(f"{room}.") for room in floor)
    )
    return found


def _imports(root: Path) -> Iterator[tuple[str, str]]:
    """Yield which of our modules imports which."""
    for folder in ("harness", "workloads", "figures"):
        for path in (root / folder).rglob("*.py"):
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            module = module.removesuffix(".__init__")
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                for name in names:
                    if name.split(".")[0] in ("harness", "workloads", "figures") and module not in (
                        "harness",
                        "workloads",
                        "figures",
                    ):
                        yield module, name
