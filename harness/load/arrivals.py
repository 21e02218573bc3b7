"""When the requests of an open loop are due: worked out before the first is sent."""

import numpy as np
import numpy.typing as npt

from harness.cell import OpenLoop
from harness.errors import HarnessError
from workloads.file import Workload

_NS = 1e9


def offsets_ns(load: OpenLoop, workload: Workload, seed: int) -> npt.NDArray[np.int64]:
    """Return when each request is due, in ns after the first, ascending; shape (requests,).

    Times between arrivals are exponential (``poisson``), all the same (``constant``), gamma with
    shape ``burstiness`` and the same mean (``gamma``, as in ``vllm bench serve``), or the
    workload's own divided by ``speed`` (``trace``). All but the last are stretched so that their
    mean is exactly that of the rate, also as in ``vllm bench serve``: of a few bursty requests the
    drawn mean is off by tens of percent, and so would be the load. A cell's seed alone decides the
    draws, so that all policies get the same, and another rate only stretches them.

    Raises:
        HarnessError: if ``trace`` is asked for and the workload has no times.

    """
    count = len(workload.requests)
    if load.arrivals == "trace":
        times = [request.arrival_ms for request in workload.requests]
        if None in times:
            raise HarnessError(
                f"workload {workload.header.name} has no arrival times: choose another `arrivals` "
                "than trace"
            )
        recorded = np.asarray(times, dtype=np.float64)
        return _whole_ns((recorded - recorded[0]) * 1e6 / (load.speed or 1.0))
    rng = np.random.default_rng([seed, 0xA1])
    if load.arrivals == "constant":
        gaps = np.ones(count - 1)
    else:
        shape = load.burstiness or 1.0
        gaps = rng.gamma(shape, 1 / shape, count - 1)
        # Of an extreme shape, all may be too small for a float.
        gaps *= len(gaps) / (gaps.sum() or 1.0)
    assert load.request_rate is not None
    return _whole_ns(np.concatenate([[0.0], np.cumsum(gaps)]) * _NS / load.request_rate)


def _whole_ns(times: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return times.round().astype(np.int64)
