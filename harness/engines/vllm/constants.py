"""Other values of constants of an eviction policy, for those who ask what they matter."""

from importlib import import_module
from types import ModuleType
from typing import Any

from harness.errors import HarnessError
from harness.policies import split

# What the engine made before had changed: module, name, value.
_changed: list[tuple[ModuleType, str, Any]] = []


def use(name: str) -> str:
    """Set what a policy's variant changes, for the next engine of this process alone.

    Args:
        name: A policy, or a variant of one (``harness.policies``).

    Returns:
        The policy.

    Raises:
        HarnessError: if its module has no such constant, or one of another kind.

    """
    while _changed:
        setattr(*_changed.pop())
    policy, constant, values = split(name)
    if constant is None:
        return policy
    module = import_module(f"vllm.v1.core.eviction.{policy}")
    own = {key: value for key, value in vars(module).items() if key.isupper()}
    default = own.get(constant)
    if isinstance(default, tuple):
        value: Any = values
    elif isinstance(default, int | float) and len(values) == 1:
        value = type(default)(values[0])
    else:
        numbers = {
            key: value for key, value in own.items() if isinstance(value, int | float | tuple)
        }
        raise HarnessError(
            f"{name}: {policy} has no constant {constant} of this kind; it has "
            + ", ".join(f"{key} = {value}" for key, value in numbers.items())
        )
    _changed.append((module, constant, default))
    setattr(module, constant, value)
    return policy
