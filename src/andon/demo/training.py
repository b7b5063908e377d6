"""Training and retraining the bikes' model, each a tracked run whose model goes through the gate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

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

    from andon.releases import Made

RETRAIN_DAYS, HOLDOUT_DAYS = 180, 14


@andon.step
def validate(table: Any) -> dict[str, Any]:
    """Register a training snapshot; where data validation refuses days, register it again without them.

    Gives the snapshot's address, what validation said of the first try, and the days that had to go.
    """
    first = andon.register_dataset("bikes-training", table, event_time=bikes.EVENT_TIME)
    verdict, days = _judge(table, str(first.address))
    if verdict.status != "fail" or not days:
        return {"snapshot": str(first.address), "said": verdict.message, "dropped": []}
    kept = bikes.without_days(table, days)
    second = andon.register_dataset("bikes-training", kept, event_time=bikes.EVENT_TIME, why=f"without {len(days)} broken days")
    rows = [row for found in verdict.evidence for row in found.rows]
    said = str(rows[0][-1]) if rows else verdict.message
    return {"snapshot": str(second.address), "said": said, "dropped": [bikes.date_of(day) for day in days]}


def _judge(table: pa.Table, subject: str) -> tuple[Verdict, list[int]]:
    import pyarrow as pa

    columns = {name: table[name].to_numpy() for name in bikes.FEATURES}
    rows = frame(table[bikes.EVENT_TIME].cast(pa.int64()).to_numpy(), columns, label=table[bikes.LABEL].to_numpy(zero_copy_only=False))
    policy = Policy()
    return judge_training_data(rows, subject=subject, policy=policy), list(suspect_days(rows, policy))


@andon.step
def fit(snapshot: str, seed: int) -> dict[str, str]:
    """Train on a registered snapshot in a tracked run; gives the model's and the run's addresses."""
    with andon.run("bikes", name=f"bikes from {snapshot}", params={"learner": "HistGradientBoosting", "max_iter": 120}) as run:
        andon.seed(seed)
        table = andon.dataset(snapshot).table()
        run.log_params({"rows": table.num_rows, "seed": seed})
        model = bikes.fit(table, seed, run.log)
        version = run.log_model(model, name="bikes", input_example=bikes.example(table), signature=bikes.SIGNATURE)
    return {"model": str(version.address), "run": run.address}


@andon.pipeline(name="bikes-training")
def bikes_training(table: Any, seed: int) -> dict[str, Any]:
    """From a table of hours to a model: validate, then train."""
    checked = validate(table)
    return {**checked, **fit(checked["snapshot"], seed)}


def trained(table: pa.Table, seed: int) -> dict[str, Any]:
    """Run the pipeline; unchanged steps come from its cache."""
    value: dict[str, Any] = andon.run_pipeline(bikes_training, table, seed).value
    return value


def release(model: str, snapshot: str, evaluation: str, *, code: str = "good", why: str, **options: Any) -> Made:
    """Release a model with one of the two versions of the serving code: the call that any user would write."""
    return andon.release(
        bikes.SERVICE,
        model=model,
        data=snapshot,
        evaluation=evaluation,
        label=bikes.LABEL,
        event_time=bikes.EVENT_TIME,
        baseline=bikes.BASELINE,
        code=bikes.CODE / code,
        transform="bikes_transform:transform",
        settings=bikes.SETTINGS,
        why=why,
        **options,
    )


def scored_offline(model: str, evaluation: str) -> tuple[float, float]:
    """Mean absolute error of a bare model and of "last week" on the evaluation hours: the way a notebook does it, without the transform."""
    table = andon.dataset(evaluation).table()
    predicted = andon.load_model(model).predict({name: table[name].to_numpy() for name in bikes.FEATURES})[bikes.LABEL]
    actual = table[bikes.LABEL].to_numpy()
    naive = np.abs(table[bikes.BASELINE].to_numpy(zero_copy_only=False) - actual)
    return float(np.abs(predicted - actual).mean()), float(np.nanmean(naive))


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
    made = trained(table.filter(pa.compute.invert(newest)), seed)
    evaluation = andon.register_dataset("bikes-gate", table.filter(newest), event_time=bikes.EVENT_TIME)
    return release(made["model"], made["snapshot"], str(evaluation.address), why=why)
