"""The science of a run: which model, which workloads, which cells. Nothing about machines.

A config is one YAML file (``config/*.yaml``), checked whole before anything runs.
``harness config schema`` prints its JSON schema.
"""

from collections.abc import Collection
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from harness import configfile, patching
from harness import model as models
from harness.cell import Batch, CellSpec, Load, Tier
from harness.engines.base import Kind
from harness.engines.registry import ENGINES
from harness.errors import HarnessError
from harness.policies import POLICIES, variant
from workloads import datasets
from workloads.docqa import SYNTHETIC, DocQA
from workloads.file import WorkloadError
from workloads.formats.log import refuse_lengths
from workloads.formats.registry import FORMATS, recognise
from workloads.sequence import Sequence
from workloads.sharegpt import ShareGPT
from workloads.trace import Trace

CPU_BLOCK_SIZE_STEP = 32
MOST_CACHE_TOKENS = 100_000_000
"""More than the GPUs of a large server hold; a replay has an object for each block of them."""


def _one_of(names: Collection[str]) -> Any:
    """Return the type of a name that is one of some."""
    *others, last = map(repr, names)

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"Input should be {', '.join(others)} or {last}")
        return name

    return Annotated[str, AfterValidator(check), WithJsonSchema({"enum": list(names)})]


if TYPE_CHECKING:
    EngineName: TypeAlias = str
    PolicyName: TypeAlias = str
else:
    EngineName, PolicyName = _one_of(ENGINES), _one_of(POLICIES)
