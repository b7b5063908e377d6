"""Ways in which a release can be bad, as what it does to a batch of requests that were sound. Used by ``strategies.py``.

The service answers in about 10 ms (lognormal, sigma 0.4), fails once in 200 requests, and is off by 6.4 on average (normal, sigma 8, around
predictions that are normal, 100 and 10). Of its users 30 % book. An answer costs 1 on average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = Any
FAILS, BOOKS, NOISE = 0.005, 0.3, 8.0
LATENCY_MS, SPREAD = 10.0, 0.4
P99_MS = LATENCY_MS * float(np.exp(2.3263 * SPREAD))
TIMEOUT_MS = 10_000.0
NOVEL_S = 600.0
WRONG_ROWS = 0.097
"""Of so many answers another row's takes the place: the mean absolute error is then 10 % higher, and the answers' distribution the same."""


@dataclass
class Batch:
    """Requests of one arm and what is done with them; columns of length n."""

    rng: np.random.Generator
    since_s: Array
    """Seconds since the candidate was first shown to anybody, or was first sent a copy."""
    signal: Array
    user: Array
    rare: Array
    share: float
    """Of the service's load, what the release carries: 0 to 1."""
    asked: int
    """How many requests it has had before these."""
    status: Array = field(init=False)
    latency_ms: Array = field(init=False)
    value: Array = field(init=False)
    books: Array = field(init=False)
    cost: Array = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.signal)
        self.status = np.where(self.rng.random(n) < FAILS, "model-failed", "ok").astype(object)
        self.latency_ms = LATENCY_MS * np.exp(self.rng.normal(0.0, SPREAD, n))
        self.value = self.signal.copy()
        self.books = np.full(n, BOOKS)
        self.cost = self.rng.gamma(4.0, 0.25, n)

    def fail(self, which: Array, status: str = "model-failed") -> None:
        """These requests get no answer."""
        self.status[which] = status


Fault = Callable[[Batch], None]


def nothing(batch: Batch) -> None:
    """It is identical."""


def fails(batch: Batch) -> None:
    batch.fail(batch.rng.random(len(batch.signal)) < 0.05)


def crashes(batch: Batch) -> None:
    batch.fail(batch.rng.random(len(batch.signal)) < 0.01, "runner-died")


def fails_a_slice(batch: Batch) -> None:
    """Half of the requests of the two users in a hundred who are in Portugal."""
    batch.fail((batch.user % 50 == 0) & (batch.rng.random(len(batch.signal)) < 0.5))


def slower(batch: Batch) -> None:
    batch.latency_ms *= 1.5


def slow_tail(batch: Batch) -> None:
    """The slowest fiftieth takes half as long again: the p99 grows by half, the p95 not at all."""
    p98 = LATENCY_MS * np.exp(2.0537 * SPREAD)
    batch.latency_ms = np.where(batch.latency_ms > p98, 1.5 * batch.latency_ms, batch.latency_ms)


def hangs(batch: Batch) -> None:
    """After 200 requests it never answers again; callers wait until their deadline."""
    hung = batch.asked + np.arange(len(batch.signal)) >= 200
    batch.fail(hung, "deadline-exceeded")
    batch.latency_ms = np.where(hung, TIMEOUT_MS, batch.latency_ms)


def shifted(batch: Batch) -> None:
    batch.value = batch.value + 5.0


def wrong_rows(batch: Batch) -> None:
    other = batch.rng.normal(100.0, 10.0, len(batch.signal))
    batch.value = np.where(batch.rng.random(len(batch.signal)) < WRONG_ROWS, other, batch.value)


def sells_less(batch: Batch) -> None:
    batch.books = batch.books * 0.95


def dear(batch: Batch) -> None:
    batch.cost = batch.cost * 2.0


def slow_at_full_load(batch: Batch) -> None:
    """Up to half of the load nothing is to be seen; above, up to three times slower."""
    batch.latency_ms *= 1.0 + 4.0 * max(0.0, batch.share - 0.5)


def novelty(batch: Batch) -> None:
    batch.books = batch.books * np.where(batch.since_s < NOVEL_S, 1.1, 0.9)


def fails_when_rare(batch: Batch) -> None:
    batch.fail(batch.rare)


FAULTS: dict[str, Fault] = {
    "cannot be loaded": nothing,  # it never answers: see Service.loads
    "fails on 5 % of requests": fails,
    "crashes on 1 % of requests": crashes,
    "fails half of 2 % of the users": fails_a_slice,
    "hangs after 200 requests": hangs,
    "all answers 50 % slower": slower,
    "p99 +50 %, p95 the same": slow_tail,
    "p99 +50 %, a threshold declared": slow_tail,
    "answers shifted by half a sigma": shifted,
    "10 % larger error, same distribution": wrong_rows,
    "business metric -5 %, nothing else": sells_less,
    "costs twice as much": dear,
    "slow above half of the load": slow_at_full_load,
    "better for 10 minutes, then worse": novelty,
    "fails on a request that comes once a day": fails_when_rare,
    "identical (a false alarm if caught)": nothing,
}
