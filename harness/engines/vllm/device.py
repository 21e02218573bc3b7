"""A device for vLLM's config where its build finds none, as that for CUDA without a GPU."""

from vllm.platforms import current_platform


def name_one() -> None:
    """Have configs name the CPU if they would name nothing, which vLLM refuses.

    For what needs no device but a config: nothing is ever put on it.
    """
    if not current_platform.device_type:
        current_platform.device_type = "cpu"
