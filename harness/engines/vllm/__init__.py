"""vLLM: the patched tree, the installed package as it came, and its scheduler without a model."""

from harness.engines.base import Kind

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in process, as the paper measures
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONHASHSEED": "0",  # vLLM seeds its block hashes with it
}
_POLICIES = ("lru", "dbl", "arc", "slru", "s3fifo", "alrfu", "arcleaf")
_OFFLINE, _SERVER = "harness.engines.vllm.offline:VLLM", "harness.engines.vllm.server:VLLMServer"

KINDS = (
    Kind(
        name="vllm",
        package="vllm",
        project="vLLM",
        description="real vLLM engine",
        tiers=("cpu", "gpu"),
        policies=_POLICIES,
        is_patched=True,
        environment=_ENVIRONMENT,
        offline=_OFFLINE,
        server=_SERVER,
    ),
    Kind(
        name="vllm-stock",
        package="vllm",
        project="vLLM",
        description="real vLLM engine, unpatched",
        tiers=("cpu", "gpu"),
        policies=("lru",),
        is_patched=False,
        environment=_ENVIRONMENT,
        offline=_OFFLINE,
        server=_SERVER,
    ),
    Kind(
        name="replay",
        package="vllm",
        project="vLLM",
        description="vLLM's scheduler and block pool without a model",
        tiers=("replay",),
        policies=_POLICIES,
        is_patched=True,
        environment=_ENVIRONMENT,
        offline="harness.engines.vllm.replay:ReplayEngine",
        server=None,
    ),
)