# As in the policy's file (patches/*/); there is no such thing to look up before it is built.
ConstantName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
Constant = NonNegativeFloat | Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)]
WorkloadName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TierSettings(_Section):
    """How every engine of a tier is set, and how much of the paper's size it carries."""

    model: str = Field(
        models.TINY_QWEN3,
        description=f"`{models.TINY_QWEN3}` (made by rule), a local folder, or a hub id; replay "
        "uses its tokenizer only",
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    block_size: PositiveInt = Field(le=65_536, description="tokens in one KV-cache block")
    threads: PositiveInt | None = Field(
        None, le=4096, description="threads of an engine on the CPU; without, as many as it likes"
    )
    scale: float = Field(
        1.0,
        gt=0,
        le=1,
        description="shrinks doc-QA's documents and cache alike, so that their ratio stays",
    )
    requests: PositiveInt | None = Field(
        None, description="only so many of a workload's requests are sent; without, all"
    )
    take_turns: bool = Field(
        False,
        description="cells that differ in policy, engine or repeat only (open loops with "
        "`turn_requests`: or in their rate) are measured in turns, batch by batch, so that a "
        "machine whose speed drifts does so for all of them; their engines run side by side and "
        "need memory for all",
    )


class Experiment(_Section):
    """A grid of cells: the product of its lists."""

    tier: Tier
    workload: str
    engine: EngineName | None = Field(
        None, description="without: `replay` in the tier of that name, else `vllm`"
    )
    policies: Annotated[tuple[PolicyName, ...], Field(min_length=1)]
    cache_tokens: Annotated[
        tuple[Annotated[PositiveInt, Field(le=MOST_CACHE_TOKENS)], ...],
        Field(min_length=1, description="cache sizes in tokens at the paper's scale"),
    ]
    loads: Annotated[tuple[Load, ...], Field(min_length=1)] = (Batch(batch_size=1),)
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (42,)
    repeats: PositiveInt = Field(
        1,
        le=1000,
        description="how often each cell is measured; what the times of equal cells differ by is "
        "noise (A/A)",
    )
    sweep: dict[PolicyName, dict[ConstantName, tuple[Constant, ...]]] = Field(
        {},
        description="other values of constants of policies, each of them a policy more; of tier "
        "replay",
    )

    @property
    def all_policies(self) -> list[str]:
        """The policies and their variants."""
        return [
            *self.policies,
            *(
                variant(policy, constant, value if isinstance(value, tuple) else (value,))
                for policy, constants in self.sweep.items()
                for constant, values in constants.items()
                for value in values
            ),
        ]

    @property
    def engine_name(self) -> str:
        """The engine, named or by the tier."""
        return self.engine or ("replay" if self.tier == "replay" else "vllm")

    @model_validator(mode="after")
    def _engine_fits(self) -> "Experiment":
        kind = ENGINES[self.engine_name]
        if others := [policy for policy in self.policies if policy not in kind.policies]:
            raise ValueError(
                f"engine {kind.name} has no policy {others[0]}, only {', '.join(kind.policies)}"
            )
        if self.tier not in kind.tiers:
            raise ValueError(f"engine {kind.name} does not run in tier {self.tier}")
        modes = {load.mode for load in self.loads}
        if self.tier == "replay" and not modes <= {"batch", "fleet"}:
            raise ValueError(
                "tier replay has no clock and no server: its only modes are batch and fleet"
            )
        if self.tier != "replay" and "fleet" in modes:
            raise ValueError("a fleet is of tier replay: one machine has no more than one engine")
        if kind.name == "sglang-replay" and any(load != Batch(batch_size=1) for load in self.loads):
            raise ValueError("engine sglang-replay replays one request at a time: batch_size 1")
        if self.sweep and self.engine_name != "replay":
            raise ValueError(f"engine {kind.name} takes no sweep: replay does, in its own tier")
        if self.tier == "replay" and self.repeats > 1:
            raise ValueError("tier replay has no clock, so nothing differs in repeats")
        return self


WorkloadParams = Annotated[DocQA | Trace | ShareGPT | Sequence, Field(discriminator="kind")]


class Study(_Section):
    """What one traffic's owner wants to know: which policy, at which cache (``harness study``).

    ``base_ms`` and ``ms_per_token`` are a line that predicts TTFT: ms of a request whose every
    token is cached, and more for each that is not.
    """

    cache_tokens: PositiveInt = Field(description="the cache size asked about, in tokens")
    model: str = Field(description="whose KV cache sizes are said in GiB")
    kv_bytes_per_token: PositiveFloat
    base_ms: NonNegativeFloat
    ms_per_token: PositiveFloat
    ttft_from: str = Field(description="where the line is from")

    def gib(self, tokens: float) -> float:
        """Return how large a KV cache of so many tokens is, in GiB."""
        return tokens * self.kv_bytes_per_token / 2**30


class Map(_Section):
    """That a config is a map of where policies help, over its workloads of one kind each."""

    full_size: tuple[WorkloadName, ...] = Field(
        (), description="workloads that say what making the others smaller changes"
    )


class Config(_Section):
    """One run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="results go to results/<name>")
    vllm: str | None = Field(
        None,
        description="version of the patched engine, of those in patches/vllm; without, the "
        "installed one",
    )
    tiers: dict[Tier, TierSettings]
    workloads: dict[WorkloadName, WorkloadParams]
    experiments: dict[str, Experiment]
    rivals: tuple[WorkloadName, ...] = Field(
        (),
        description="workloads on which, where they are replayed, policies that others propose are "
        "replayed, too",
    )
    map: Map | None = Field(
        None, description="of a config whose cells make one map: it has no other figure, no bounds"
    )
    study: Study | None = Field(
        None, description="of a config that `harness study` wrote, which has one workload"
    )

    @field_validator("experiments")
    @classmethod
    def _not_empty(cls, experiments: dict[str, Experiment]) -> dict[str, Experiment]:
        if not experiments:
            raise ValueError("at least one experiment is needed")
        return experiments

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        cpu = self.tiers.get("cpu")
        if cpu and cpu.block_size % CPU_BLOCK_SIZE_STEP:
            raise ValueError(
                f"tiers.cpu.block_size: {cpu.block_size}: attention on the CPU takes "
                f"multiples of {CPU_BLOCK_SIZE_STEP}"
            )
        if self.vllm and any(
            not ENGINES[e.engine_name].is_patched for e in self.experiments.values()
        ):
            raise ValueError(
                "vllm: engine vllm-stock is the installed package: leave out one of both"
            )
        if "replay" in self.tiers and self.tiers["replay"].take_turns:
            raise ValueError("tiers.replay.take_turns: tier replay has no clock")
        for name, experiment in self.experiments.items():
            self._check_experiment(f"experiments.{name}", experiment)
        named = {"rivals": self.rivals, "map.full_size": self.map.full_size if self.map else ()}
        for key, names in named.items():
            if others := [name for name in names if name not in self.workloads]:
                raise ValueError(
                    f"{key}: {others[0]!r} is none of the workloads of this config "
                    f"({', '.join(self.workloads)})"
                )
        self.cells  # noqa: B018 (whether their names are their own)
        if self.study and len(self.replayed) != 1:
            raise ValueError("study: is of one workload of tier replay, and one seed")
        return self

    def _check_experiment(self, where: str, experiment: Experiment) -> None:
        if experiment.workload not in self.workloads:
            raise ValueError(
                f"{where}.workload: {experiment.workload!r} is none of the workloads of this "
                f"config ({', '.join(self.workloads)})"
            )
        if experiment.tier not in self.tiers:
            raise ValueError(
                f"{where}.tier: {experiment.tier!r} is none of the tiers of this config "
                f"({', '.join(self.tiers)})"
            )
        workload = self.workloads[experiment.workload]
        if workload.length_max and min(experiment.cache_tokens) < workload.length_max:
            raise ValueError(
                f"{where}.cache_tokens: {min(experiment.cache_tokens)} tokens are less than "
                f"one request of {experiment.workload} can need ({workload.length_max}, its "
                "length_max)"
            )

    def scale(self, tier: Tier, workload: str) -> float:
        """Return how much smaller than the paper's a workload and its caches are in a tier."""
        # Real requests are as long as they are.
        is_made_up = isinstance(self.workloads[workload], DocQA)
        return self.tiers[tier].scale if is_made_up else 1.0

    @property
    def cells(self) -> dict[str, CellSpec]:
        """Every cell of this run by its id, each once, in the order of the experiments."""
        cells = (
            CellSpec(
                tier=experiment.tier,
                engine=experiment.engine_name,
                policy=policy,
                workload=experiment.workload,
                load=load,
                cache_blocks=round(cache_tokens * scale / settings.block_size),
                block_size=settings.block_size,
                threads=settings.threads,
                seed=seed,
                model=settings.model,
                dtype=settings.dtype,
                scale=scale,
                repeat=repeat,
            )
            for experiment in self.experiments.values()
            for settings in (self.tiers[experiment.tier],)
            for scale in (self.scale(experiment.tier, experiment.workload),)
            for cache_tokens, seed, load, policy, repeat in product(
                experiment.cache_tokens,
                experiment.seeds,
                experiment.loads,
                experiment.all_policies,
                range(experiment.repeats),
            )
        )
        named: dict[str, CellSpec] = {}
        for cell in cells:
            if named.setdefault(cell.id, cell) != cell:
                raise ValueError(f"two different cells would be called {cell.id}")
        return named

    @property
    def groups(self) -> dict[str, dict[str, CellSpec]]:
        """The cells that one job measures, by the name of its folder and of theirs inside it."""
        groups: dict[str, dict[str, CellSpec]] = {}
        for name, cell in self.cells.items():
            if cell.tier == "replay":
                group = replay_group(cell.workload, cell.seed)
                groups.setdefault(group + _of_package(cell), {})[name] = cell
            elif self.tiers[cell.tier].take_turns:
                groups.setdefault(cell.ring + _of_package(cell), {})[name] = cell
            else:
                groups[name] = {".": cell}
        return groups

    @property
    def replayed(self) -> dict[tuple[str, int], list[int]]:
        """The cache sizes of one engine, in blocks, of each workload of tier replay and each of
        its seeds.
        """
        sizes: dict[tuple[str, int], set[int]] = {}
        for cell in self.cells.values():
            if cell.tier == "replay" and cell.load.mode == "batch":
                sizes.setdefault((cell.workload, cell.seed), set()).add(cell.cache_blocks)
        return {key: sorted(of_key) for key, of_key in sizes.items()}

    @property
    def swept(self) -> list[str]:
        """The workloads of which variants of policies are replayed."""
        return list({e.workload: None for e in self.experiments.values() if e.sweep})

    @property
    def kinds(self) -> list[Kind]:
        """The engines of this run."""
        return [ENGINES[name] for name in {cell.engine: None for cell in self.cells.values()}]

    @property
    def patched_packages(self) -> list[str]:
        """The packages, of those installed, of which cells are on a patched engine."""
        patched = (kind for kind in self.kinds if kind.is_patched and kind.is_installed)
        return list(dict.fromkeys(kind.package for kind in patched))


def _of_package(cell: CellSpec) -> str:
    """Return how the name of a group of cells that share the engines' package ends."""
    package = ENGINES[cell.engine].package
    return "" if package == "vllm" else f"-{package}"


def replay_group(workload: str, seed: int) -> str:
    """Return how the name of a group of replayed cells of a workload and seed begins."""
    return f"replay-{workload}-s{seed}"


def load(path: Path) -> Config:
    """Read and check a config file, and that the model and corpora it names are there.

    Raises:
        HarnessError: naming the file, the key, what was given and what is allowed.

    """
    return parse(configfile.read(path), str(path))


def parse(content: object, origin: str) -> Config:
    """Check the content of a config file; see ``load``."""
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        found = "\n  ".join(configfile.problems(Config, error))
        raise HarnessError(f"{origin}: not a valid config:\n  {found}") from None
    if config.vllm is not None:
        try:
            patching.find_series(config.vllm)
        except HarnessError as error:
            raise HarnessError(f"{origin}: vllm: {error}") from None
    for tier, settings in config.tiers.items():
        models.check(settings.model, f"{origin}: tiers.{tier}.model")
    for name, workload in config.workloads.items():
        _check_source(f"{origin}: workloads.{name}", workload)
    return config


def _check_source(where: str, workload: WorkloadParams) -> None:
    if isinstance(workload, Sequence):
        for part, own in workload.parts.items():
            _check_source(f"{where}.parts.{part}", own)
        return
    known = datasets.cards()
    named: dict[str, str | None]
    if isinstance(workload, DocQA):
        named = {"corpus": workload.corpus} if workload.corpus != SYNTHETIC else {}
    elif isinstance(workload, Trace):
        named = {"dataset": workload.dataset, "path": workload.path, "times": workload.times}
    else:
        named = {"path": workload.path}
    for key, name in named.items():
        if name is None:
            continue
        if set("{}") & set(name):
            raise HarnessError(
                f"{where}.{key}: {name}: braces in a path mean something else to Snakemake: rename "
                "it, or give a link to it"
            )
        if Path(name).is_file():
            if isinstance(workload, Trace) and key != "times":
                _check_log(f"{where}.{key}", workload, Path(name))
        elif key in ("path", "times"):
            raise HarnessError(f"{where}.{key}: no such file: {name}, seen from {Path.cwd()}")
        elif name not in known:
            raise HarnessError(
                f"{where}.{key}: no such file or data set: {name}; the data sets are "
                f"{', '.join(known)}"
            )


def _check_log(where: str, params: Trace, path: Path) -> None:
    try:
        refuse_lengths(path, FORMATS[params.format] if params.format else recognise(path))
    except WorkloadError as error:
        raise HarnessError(f"{where}: {error}") from None
