"""Metrics and batches of them: the hot path. (Histories: ``histories``.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from andon.core.errors import InvalidInput
from andon.tracking.batches import check_run_in
from andon.tracking.logged_models import ModelPoint, log_model_points_in
from andon.tracking.points import Group, group_columns, write_points
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid
from andon.wire.mlflow.limits import MAX_KEY, check_batch, check_key, check_run_id, too_long
from andon.wire.mlflow.messages import missing_field, required, wrong_field, wrong_value
from andon.wire.mlflow.runs import MAX_MS, Pair, RunOnly, checked_params, checked_tags, run_of, write_params, write_tags, write_to

if TYPE_CHECKING:
    from sqlalchemy import Connection

NOTHING = b"{}"
_INT64 = 2**63


class MetricMessage(msgspec.Struct, gc=False):
    """A point. ``value`` may be text: ``"NaN"``, ``"-Infinity"``, ``"0.5"``."""

    key: str | None = None
    value: float | str | None = None
    timestamp: int | None = None
    step: int | None = 0
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class _LogMetric(RunOnly):
    key: str | None = None
    value: float | str | None = None
    timestamp: int | None = None
    step: int | None = 0
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class _LogBatch(RunOnly):
    metrics: list[MetricMessage] | None = None
    params: list[Pair] | None = None
    tags: list[Pair] | None = None


async def log_metric(call: Call) -> bytes:
    """One point."""
    message = call.read(_LogMetric)
    run = run_of(message)
    required(message, "key", "value", "timestamp")
    groups, about_models = _points([message], "")

    def work(connection: Connection) -> None:
        check_run_in(connection, run)
        write_points(connection, run, groups)
        if about_models:
            log_model_points_in(connection, run, about_models)

    await write_to(call, run, work)
    return NOTHING


async def log_batch(call: Call) -> bytes:
    """Points, params and tags: all of them or none."""
    message = call.read(_LogBatch)
    run = run_of(message)
    check_run_id(run)
    metrics, params, tags = message.metrics or (), message.params or (), message.tags or ()
    for name, pairs in (("params", params), ("tags", tags)):
        for n, pair in enumerate(pairs):
            if not pair.key:
                raise missing_field(f"{name}[{n}].key")
    groups, about_models = _points(metrics, "metrics[{}].")
    texts, labels = checked_params(params), checked_tags(tags)
    check_batch(len(metrics), len(params), len(tags))
    if len(texts) < len(params):
        raise _twice(params)
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> None:
        check_run_in(connection, run)
        if texts:
            write_params(connection, run, texts)
        if groups:
            write_points(connection, run, groups)
        if about_models:
            log_model_points_in(connection, run, about_models)
        if labels:
            write_tags(connection, run, labels, now_us=now_us, actor=call.actor)

    await write_to(call, run, work)
    return NOTHING


def _twice(params: Sequence[Pair]) -> WireError:
    keys = [pair.key for pair in params]
    again = [key for n, key in enumerate(keys) if key in keys[:n]]
    return invalid(
        f"Duplicate parameter keys have been submitted: {again}. Please ensure the request contains only one param value per param key."
    )


def _points(metrics: Sequence[MetricMessage | _LogMetric], path: str) -> tuple[list[Group], list[ModelPoint]]:
    """Checked points by metric, and those about logged models once more. What is wrong is looked for one by one only when something is."""
    if not metrics:
        return [], []
    try:
        keys = [m.key or "" for m in metrics]
        for key in set(keys):
            check_key(key, "", "")
        times = [m.timestamp * 1000 for m in metrics]  # type: ignore[operator]
        if min(times) < 0:
            raise InvalidInput("a point's time is not negative")
        groups = group_columns(keys, [m.value for m in metrics], [m.step or 0 for m in metrics], times)  # type: ignore[misc]
    except (TypeError, InvalidInput, WireError) as error:
        for n, metric in enumerate(metrics):
            _check_there(metric, path.format(n))
        for n, metric in enumerate(metrics):
            _check_point(metric, path.format(n))
        raise invalid(str(error)) from None
    return groups, [_about(m.model_id, m) for m in metrics if m.model_id]


def _about(model: str, m: MetricMessage | _LogMetric) -> ModelPoint:
    at_us, about = (m.timestamp or 0) * 1000, (m.dataset_name or "", m.dataset_digest or "")
    return ModelPoint(model, m.key or "", float(m.value or 0.0), m.step or 0, at_us, *about)


def _check_there(metric: MetricMessage | _LogMetric, at: str) -> None:
    for name in ("key", "value", "timestamp"):
        if getattr(metric, name) in (None, ""):
            raise missing_field(f"{at}{name}")


def _check_point(metric: MetricMessage | _LogMetric, at: str) -> None:
    key, value, ms, step = metric.key or "", metric.value, metric.timestamp or 0, metric.step or 0
    check_key(key, f"{at}name", "Metric name")
    try:
        float(value or 0.0)
    except ValueError:
        raise wrong_field(f"{at}value", value) from None
    if not 0 <= ms <= MAX_MS:
        why = "Timestamp must be a nonnegative long (64-bit integer) "
        raise wrong_value(f"{at}timestamp", ms, f"metric '{key}' (value={value}). {why}" + (f"of at most {MAX_MS}" if ms > 0 else ""))
    if not -_INT64 <= step < _INT64:
        raise wrong_value(f"{at}step", step, f"metric '{key}' (value={value}). Step must be a valid long (64-bit integer).")
    if len(key) > MAX_KEY:
        raise too_long("Metric name", MAX_KEY)


ROUTES = [
    Route("POST", "2.0/mlflow/runs/log-metric", log_metric, "inline"),
    Route("POST", "2.0/mlflow/runs/log-batch", log_batch, "inline"),
]
