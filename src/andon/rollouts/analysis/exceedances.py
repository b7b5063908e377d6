"""Latency and scores: how often values exceed thresholds, in two arms.

Thresholds are fixed beforehand, or they are quantiles of the 256 units before (both arms together), renewed every 256 units: a threshold
known before the unit comes keeps every bet fair, and follows the time of day. At each threshold

- **slower** is bet on as errors are (``odds.py``): given that a unit exceeds it, is it the candidate's more often than its chance? The
  wealth is the mean over thresholds and supposed ratios;
- **by how much** is measured as a difference of two rates (``differences.py``), whose confidence sequences bound the gap between the two
  distribution functions at every threshold at once when alpha is divided among them: the two-sample, fixed-grid form of the time-uniform
  Dvoretzky-Kiefer-Wolfowitz bound of Howard & Ramdas ("Sequential estimation of quantiles with applications to A/B testing and best-arm
  identification", Bernoulli 2022), which unlike theirs needs no identical distribution over time.

For the reader, the quantiles of the present stage with their confidence sequences are kept too (``quantiles.py``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from msgspec.structs import replace

from andon.rollouts.analysis import differences, odds
from andon.rollouts.analysis.quantiles import GRID
from andon.rollouts.analysis.records import Difference, Exceedances, Floats, Odds
from andon.rollouts.analysis.samples import Sample

RENEW = 256
_State = TypeVar("_State")
_UNTRAILED = Difference(stride=0)
_HUGE = 1e300  # JSON knows no infinity


def add_latencies(
    state: Exceedances,
    sample: Sample,
    *,
    levels: tuple[float, ...],
    fixed: tuple[float, ...] = (),
    tolerated_ratio: float = 1.0,
    slack: tuple[float, float] = (0.0, 0.0),
    margins: tuple[float, ...] | None = None,
) -> Exceedances:
    """Add units in order of exposure, ``inf`` for a failed one; looks for a candidate that is slower at any threshold.

    ``slack`` (a share, and an amount) is added to thresholds that are quantiles: they stay functions of the past alone.
    """
    whole = sample
    for rows in _parts(state, len(sample)):
        part, thresholds = whole.part(rows), fixed or state.thresholds
        if thresholds:
            above = [part.above(threshold) for threshold in thresholds]
            path = _slower_path(state.odds, above, tolerated_ratio)
            rates = [
                one.add(old, margin=margin)
                for (old, one), margin in zip(_with(state.rates, above, Difference()), margins or (None,) * len(above), strict=True)
            ]
            bets = tuple(_bet(old, one, tolerated_ratio) for old, one in _with(state.odds, above, Odds()))
            state = replace(_with_peak(state, path), odds=bets, rates=tuple(rates))
        state = _remember(state, part, levels, fixed, slack)
    return _counted(state, whole)


def add_scores(state: Exceedances, sample: Sample, *, levels: tuple[float, ...], tolerance: float) -> Exceedances:
    """Add units in order of exposure; looks for a gap between the distributions larger than ``tolerance``, up or down."""
    for rows in _parts(state, len(sample)):
        part = sample.part(rows)
        if state.thresholds:
            above = [part.above(threshold) for threshold in state.thresholds]
            logs = []
            for old, one in _with(state.rates, above, _UNTRAILED):
                excess, weight, variance = differences.paths(old, *one.steps(old))
                logs += [differences.log_evidence(sign * excess - tolerance * weight, variance) for sign in (1, -1)]
            state = _with_peak(state, odds.log_mean_exp(np.stack(logs, axis=1)))
            state = replace(state, rates=tuple(one.add(old) for old, one in _with(state.rates, above, _UNTRAILED)))
        state = _remember(state, part, levels, (), (0.0, 0.0))
    return state


def quantiles_of(values: Sequence[float] | Floats, levels: tuple[float, ...]) -> tuple[float, ...]:
    """Sample quantiles, each one of the values; what failed (infinite) counts as very large.

    >>> quantiles_of([1.0, 2.0, 3.0, float("inf")], (0.5, 0.95))
    (2.0, 1e+300)
    """
    ordered = np.minimum(np.sort(np.asarray(values, dtype=np.float64)), _HUGE).tolist()
    return tuple(ordered[min(len(ordered), max(1, math.ceil(level * len(ordered)))) - 1] for level in levels)


def _parts(state: Exceedances, n: int) -> list[slice]:
    """Cut n units where thresholds are renewed, so that blocks may be cut anywhere."""
    first = RENEW - state.n % RENEW
    return [slice(a, b) for a, b in itertools.pairwise([0, *range(first, n, RENEW), n]) if a < b]


def _with(before: tuple[_State, ...], samples: Sequence[Sample], empty: _State) -> zip[tuple[_State, Sample]]:
    return zip(before or (empty,) * len(samples), samples, strict=True)


def _bet(before: Odds, sample: Sample, tolerated: float) -> Odds:
    event, taken, chance = sample.events()
    return odds.bet(before, taken[event], chance[event], tolerated=tolerated)


def _slower_path(before: tuple[Odds, ...], above: list[Sample], tolerated: float) -> Floats:
    """Log of the mean wealth over thresholds and supposed ratios after every unit, shape (n,)."""
    logs = []
    for old, sample in _with(before, above, Odds()):
        event, taken, chance = sample.events()
        steps = odds.log_steps(taken, chance, odds.HARM, tolerated) * event[:, None]
        logs.append(np.cumsum(np.vstack([old.log_wealth or np.zeros(len(odds.HARM)), steps]), axis=0)[1:])
    return odds.log_mean_exp(np.concatenate(logs, axis=1))


def _with_peak(state: Exceedances, path: Floats) -> Exceedances:
    at = int(np.argmax(path))
    return replace(state, peak=float(path[at]), peak_n=state.n + at + 1) if path[at] > state.peak else state


def _remember(
    state: Exceedances, sample: Sample, levels: tuple[float, ...], fixed: tuple[float, ...], slack: tuple[float, float]
) -> Exceedances:
    """Count the units in; every 256 of them the thresholds become quantiles of what those 256 said, and the slack."""
    n = state.n + len(sample)
    if fixed:
        return replace(state, n=n, thresholds=fixed)
    recent = (*state.recent, *np.minimum(sample.pooled(), _HUGE).tolist())
    if n % RENEW:
        return replace(state, n=n, recent=recent)
    found = tuple(value * (1 + slack[0]) + slack[1] for value in quantiles_of(recent, levels))
    return replace(state, n=n, thresholds=found, recent=())


def _counted(state: Exceedances, sample: Sample) -> Exceedances:
    """Add to the histograms of the present stage: bin i holds GRID[i - 1] < value <= GRID[i]."""
    counts = []
    for arm, old in enumerate(state.histogram):
        added = np.bincount(np.searchsorted(GRID, sample.of(arm), side="left"), minlength=len(GRID) + 1)
        counts.append(tuple((added + np.asarray(old or np.zeros(len(GRID) + 1, dtype=np.int64))).tolist()))
    return replace(state, histogram=(counts[0], counts[1]))
