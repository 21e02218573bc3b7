"""All engines by name; to add one, name its folder here."""

import importlib
from collections.abc import Mapping
from typing import Any

from harness.cell import Tier
from harness.engines import sglang, vllm
from harness.engines.base import Kind

ENGINES: Mapping[str, Kind] = {kind.name: kind for kind in (*vllm.KINDS, *sglang.KINDS)}


def patched(package: str, tier: Tier) -> Kind:
    """Return the patched engine of a package that runs in a tier."""
    return next(
        kind
        for kind in ENGINES.values()
        if kind.package == package and tier in kind.tiers and kind.is_patched
    )


def imported(path: str) -> Any:
    """Return what is called ``module:name``; only now is the engine itself imported."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
