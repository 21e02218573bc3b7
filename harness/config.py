"""The science of a run: which model, which workloads, which cells. Nothing about machines.

A config is one YAML file (``config/*.yaml``), checked whole before anything runs.
``harness config schema`` prints its JSON schema.
"""

from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from harness import model as models
from harness.cell import CellSpec, EngineName, Policy, Tier
from harness.errors import HarnessError
from workloads.docqa import DocQA

CPU_BLOCK_SIZE_STEP = 32


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Section):
    """What the engine serves."""

    source: str = Field(
        models.TINY_QWEN3,
        description=f"`{models.TINY_QWEN3}` (made by rule), a local folder, or a hub id",
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"


class Engine(_Section):
    """How every engine of this run is set."""

    block_size: PositiveInt = Field(description="tokens in one KV-cache block")
    threads: PositiveInt | None = Field(
        None, description="threads of an engine on the CPU; without, as many as it likes"
    )


class Experiment(_Section):
    """A grid of cells: the product of its lists."""

    workload: str
    engine: EngineName = "vllm"
    policies: Annotated[tuple[Policy, ...], Field(min_length=1)]
    cache_tokens: Annotated[
        tuple[PositiveInt, ...],
        Field(min_length=1, description="cache sizes in tokens at the paper's scale"),
    ]
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1,)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (42,)

    @model_validator(mode="after")
    def _stock_is_lru(self) -> "Experiment":
        if self.engine == "vllm-stock" and self.policies != ("lru",):
            raise ValueError(
                f"engine vllm-stock has no policies to choose from but lru, not {self.policies}"
            )
        return self


class Config(_Section):
    """One run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="results go to results/<name>")
    tier: Tier
    model: Model = Model()
    engine: Engine
    workloads: dict[str, DocQA]
    experiments: dict[str, Experiment]

    @field_validator("experiments")
    @classmethod
    def _not_empty(cls, experiments: dict[str, Experiment]) -> dict[str, Experiment]:
        if not experiments:
            raise ValueError("at least one experiment is needed")
        return experiments

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.tier == "cpu" and self.engine.block_size % CPU_BLOCK_SIZE_STEP:
            raise ValueError(
                f"engine.block_size: {self.engine.block_size}: attention on the CPU takes "
                f"multiples of {CPU_BLOCK_SIZE_STEP}"
            )
        for name, experiment in self.experiments.items():
            where = f"experiments.{name}"
            if experiment.workload not in self.workloads:
                raise ValueError(
                    f"{where}.workload: {experiment.workload!r} is none of the workloads of this "
                    f"config ({', '.join(self.workloads)})"
                )
            longest = self.workloads[experiment.workload].length_max
            if min(experiment.cache_tokens) < longest:
                raise ValueError(
                    f"{where}.cache_tokens: {min(experiment.cache_tokens)} tokens are less than "
                    f"one request of {experiment.workload} can need ({longest}, its length_max)"
                )
        return self

    @property
    def cells(self) -> dict[str, CellSpec]:
        """Every cell of this run by its id, each once, in the order of the experiments."""
        cells = (
            CellSpec(
                tier=self.tier,
                engine=experiment.engine,
                policy=policy,
                workload=experiment.workload,
                batch_size=batch_size,
                cache_blocks=round(
                    cache_tokens
                    * self.workloads[experiment.workload].scale
                    / self.engine.block_size
                ),
                block_size=self.engine.block_size,
                threads=self.engine.threads,
                seed=seed,
                model=self.model.source,
                dtype=self.model.dtype,
            )
            for experiment in self.experiments.values()
            for cache_tokens, seed, batch_size, policy in product(
                experiment.cache_tokens,
                experiment.seeds,
                experiment.batch_sizes,
                experiment.policies,
            )
        )
        return {cell.id: cell for cell in cells}


def load(path: Path) -> Config:
    """Read and check a config file, and that the model and corpora it names are there.

    Raises:
        HarnessError: naming the file, the key, what was given and what is allowed.

    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{path}: no such config: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise HarnessError(f"{path}: not YAML: {error}") from None
    return parse(content, str(path))


def parse(content: object, origin: str) -> Config:
    """Check the content of a config file; see ``load``."""
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(problem)}" for problem in error.errors())
        raise HarnessError(f"{origin}: not a valid config:\n{problems}") from None
    models.check(config.model.source)
    for name, workload in config.workloads.items():
        if workload.corpus != "synthetic" and not Path(workload.corpus).is_file():
            raise HarnessError(
                f"{origin}: workloads.{name}.corpus: no such file: {workload.corpus}"
            )
    return config


def _describe(problem: object) -> str:
    assert isinstance(problem, dict)
    message = str(problem["msg"]).removeprefix("Value error, ")
    where = ".".join(map(str, problem["loc"]))
    if not where:
        return message
    if problem["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {message}, not {problem['input']!r}"
