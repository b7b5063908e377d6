"""How long a strategy's verdict will take at a given traffic, before it begins."""

from __future__ import annotations

import msgspec
import numpy as np

from andon import registry
from andon.core.addresses import Address
from andon.core.clocks import HOUR_US
from andon.core.errors import NotFound
from andon.gates.losses import loss
from andon.releases import PRODUCTION, ReleaseManifest
from andon.rollouts.analysis import Expected, Forecast, Stage, Traffic, forecast
from andon.rollouts.analysis.records import MetricPolicy
from andon.rollouts.gathering import SOUND
from andon.rollouts.policies import RolloutPolicy
from andon.rollouts.strategies import AB, Canary
from andon.store import Store
from andon.telemetry.exposed import failed_share, latest_told

ASSUMED_ERRORS = 0.001
"""The share of requests that fail, where nothing is known of it."""
ERRORS_LEAST = 1_000
"""So many exposures of the last month say how many requests fail; a share of 0 among n is taken for 1/n."""
METRIC_LEAST, METRIC_MOST = 100, 20_000
"""So many requests with a value say how far a metric spreads; so many are read."""
MONTH_US, WEEK_US = 30 * 24 * HOUR_US, 7 * 24 * HOUR_US


class Today(msgspec.Struct, frozen=True, kw_only=True):
    """What production looks like, as far as the logs tell, and what had to be assumed."""

    error_rate: float = ASSUMED_ERRORS
    spreads: dict[str, float] = {}
    """Metric -> standard deviation among requests, after clipping."""
    told: dict[str, float] = {}
    """Metric -> share of requests that get a value at all; a metric that is not here: all."""
    assumed: tuple[str, ...] = (f"{ASSUMED_ERRORS:.1%} of requests fail",)


def today(store: Store, service: str, policy: RolloutPolicy) -> Today:
    """Measure production: errors from the exposures of the last month, metrics from the newest requests of the last week that had time."""
    now_us = store.clock.now_us()
    analysis, assumed = policy.analysis, []
    n, bad = failed_share(store, service, sorted(SOUND), now_us - MONTH_US)
    rate = max(bad, 1) / n if n >= ERRORS_LEAST else ASSUMED_ERRORS
    if analysis.errors is not None and n < ERRORS_LEAST:
        assumed.append(f"{ASSUMED_ERRORS:.1%} of requests fail")
    spreads, told = {}, {}
    output = _output(store, service)
    for metric in analysis.metrics:
        values, share = _values(store, service, policy, metric, output, now_us)
        if len(values) >= METRIC_LEAST:
            told[metric.name] = share
            spreads[metric.name] = max(float(values.std()), 1e-6 * (metric.high - metric.low))
        else:
            assumed.append(f"{metric.name} is told of every request and spreads by a quarter of its range")
    return Today(error_rate=rate, spreads=spreads, told=told, assumed=tuple(assumed))


def _output(store: Store, service: str) -> str | None:
    try:
        release = registry.get(store, Address("service", service, None, PRODUCTION))
    except NotFound:
        return None
    outputs = registry.manifest_of(release, ReleaseManifest).signature.outputs
    return outputs[0].name if outputs and not outputs[0].shape and '"' not in outputs[0].name else None


def _values(
    store: Store, service: str, policy: RolloutPolicy, metric: MetricPolicy, output: str | None, now_us: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], float]:
    """The metric's values (n,), clipped, and the share of requests that have one."""
    is_loss = policy.metric_is_loss(metric.name)
    until_us = now_us - policy.delay_us(metric.name)
    name = None if is_loss else metric.name
    rows = latest_told(store, service, until_us - WEEK_US, until_us, output=output, name=name, most=METRIC_MOST)
    label = np.array(rows.column("label").to_pylist(), dtype=np.float64)
    if is_loss:
        label = loss(metric.name, label, np.array(rows.column("prediction").to_pylist(), dtype=np.float64))
    found = label[np.isfinite(label)]
    return np.clip(found, metric.low, metric.high), len(found) / max(len(label), 1)


def expect(strategy: Canary | AB, policy: RolloutPolicy, units_an_hour: float, now: Today | None = None) -> Forecast:
    """Units and hours until a candidate that is as good is proven so, or until a harm of a stated size is.

    An A/B test that its metric decides is expected to take as long as a difference as large as the metric's margin needs. What counts
    late (``delays``) comes late: the longest delay of what is required is on top, in ``hours``. Raises ``InvalidInput`` without traffic.
    """
    now = now or Today()
    analysis = policy.analysis
    if isinstance(strategy, AB):
        metrics = tuple(msgspec.structs.replace(one, required=True) for one in analysis.metrics if one.name == strategy.metric)
        analysis = msgspec.structs.replace(analysis, errors=None, latency=None, scores=None, metrics=metrics)
        stages = [Stage(strategy.share / 100)]
    else:
        stages = [_stage(strategy, step, units_an_hour) for step in range(len(strategy.steps) - 1)]
    traffic = Traffic(units_per_hour=units_an_hour, error_rate=now.error_rate, spreads=now.spreads)
    told = forecast(analysis, traffic, stages)
    checks = tuple(_thinned(line, now) for line in told.checks)
    if told.promote.hours is None:
        return msgspec.structs.replace(told, checks=checks)
    slowest = max(checks, key=lambda line: line.units or 0.0)
    late_us = max((policy.delay_us(one.name) for one in analysis.metrics if one.required), default=0)
    least = sum(stage.units or 0.0 for stage in stages) / units_an_hour  # every step lasts its time, whatever is proven
    hours = max(slowest.hours or 0.0, least) + late_us / HOUR_US
    promote = msgspec.structs.replace(told.promote, units=slowest.units, hours=hours)
    return msgspec.structs.replace(told, promote=promote, checks=checks)


def _thinned(line: Expected, now: Today) -> Expected:
    """Only some requests have a value of a metric: the others say nothing of it."""
    share = now.told.get(line.what.removeprefix("metric/"), 1.0) if line.what.startswith("metric/") else 1.0
    if line.units is None or line.hours is None or share >= 1.0:
        return line
    return msgspec.structs.replace(line, units=line.units / share, hours=line.hours / share)


def _stage(strategy: Canary, step: int, units_an_hour: float) -> Stage:
    share = strategy.steps[step] / 100
    if step == len(strategy.steps) - 2:
        return Stage(share)
    return Stage(share, max(strategy.step_units / share, units_an_hour * strategy.step_us / HOUR_US))
