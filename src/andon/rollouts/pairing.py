"""A shadow beside production: the same requests, answered by both, compared one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from andon.core.verdicts import Evidence, Interval, Verdict
from andon.releases import PRODUCTION
from andon.rollouts.analysis import PairedBlock, start, update_pairs
from andon.rollouts.gathering import BACK_US, LATE_US, Memory, Pairs, Told, failed, mean_losses
from andon.rollouts.policies import RolloutPolicy
from andon.rollouts.records import LATEST, Rollout
from andon.rollouts.strategies import duration_us
from andon.store import Store
from andon.telemetry.exposed import SHADOW, mirrored

GRID = (0.0, 1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Relative differences: bin k holds those in ``(GRID[k-1], GRID[k]]``, the first what is equal, the last all that is larger."""
SAME = 1e-6
"""Numbers that differ by less, relative to production's, are the same answer: two runtimes need not agree on the last bits."""


def gather_pairs(store: Store, state: Rollout, memory: Memory, policy: RolloutPolicy, told: Told, now_us: int) -> Memory:
    """The memory after every pair that can be known by now. When production changes (a new stage), the comparison begins again."""
    back = memory.pairs.until_us - now_us > BACK_US  # the clock was put back
    fresh = back or memory.pairs.stage != state.stage
    pairs = Pairs(stage=state.stage, until_us=now_us if back else state.started_us) if fresh else memory.pairs
    analysis = None if fresh else memory.analysis
    until_us = now_us - LATE_US - duration_us(policy.settle, "settle")
    if until_us <= pairs.until_us:
        return msgspec.structs.replace(memory, pairs=pairs, analysis=analysis) if back else memory
    if fresh:
        memory = msgspec.structs.replace(memory, analysis=None, matured_us={})
    rows = mirrored(store, state.service, state.id, state.stage, pairs.until_us, until_us, told.output)
    if not rows.num_rows:
        return _mature_pairs(store, state, memory, policy, told, until_us)
    bad = _pair(rows, "status", lambda status: float(failed(status)))
    latency = np.where(bad > 0, np.inf, _pair(rows, "latency_ms", float))
    said = _pair(rows, "said", _number)
    block = PairedBlock(at_us=rows.column("arrival_us").to_numpy(), error=bad, latency_ms=latency, score=np.where(bad > 0, np.nan, said))
    analysis = update_pairs(analysis or start(policy.analysis), block, policy.analysis)
    pairs = _compare(msgspec.structs.replace(pairs, until_us=until_us, n=pairs.n + rows.num_rows), rows)
    latest = (memory.latest + "".join("x" if one else "." for one in bad[:, 1]))[-LATEST:]
    memory = msgspec.structs.replace(memory, analysis=analysis, pairs=pairs, latest=latest)
    return _mature_pairs(store, state, memory, policy, told, until_us)


def _mature_pairs(store: Store, state: Rollout, memory: Memory, policy: RolloutPolicy, told: Told, until_us: int) -> Memory:
    """The losses of pairs whose time for labels is over, each under both releases: the same requests, so the same truth."""
    analysis, matured = memory.analysis, dict(memory.matured_us)
    for metric in policy.analysis.metrics:
        since_us, to_us = matured.get(metric.name, state.started_us), until_us - policy.delay_us(metric.name)
        if analysis is None or told.output is None or not policy.metric_is_loss(metric.name) or to_us <= since_us:
            continue  # an outcome is of users, who never saw the shadow
        matured[metric.name] = to_us
        rows = mirrored(store, state.service, state.id, state.stage, since_us, to_us, told.output)
        if not rows.num_rows:
            continue
        found = mean_losses(store, state.service, rows, told.output, metric.name, policy.delay_us(metric.name))
        ids = rows.column("request_id").to_pylist()
        values = np.array([[found.get((one, PRODUCTION), math.nan), found.get((one, SHADOW), math.nan)] for one in ids])
        block = PairedBlock(at_us=rows.column("arrival_us").to_numpy(), metrics={metric.name: values})
        analysis = update_pairs(analysis, block, policy.analysis, again=True)
    return msgspec.structs.replace(memory, analysis=analysis, matured_us=matured)


def agreement(pairs: Pairs, policy: RolloutPolicy) -> tuple[Verdict, ...]:
    """How often the shadow said the same, and by how much it differed: a measurement to read, not a guard, and so never a failure."""
    if not pairs.n:
        return ()
    low, high = share_interval(pairs.agreed, pairs.compared, 0.05)
    rows = tuple((_bin(k), count) for k, count in enumerate(pairs.differences) if count)
    enough = pairs.compared >= policy.analysis.min_units
    told = f"the same answer to {pairs.agreed:,} of {pairs.compared:,} requests"
    return (
        Verdict(
            subject="",
            check="agreement",
            status="pass" if enough else "undecided",
            message=told if enough else f"{told}; {policy.analysis.min_units:,} are needed",
            value=pairs.agreed / pairs.compared if pairs.compared else None,
            unit="share of requests",
            interval=Interval(low, high, 0.95),
            n=pairs.compared,
            evidence=(Evidence("How far from production's answer, relative to it", ("difference", "requests"), rows),),
        ),
    )


def share_interval(hits: int, n: int, alpha: float) -> tuple[float, float]:
    """A share's confidence sequence, right at every look: the normal mixture for means of [0, 1] (1/2-sub-Gaussian), tuned for n = 500.

    Robbins (1970); Howard, Ramdas, McAuliffe & Sekhon (Annals of Statistics 2021), eq. 14, with rho = 100.

    >>> low, high = share_interval(90, 100, 0.05)
    >>> 0.6 < low < 0.9 < high <= 1.0
    True
    """
    if not n:
        return 0.0, 1.0
    rho = 100.0
    half = 0.5 * math.sqrt((n + rho) * math.log((n + rho) / (rho * alpha * alpha))) / n
    return max(0.0, hits / n - half), min(1.0, hits / n + half)


def _compare(pairs: Pairs, rows: Any) -> Pairs:
    counts = list(pairs.differences) or [0] * (len(GRID) + 1)
    compared, agreed = pairs.compared, pairs.agreed
    for ours, theirs in zip(rows.column("said").to_pylist(), rows.column("shadow_said").to_pylist(), strict=True):
        if ours is None or theirs is None:
            continue
        compared += 1
        a, b = _number(ours), _number(theirs)
        if math.isnan(a) or math.isnan(b):
            agreed += ours == theirs
            continue
        apart = abs(b - a) / max(abs(a), 1e-12) if a != b else 0.0
        agreed += apart <= SAME
        counts[int(np.searchsorted(GRID, apart))] += 1
    return msgspec.structs.replace(pairs, compared=compared, agreed=agreed, differences=tuple(counts))


def _pair(rows: Any, name: str, read: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    columns: Sequence[Sequence[Any]] = (rows.column(name).to_pylist(), rows.column(f"shadow_{name}").to_pylist())
    return np.array([[read(value) for value in column] for column in columns], dtype=np.float64).T


def _number(text: str | None) -> float:
    """The number of a text; NaN when it is none."""
    try:
        return math.nan if text is None else float({"true": "1", "false": "0"}.get(text, text))
    except ValueError:
        return math.nan


def _bin(k: int) -> str:
    if k == 0:
        return "none"
    return f"up to {GRID[k]:g}" if k < len(GRID) else f"above {GRID[-1]:g}"
