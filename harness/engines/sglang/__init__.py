"""SGLang: the patched tree, the installed package as it came, and its radix cache without a model.

It has an environment of its own, ``.venv-sglang``; this package is imported in both.
"""

from harness.engines.base import Kind

ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    # Threads are bound to no core, as those of other engines here.
    "SGLANG_CPU_OMP_THREADS_BIND": "0",
    # It looks the prefixes of waiting requests up again, under lru only.
    "SGLANG_ENABLE_WAITING_PREFIX_REFRESH": "0",
}
# ARC's core is in Python: so is that of what it is compared with, but for SGLang as it came.
_PYTHON_CORE = {"SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND": "python"}
_SERVER = "harness.engines.sglang.server:SGLangServer"

KINDS = (
    Kind(
        name="sglang",
        package="sglang",
        project="SGLang",
        description="real SGLang server",
        tiers=("cpu", "gpu"),
        policies=("lru", "arc", "slru"),
        is_patched=True,
        venv=".venv-sglang",
        environment=ENVIRONMENT | _PYTHON_CORE,
        offline=None,
        server=_SERVER,
    ),
    Kind(
        name="sglang-stock",
        package="sglang",
        project="SGLang",
        description="real SGLang server, unpatched",
        tiers=("cpu", "gpu"),
        policies=("lru",),
        is_patched=False,
        venv=".venv-sglang",
        environment=ENVIRONMENT,
        offline=None,
        server=_SERVER,
    ),
    Kind(
        name="sglang-replay",
        package="sglang",
        project="SGLang",
        description="SGLang's radix cache and allocator without a model",
        tiers=("replay",),
        policies=("lru", "arc", "slru"),
        is_patched=True,
        venv=".venv-sglang",
        environment=ENVIRONMENT | _PYTHON_CORE,
        offline="harness.engines.sglang.replay:ReplayEngine",
        server=None,
    ),
)
