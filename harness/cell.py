"""What a cell is: one measurement, one fresh engine, one folder of results; and how it is loaded.

Pure data. A load has one class a mode, the same in configs, cells and summaries.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Tier = Literal["replay", "cpu", "gpu"]
Mode = Literal["batch", "batch-http", "fleet", "open-loop", "closed-loop"]


class _Load(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Batches(_Load):
    batch_size: PositiveInt = Field(
        le=65_536, description="requests sent together, the next ones after them"
    )

    @property
    def label(self) -> str:
        """How the names of cells say it."""
        return str(self.batch_size)


class Batch(_Batches):
    """Batches given to an engine in process, as the paper does."""

    mode: Literal["batch"] = "batch"


class BatchHTTP(_Batches):
    """Batches sent to a server."""

    mode: Literal["batch-http"]


class Fleet(_Batches):
    """Batches shared out among several engines in process, by a router."""

    mode: Literal["fleet"]
    batch_size: PositiveInt = Field(1, le=65_536, description="requests that come together")
    engines: PositiveInt = Field(le=1024, description="each with a cache of the cell's size")
    router: Literal["round-robin", "session", "prefix-aware", "cache-aware", "scored"] = Field(
        description="which engine gets a request: harness/engines/routers.py has the rules"
    )

    @property
    def label(self) -> str:
        """How the names of cells say it."""
        return f"{self.batch_size}-{self.router}-x{self.engines}"


class OpenLoop(_Load):
    """Requests sent to a server at their time, whatever it does."""

    mode: Literal["open-loop"]
    arrivals: Literal["poisson", "constant", "gamma", "trace"] = Field(
        "poisson", description="`trace`: at the workload's own times"
    )
    request_rate: PositiveFloat | None = Field(
        None, le=100_000, description="mean arrivals a second; of all but `trace`"
    )
    burstiness: PositiveFloat | None = Field(
        None,
        le=1e6,
        description="shape of the gamma distribution of the times between arrivals: below 1 is "
        "burstier than Poisson, whose shape is 1; of `gamma`",
    )
    speed: PositiveFloat | None = Field(
        None,
        le=1e6,
        description="how many times faster than recorded; of `trace`, where 1 is the default",
    )
    turn_requests: PositiveInt | None = Field(
        None,
        description="where cells take turns: requests sent in one, which starts with an idle "
        "server and ends with the last answer; by default, all",
    )
    processes: PositiveInt = Field(
        1, le=1024, description="of the client, where one core is not enough"
    )

    @model_validator(mode="after")
    def _fits_arrivals(self) -> "OpenLoop":
        needed = {"gamma": {"request_rate", "burstiness"}, "trace": set()}.get(
            self.arrivals, {"request_rate"}
        )
        allowed = needed | ({"speed"} if self.arrivals == "trace" else set())
        given = {
            name
            for name in ("request_rate", "burstiness", "speed")
            if getattr(self, name) is not None
        }
        if missing := needed - given:
            raise ValueError(f"arrivals {self.arrivals} need {' and '.join(sorted(missing))}")
        if foreign := given - allowed:
            raise ValueError(f"arrivals {self.arrivals} take no {' or '.join(sorted(foreign))}")
        return self

    @property
    def label(self) -> str:
        """How the names of cells say it."""
        if self.arrivals == "trace":
            return f"-trace-x{self.speed or 1:g}{self._turn}"
        return f"-{self._process}-r{self.request_rate:g}{self._turn}"

    @property
    def ring(self) -> str:
        """The label of what takes turns together: with turns of so many requests, all rates."""
        if self.arrivals == "trace" or self.turn_requests is None:
            return self.label
        return f"-{self._process}{self._turn}"

    @property
    def _process(self) -> str:
        return self.arrivals + ("" if self.burstiness is None else f"-b{self.burstiness:g}")

    @property
    def _turn(self) -> str:
        return "" if self.turn_requests is None else f"-n{self.turn_requests}"


class ClosedLoop(_Load):
    """Users who each wait for the answer, read it, think, and only then go on.

    Conversations are dealt out to the users in turn; of a workload without conversations, single
    requests are.
    """

    mode: Literal["closed-loop"]
    users: PositiveInt = Field(le=100_000, description="users at a time, to the last request")
    think_time_mean: PositiveFloat = Field(
        le=86_400,
        description="mean seconds from a reply that has been read to the next request; the "
        "exponentially distributed times are the same for every policy",
    )
    reading_speed: PositiveFloat | None = Field(
        None, le=1e6, description="tokens of a reply read a second; without, reading takes no time"
    )
    processes: PositiveInt = Field(
        1, le=1024, description="of the client, where one core is not enough; `users` is a multiple"
    )

    @model_validator(mode="after")
    def _users_split_evenly(self) -> "ClosedLoop":
        if self.users % self.processes:
            raise ValueError(f"users {self.users} is not a multiple of processes {self.processes}")
        return self

    @property
    def label(self) -> str:
        """How the names of cells say it."""
        return f"-u{self.users}-t{self.think_time_mean:g}"


Load = Annotated[Batch | BatchHTTP | Fleet | OpenLoop | ClosedLoop, Field(discriminator="mode")]


def columns(load: Load) -> dict[str, Any]:
    """Return what summaries and tables say of a load: its own keys, and None for the others'."""
    own = load.model_dump()
    return {key: own.get(key) for key in ("mode", "batch_size", "request_rate", "users")} | own


class CellSpec(BaseModel):
    """What one cell measures; equal specs are the same cell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tier: Tier
    engine: str
    policy: str
    workload: str
    load: Load
    cache_blocks: PositiveInt
    block_size: PositiveInt
    threads: PositiveInt | None = None
    seed: NonNegativeInt
    model: str
    dtype: str
    scale: float = 1.0
    # Of the same cell measured once more, for the noise.
    repeat: NonNegativeInt = 0

    @property
    def cache_tokens(self) -> int:
        """Size of the KV cache in tokens, exactly."""
        return self.cache_blocks * self.block_size

    @property
    def id(self) -> str:
        """The cell's name."""
        again = f"-again{self.repeat}" if self.repeat else ""
        return f"{self._named(self.load.label)}-{self.engine}-{self.policy}{again}"

    @property
    def ring(self) -> str:
        """Name of the group of cells that this one takes turns with."""
        load = self.load
        return self._named(load.ring if isinstance(load, OpenLoop) else load.label)

    def _named(self, load: str) -> str:
        return f"{self.workload}-{self.load.mode}{load}-{self.cache_tokens}-s{self.seed}"

    @property
    def summary(self) -> dict[str, Any]:
        """What a summary says of the cell itself."""
        return {
            "cell": self.id,
            **self.model_dump(exclude={"model", "load"}),
            **columns(self.load),
            "cache_tokens": self.cache_tokens,
        }
