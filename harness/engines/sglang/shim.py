"""Stand-ins for packages that SGLang imports and never runs on a CPU.

``torchvision`` and ``sgl_kernel`` have no build for a CPU (env/sglang-exclude.txt). SGLang takes
names from them when it is imported, for images and for kernels, none of which text on a CPU needs.
Here these names exist, and say what is missing if one is used after all.

As a program it is SGLang's own, with the stand-ins in this process and in those that it spawns:

    python -m harness.engines.sglang.shim serve --model-path ...
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

PACKAGES = ("torchvision", "sgl_kernel")
_SGLANG = "sglang.cli.main"


class _Named(type):
    """What is asked of a stand-in class is a stand-in as well."""

    def __getattr__(cls, name: str) -> Any:
        return _stand_in(name, cls)


class Absent(metaclass=_Named):
    """Stands for what a package that is not there would have had under this name."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        raise NotImplementedError(f"{type(self).__qualname__} has no build for a CPU")


def _stand_in(name: str, owner: type | ModuleType) -> type:
    """Make, and keep, what an owner has under a name."""
    if name.startswith("__"):
        raise AttributeError(f"{owner.__name__} has no {name}")
    outer = owner.__name__ if isinstance(owner, ModuleType) else owner.__qualname__
    made = _Named(name, (Absent,), {"__qualname__": f"{outer}.{name}"})
    setattr(owner, name, made)
    return made


class _StandIn(ModuleType):
    """A module in which every name that is asked for is an `Absent` of its own."""

    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        return _stand_in(name, self)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages, and every module in them, where nothing else did."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a stand-in if the module is of one of the packages."""
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Make the stand-in."""
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it has no code."""


def install() -> None:
    """Have imports of the packages succeed from now on, unless they are installed."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        # Last, so that packages that are there come first.
        sys.meta_path.append(Finder())


# Processes that are spawned have it as their main module, too, and run no more of it than this.
if __name__ in ("__main__", "__mp_main__"):
    install()

if __name__ == "__main__":
    sys.exit(importlib.import_module(_SGLANG).main())
