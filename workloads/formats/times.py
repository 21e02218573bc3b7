"""When the requests of a log come, also where it does not say."""

import math
import random
from array import array

import numpy as np
import numpy.typing as npt

from workloads.formats.log import NONE, Log


def arrivals(
    log: Log, arrival_rate: float, think_time_mean: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], list[str]]:
    """Return the requests in the order in which they come, their times, and notes.

    A log may have a time for each request; they come in that order. It may have the times of
    conversations' beginnings: each later turn comes after its own delay, or a made-up time to
    think. It may have none: conversations that it has one after the other, which they were not,
    begin at made-up times; all else comes in the order of the file, without times.

    Args:
        log: The log.
        arrival_rate: Conversations that begin in a second, on average (Poisson).
        think_time_mean: Mean time in seconds from a request to the next one of its conversation,
            exponentially distributed.
        seed: Of the times that are made up.

    Returns:
        Requests, shape (requests,); the time of each of the log's requests in ms from the first,
        shape (requests,), nan without times; notes.

    """
    times = np.array(log.times)
    notes: list[str] = []
    lacking = np.isnan(times)
    if lacking.all() and _one_after_the_other(log.sessions):
        notes.append(
            "no times in the log: they are made up, for conversations that begin at "
            f"{arrival_rate:g} a second; the seed decides them"
        )
        times = _made_up(log, arrival_rate, think_time_mean, seed)
    elif lacking.any() and not lacking.all():
        times = _made_up(log, None, think_time_mean, seed)
    if not lacking.all() and (np.isnan(times)).any():
        notes.append(
            f"requests without a time: {int(np.isnan(times).sum())}; so all come in the order of "
            "the file, without times"
        )
        times = np.full(len(log), math.nan)
    elif lacking.any() and not np.isnan(times).any():
        notes.append(
            "times of turns that the log does not have: each after its delay, or else after "
            f"{think_time_mean:g} s on average"
        )
    if np.isnan(times).any():
        return np.arange(len(log)), times, notes
    if not lacking.any() and (np.diff(times) < 0).any():
        notes.append("the file is not in the order of time: its requests were sorted")
    return np.argsort(times, kind="stable"), times - times.min(), notes


def _one_after_the_other(sessions: "array[int]") -> bool:
    """Whether there are sessions of several requests, and no request inside another's session."""
    numbers = np.array(sessions)
    if (numbers == NONE).any():
        return False
    beginnings = numbers[np.flatnonzero(np.diff(numbers, prepend=NONE))]
    different = len(np.unique(numbers))
    return len(beginnings) == different < len(numbers)


def _made_up(
    log: Log, arrival_rate: float | None, think_time_mean: float, seed: int
) -> npt.NDArray[np.float64]:
    """Return times, with those that are missing made up; without a rate, those of later turns."""
    beginnings = random.Random(f"{seed}/arrivals")
    thinking = random.Random(f"{seed}/think times")
    begins = 0.0
    latest: dict[int, float] = {}
    times = np.array(log.times)
    for i, session in enumerate(log.sessions):
        if math.isnan(times[i]):
            if session in latest:
                delay = log.delays[i]
                if math.isnan(delay):
                    delay = thinking.expovariate(1 / think_time_mean) * 1e3
                times[i] = latest[session] + delay
            elif arrival_rate is not None:
                begins += beginnings.expovariate(arrival_rate) * 1e3
                times[i] = begins
        if session != NONE:
            latest[session] = times[i]
    return times
