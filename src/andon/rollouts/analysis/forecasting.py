"""When may a verdict be expected? From today's traffic, before the rollout begins.

The evidence is followed along its mean path: after n units the sums S, W and V of ``differences.py``, and the log wealths of ``odds.py``,
are about what their expectations add up to, so the number of units at which the mixture passes 1/alpha can be solved for. (It is the
growth-rate argument of Kelly and of Waudby-Smith & Ramdas 2024, section 5.1, with the mixture's price included.) Real rollouts scatter
around it; the tests hold it against the median of simulated ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import numpy as np

from andon.core.errors import InvalidInput
from andon.rollouts.analysis.differences import WARM, log_evidence, tuned
from andon.rollouts.analysis.judging import guard_alphas
from andon.rollouts.analysis.odds import HARM, log_mean_exp
from andon.rollouts.analysis.records import AnalysisPolicy

_MOST = 1e10


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What production looks like today."""

    units_per_hour: float
    error_rate: float = 0.0
    """Share of units with an error."""
    spreads: dict[str, float] = {}
    """Standard deviation of each declared metric among units, after clipping, in its unit. One left out takes a quarter of its range."""


class Stage(msgspec.Struct, frozen=True):
    """A step: the candidate's share (0 to 1), and how many units of traffic it lasts; None: until the verdict."""

    share: float
    units: float | None = None


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the forecast. None: not within 10,000,000,000 units."""

    what: str
    units: float | None
    hours: float | None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """``promote``: until everything required is proven, if the candidate is equal. ``abort``: until a stated harm is."""

    promote: Expected
    checks: tuple[Expected, ...]
    abort: tuple[Expected, ...]


def forecast(
    policy: AnalysisPolicy,
    traffic: Traffic,
    stages: Sequence[Stage],
    *,
    error_ratios: Sequence[float] = (2.0, 5.0),
    slower: Sequence[float] = (0.2,),
) -> Forecast:
    """How many units and hours until a verdict. ``slower``: the growth of the share of units above the median's threshold, such as 0.2.

    Raises ``InvalidInput`` when there is no traffic or no stage.
    """
    if not traffic.units_per_hour > 0 or not 0 <= traffic.error_rate <= 1:
        raise InvalidInput("a forecast needs traffic: units an hour above 0, an error rate of 0 to 1", field="units_per_hour")
    if not stages or any(not 0 < stage.share < 1 for stage in stages):
        raise InvalidInput("shares of the steps lie between 0 and 1", field="stages")
    checks, needed = [], math.log(1 / policy.alpha_promote)
    least = _units_until(partial(_both, stages), policy.min_units)
    for what, margin, variance in _required(policy, traffic):
        units = _units_until(partial(_harmless, stages, margin, variance), needed)
        checks.append(_line(what, _later(None if units is None else units + WARM, least), traffic))
    slowest = None if not checks or any(line.units is None for line in checks) else max(line.units or 0.0 for line in checks)
    alphas, aborts = guard_alphas(policy), []
    if "errors" in alphas and traffic.error_rate > 0:
        for ratio in error_ratios:
            harm = partial(_harmed, stages, min(traffic.error_rate, 1 / ratio), ratio)
            aborts.append(_line(f"errors x{ratio:g}", _units_until(harm, math.log(1 / alphas["errors"])), traffic))
    if "latency" in alphas and policy.latency is not None:
        price = math.log(len(policy.latency.thresholds_ms or policy.latency.levels))  # the wealth is shared with the other thresholds
        for growth in slower:
            harm = partial(_harmed, stages, 0.5, (0.5 + growth) / 0.5)
            units = _units_until(harm, math.log(1 / alphas["latency"]) + price)
            aborts.append(_line(f"{0.5 + growth:.0%} of units slower than today's median", units, traffic))
    return Forecast(promote=_line("promotion", slowest, traffic), checks=tuple(checks), abort=tuple(aborts))


def _required(policy: AnalysisPolicy, traffic: Traffic) -> list[tuple[str, float, float]]:
    """(check, margin, variance of a unit) of each required difference, on the scale of 0 to 1."""
    found = []
    if policy.errors is not None and policy.errors.required:
        found.append(("errors", policy.errors.margin, traffic.error_rate * (1 - traffic.error_rate)))
    if policy.latency is not None and policy.latency.required and not policy.latency.thresholds_ms:
        found += [
            ("latency", margin, level * (1 - level)) for level, margin in zip(policy.latency.levels, policy.latency.margins, strict=True)
        ]
    if policy.scores is not None and policy.scores.required:
        found += [("scores", policy.scores.margin, level * (1 - level)) for level in policy.scores.levels]
    for metric in policy.metrics:
        if metric.required:
            scale = metric.high - metric.low
            spread = traffic.spreads.get(metric.name, scale / 4) / scale
            found.append((f"metric/{metric.name}", metric.margin / scale, spread**2))
    return found


def _walk(n: float, stages: Sequence[Stage]) -> list[tuple[float, float]]:
    """(units, share) of each stage within the first n units; the last stage goes on."""
    found, left = [], n
    for at, stage in enumerate(stages):
        units = left if stage.units is None or at == len(stages) - 1 else min(left, stage.units)
        found.append((units, stage.share))
        left -= units
    return found


def _both(stages: Sequence[Stage], n: float) -> float:
    """Units in the smaller arm."""
    walked = _walk(n, stages)
    return min(sum(units * share for units, share in walked), sum(units * (1 - share) for units, share in walked))


def _harmless(stages: Sequence[Stage], margin: float, variance: float, n: float) -> float:
    weight = sum(units * share * (1 - share) for units, share in _walk(n, stages))
    return float(log_evidence(np.asarray(margin * weight), np.asarray(variance * weight), tuned(1.0, variance, margin)))


def _harmed(stages: Sequence[Stage], rate: float, ratio: float, n: float) -> float:
    """Log evidence after n units when the control's event rate is ``rate`` and the candidate's ``ratio`` times that."""
    supposed = np.asarray(HARM)
    logs = np.zeros(len(HARM))
    for units, p in _walk(n, stages):
        events = units * rate * (1 - p + p * ratio)
        taken = p * ratio / (1 + p * (ratio - 1))
        logs += events * (taken * np.log(supposed) - np.log1p(p * (supposed - 1)))
    return float(log_mean_exp(logs))


def _units_until(evidence: Callable[[float], float], needed: float) -> float | None:
    """The first n at which ``evidence(n)`` is at least ``needed``; it grows in n but for a short dip at the start."""
    high = 1.0
    while evidence(high) < needed:
        high *= 1.25
        if high > _MOST:
            return None
    low = high / 1.25
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if evidence(middle) >= needed else (middle, high)
    return high


def _later(units: float | None, least: float | None) -> float | None:
    return None if units is None or least is None else max(units, least)


def _line(what: str, units: float | None, traffic: Traffic) -> Expected:
    return Expected(what=what, units=units, hours=None if units is None else units / traffic.units_per_hour)
