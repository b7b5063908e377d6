"""Training and retraining the bikes' model, each a tracked run whose model goes through the gate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

import andon
from andon import releases
from andon.core.clocks import DAY_US
from andon.core.verdicts import Verdict
from andon.demo import bikes
from andon.monitoring import Policy, frame, judge_training_data, suspect_days
from andon.store import Store
from andon.telemetry import served_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from andon.registry import Version
    from andon.releases import Made

RETRAIN_DAYS, HOLDOUT_DAYS = 180, 14


class Validated(msgspec.Struct, frozen=True):
    """A training snapshot that data validation lets through, what it said of the first try, and the days that had to go."""

    snapshot: Any
    first_try: Verdict
    dropped_us: tuple[int, ...]


def validated(table: pa.Table, name: str) -> Validated:
    """Register a training snapshot; where data validation refuses days, register it again without them."""
    first = andon.register_dataset(name, table, event_time=bikes.EVENT_TIME)
    verdict, days = _validate(table, str(first.address))
    if verdict.status != "fail" or not days:
        return Validated(first, verdict, ())
    kept = bikes.without_days(table, days)
    second = andon.register_dataset(name, kept, event_time=bikes.EVENT_TIME, why=f"without {len(days)} broken days")
    return Validated(second, verdict, tuple(days))


def _validate(table: pa.Table, subject: str) -> tuple[Verdict, list[int]]:
    import pyarrow as pa

    columns = {name: table[name].to_numpy() for name in bikes.FEATURES}
    rows = frame(table[bikes.EVENT_TIME].cast(pa.int64()).to_numpy(), columns, label=table[bikes.LABEL].to_numpy(zero_copy_only=False))
    policy = Policy()
    return judge_training_data(rows, subject=subject, policy=policy), list(suspect_days(rows, policy))


def train(snapshot: Version, seed: int) -> tuple[str, str]:
    """Train on a registered snapshot in a tracked run; returns the model's and the run's addresses."""
    with andon.run("bikes", name=f"bikes from {snapshot.address}", params={"learner": "HistGradientBoosting", "max_iter": 120}) as run:
        andon.seed(seed)
        table = andon.dataset(str(snapshot.address)).table()
        run.log_params({"rows": table.num_rows, "seed": seed})
        model = bikes.fit(table, seed, run.log)
        version = run.log_model(model, name="bikes", input_example=bikes.example(table), signature=bikes.SIGNATURE)
    return str(version.address), run.address


def release(model: str, snapshot: Version, evaluation: Version, *, code: str = "good", why: str, **options: Any) -> Made:
    """Release a model with one of the two versions of the serving code."""
    return andon_release(model, snapshot, evaluation, code, why, options)


def andon_release(model: str, snapshot: Version, evaluation: Version, code: str, why: str, options: dict[str, Any]) -> Made:
    """The call that any user would write."""
    return andon.release(
        bikes.SERVICE,
        model=model,
        data=str(snapshot.address),
        evaluation=str(evaluation.address),
        label=bikes.LABEL,
        event_time=bikes.EVENT_TIME,
        baseline=bikes.BASELINE,
        code=bikes.CODE / code,
        transform="bikes_transform:transform",
        settings=bikes.SETTINGS,
        why=why,
        **options,
    )


def labelled_since(store: Store, history: pa.Table, start_us: int, end_us: int) -> pa.Table:
    """What is known of ``[start_us, end_us)``: the first training data, then what the service itself logged, with its labels.

    Hours in which training was blocked are left out: their inputs cannot be trusted.
    """
    import pyarrow as pa

    served = served_rows(store, bikes.SERVICE, start_us, end_us)
    served = served.filter(pa.compute.is_valid(served["label"]))
    event_us = served["event_time"].cast(pa.int64()).to_numpy()
    keep = np.ones(len(event_us), dtype=bool)
    for since, until in releases.blocked_spans(store, bikes.SERVICE):
        keep &= ~((event_us >= since) & (event_us < (math.inf if until is None else until)))
    features = {name: served[f"input.{name}"].to_numpy()[keep] for name in bikes.FEATURES}
    rentals = served["label"].to_numpy()[keep]
    fresh = bikes.as_table(event_us[keep], features, rentals, bikes.last_week(event_us[keep], rentals))
    early = history.filter(pa.compute.greater_equal(history[bikes.EVENT_TIME].cast(pa.int64()), start_us))
    return pa.concat_tables([early, fresh]).sort_by(bikes.EVENT_TIME)


def retrain(store: Store, history: pa.Table, now_us: int, seed: int, why: str) -> Made:
    """Train a challenger on the last 180 days but the newest 14, and let the gate compare it with the champion on those 14."""
    import pyarrow as pa

    table = labelled_since(store, history, now_us - RETRAIN_DAYS * DAY_US, now_us)
    event_us = table[bikes.EVENT_TIME].cast(pa.int64()).to_numpy()
    newest = pa.array(event_us >= now_us - (HOLDOUT_DAYS + 1) * DAY_US)
    snapshot = validated(table.filter(pa.compute.invert(newest)), "bikes-training").snapshot
    evaluation = andon.register_dataset("bikes-gate", table.filter(newest), event_time=bikes.EVENT_TIME)
    model, _ = train(snapshot, seed)
    return release(model, snapshot, evaluation, why=why)
