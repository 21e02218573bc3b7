import numpy as np
import numpy.typing as npt
import pytest

from harness.cell import OpenLoop
from harness.errors import HarnessError
from harness.load.arrivals import offsets_ns
from workloads.file import Header, TextRequest, TextWorkload

_COUNT = 20_000


def _workload(count: int = _COUNT, times_ms: list[float] | None = None) -> TextWorkload:
    requests = tuple(
        TextRequest(
            request=i,
            arrival_ms=times_ms[i] if times_ms else None,
            prompt_tokens=5,
            output_tokens=1,
            parts=("a",),
        )
        for i in range(count)
    )
    header = Header(content="text", name="w", seed=1, texts=1, requests=count, params={})
    return TextWorkload(header, requests, {"a": "b"})


_LONG = _workload()


def _offsets(seed: int = 1, rate: float = 8.0, **load: object) -> npt.NDArray[np.int64]:
    given = {"mode": "open-loop", "request_rate": rate} | load
    return offsets_ns(OpenLoop.model_validate(given), _LONG, seed)


_PROCESSES: list[dict[str, object]] = [
    {"arrivals": "constant"},
    {"arrivals": "poisson"},
    {"arrivals": "gamma", "burstiness": 0.25},
    {"arrivals": "gamma", "burstiness": 4.0},
]


@pytest.mark.parametrize("load", _PROCESSES)
def test_same_seed_same_offsets(load: dict[str, object]) -> None:
    offsets = _offsets(**load)
    assert (offsets == _offsets(**load)).all()
    assert (offsets == _offsets(seed=2, **load)).all() == (load["arrivals"] == "constant")
    assert offsets.shape == (_COUNT,)
    assert offsets[0] == 0
    assert (np.diff(offsets) >= 0).all()


@pytest.mark.parametrize(
    ("load", "variation"),
    # Of a gamma distribution the coefficient of variation is 1 / sqrt(shape).
    list(zip(_PROCESSES, [0.0, 1.0, 2.0, 0.5], strict=True)),
)
@pytest.mark.parametrize("seed", range(3))
def test_mean_rate_and_variation(load: dict[str, object], variation: float, seed: int) -> None:
    gaps = np.diff(_offsets(seed=seed, **load)) / 1e9
    assert np.mean(gaps) * 8 == pytest.approx(1, abs=1e-9)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(variation, rel=0.08, abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("load", _PROCESSES)
def test_few_requests_have_the_rate_that_was_asked_for(load: dict[str, object], seed: int) -> None:
    few = OpenLoop.model_validate({"mode": "open-loop", "request_rate": 10} | load)
    offsets = offsets_ns(few, _workload(128), seed)
    assert 127 * 1e9 / offsets[-1] == pytest.approx(10, rel=1e-9)


def test_gaps_too_short_for_a_float_are_none() -> None:
    extreme = OpenLoop(mode="open-loop", arrivals="gamma", request_rate=1, burstiness=1e-6)
    assert offsets_ns(extreme, _workload(2), seed=1).tolist() == [0, 0]


def test_poisson_gaps_have_no_memory() -> None:
    """Exponential: of the gaps that are longer than x, as many are longer than x more."""
    gaps = np.diff(_offsets(arrivals="poisson")) / 1e9 * 8
    for x in (0.5, 1.0, 2.0):
        assert np.mean(gaps > x) == pytest.approx(np.exp(-x), rel=0.1)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03


def test_gamma_of_shape_1_is_poisson() -> None:
    assert (_offsets(arrivals="gamma", burstiness=1.0) == _offsets(arrivals="poisson")).all()


@pytest.mark.parametrize("load", _PROCESSES)
def test_another_rate_only_stretches(load: dict[str, object]) -> None:
    slow, fast = _offsets(rate=2.0, **load), _offsets(rate=8.0, **load)
    assert np.abs(slow - 4 * fast).max() <= 4


def test_trace_keeps_its_own_times_and_is_as_fast_as_told() -> None:
    workload = _workload(3, [1000.0, 1000.5, 4000.0])
    trace = OpenLoop(mode="open-loop", arrivals="trace")
    assert offsets_ns(trace, workload, seed=1).tolist() == [0, 500_000, 3_000_000_000]
    faster = OpenLoop(mode="open-loop", arrivals="trace", speed=10)
    assert offsets_ns(faster, workload, seed=2).tolist() == [0, 50_000, 300_000_000]


def test_trace_of_a_workload_without_times_is_refused() -> None:
    with pytest.raises(HarnessError, match="workload w has no arrival times"):
        offsets_ns(OpenLoop(mode="open-loop", arrivals="trace"), _workload(2), seed=1)


@pytest.mark.parametrize("load", _PROCESSES)
def test_single_request_is_due_at_once(load: dict[str, object]) -> None:
    single = OpenLoop.model_validate({"mode": "open-loop", "request_rate": 1} | load)
    assert offsets_ns(single, _workload(1), seed=1).tolist() == [0]
