"""Takes the worked example off ADDING-A-POLICY.md and registers it, as that page says."""

import re
from pathlib import Path
from typing import Any

NAME = "lrfu"


def register(page: Path) -> type[Any]:
    """Return the page's policy, which can then be chosen by ``NAME``."""
    from vllm.v1.core import eviction

    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    namespace: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), namespace)
    policy: type[Any] = namespace["LRFUPolicy"]
    eviction.POLICIES[NAME] = policy
    return policy
