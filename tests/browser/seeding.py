"""A store that looks like a team's after a season: four services in four states, written with the verbs that the product itself uses."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from andon.core.actors import Actor
from andon.core.clocks import DAY_US, HOUR_US, ManualClock
from andon.core.digests import digest_bytes
from andon.gates import BeatsBaseline, GatePolicy, NotWorse, Rule, register_policy
from andon.registry import move_alias, register, set_tag
from andon.releases import block_training, deploy
from andon.store import Store, streams
from tests.browser.making import ANA, BEN, LIVE_US, LOCK, keep, model_of, others, predictions, quality, release, replica, run, tick

WATCH = Actor("controller", "incidents")
INCIDENT = "01KB8R5W3V9Q7T2M4N6P8S0XYZ"
XSS = "<img src=x onerror=alert(1)>"


def seed(store: Store, clock: ManualClock, *, wall_us: int) -> None:
    """Fill ``store``. ``wall_us`` is "now" on the wall; event time runs through the autumn of 2011."""
    clock.set(wall_us - 6 * HOUR_US)
    _common(store)
    _power(store, clock)
    _fraud(store, clock)
    _answers(store, clock)
    _bikes(store, clock)
    clock.set(wall_us)


def _common(store: Store) -> None:
    policy = GatePolicy(
        (
            Rule(BeatsBaseline(metric="mae")),
            Rule(NotWorse(metric="mae", margin=0.02, slices=("workingday",))),
            Rule(NotWorse(metric="mse", margin=0.1), blocks=False),
        )
    )
    register_policy(store, "gate/default", policy, actor=ANA, reason="what we agreed in the review of 12 July")


def _bikes(store: Store, clock: Any) -> None:
    data = str(
        register(
            store,
            "dataset",
            "bike-sharing",
            {"rows": 4_056, "format": "parquet", "files": [{"path": "hour.parquet", "digest": digest_bytes(b"rides")}]},
            actor=ANA,
            reason="UCI, hourly, to 3 July",
        ).address
    )
    run(store, clock, "baseline-depth-4", params={"depth": 4, "learning_rate": 0.1, "max_iter": 120}, loss=(150, 31), whole=False)
    first = run(store, clock, "depth-6", params={"depth": 6, "learning_rate": 0.1, "max_iter": 120}, loss=(148, 24))
    run(store, clock, "depth-12-no-seed", params={"depth": 12, "learning_rate": 0.3}, loss=(140, 39), status="failed", whole=False)
    model = model_of(store, "bikes", first, 1, "best of three")
    r1 = release(store, "bikes", model, data, error=26.0, reason="first release")
    tick(clock)
    deploy(store, r1, actor=ANA, reason="first release: beats last week's hour by a third", event_us=LIVE_US)
    replica(store, "bikes", r1, 41_873)
    second = run(store, clock, "depth-7-more-data", params={"depth": 7, "learning_rate": 0.08, "max_iter": 160}, loss=(146, 22))
    model2 = model_of(store, "bikes", second, 2, "August added")
    rng = random.Random(4)
    keep(
        store,
        [quality("bikes", day, 0.98 + rng.gauss(0, 0.09) + day * 0.003) for day in range(37)]
        + [v for day in range(37) for v in others("bikes", day)],
    )
    clock.advance(HOUR_US)
    release(store, "bikes", model2, data, error=70.0, reason="hour shifted by a timezone bug")
    r3 = release(
        store,
        "bikes",
        model2,
        data,
        error=20.0,
        reason="August added, hours in UTC",
        transform="features:utc_columns",
        lock=msgspec.structs.replace(LOCK, requirements=(*LOCK.requirements[:3], "scikit-learn==1.9.2", *LOCK.requirements[4:])),
    )
    tick(clock)
    deploy(store, r3, actor=BEN, reason="August added; the gate says a fifth better", event_us=LIVE_US + 37 * DAY_US)
    ids = keep(
        store,
        [
            v
            for day in range(37, 44)
            for v in (
                quality(
                    "bikes",
                    day,
                    1.7 + rng.gauss(0, 0.14),
                    pooled=(1.62, 1.31, 1.36, 1.44, 1.58, 1.66, 1.74)[day - 37],
                    status=("pass", "warn", "warn", "warn", "warn", "fail", "fail")[day - 37],
                ),
                *others("bikes", day),
            )
        ],
    )
    predictions(store, "bikes", r1, r3)
    tick(clock, 20)
    _incident(store, clock, r1, r3, ids)
    set_tag(store, "service:bikes", "team", "mobility", actor=ANA)
    set_tag(store, model2, "note", XSS, actor=BEN, reason=XSS)
    move_alias(store, "model:bikes@candidate", model2, actor=BEN, reason="to try on Friday")


def _incident(store: Store, clock: Any, good: str, bad: str, verdicts: list[str]) -> None:
    stream, onset = f"incident:{INCIDENT}", LIVE_US + 37 * DAY_US
    finding = {
        "subject": "service:bikes",
        "release": bad,
        "cause": "release",
        "advice": "rollback",
        "onset_us": onset,
        "rollback_to": good,
        "message": f"{bad} does worse than {good} on the same requests since it took production",
        "changed": [
            {
                "at_us": onset,
                "kind": "release",
                "subject": "service:bikes@production",
                "before": good,
                "after": bad,
                "components": ["code", "environment", "model"],
                "actor": "person:ben",
            }
        ],
        "harm_ratio": 1.74,
        "harm_interval": {"low": 1.55, "high": 1.93, "level": 0.95},
        "replay_ratio": 0.57,
        "replay_interval": {"low": 0.5, "high": 0.65, "level": 0.95},
        "worst_slice": {"slice": "hr in 7-9", "status": "fail", "value": 3.41, "n": 21},
        "evidence": [
            {
                "title": "Same requests, both releases",
                "columns": ["window", "rows", "loss live", "loss previous"],
                "rows": [[f"2011-09-{day:02d}", 24, 44.1 + day, 25.2 + day / 3] for day in range(7, 14)],
            },
            {
                "title": "Worst slices",
                "columns": ["slice", "labels", "loss", "expected", "ratio"],
                "rows": [
                    ["hr in 7-9", 21, 88.6, 26.0, 3.41],
                    ["hr in 16-19", 28, 61.2, 31.4, 1.95],
                    ["workingday = 0", 48, 34.0, 25.1, 1.35],
                ],
            },
        ],
    }
    events = (
        (
            "open",
            {
                "service": "bikes",
                "cause": "release",
                "advice": "rollback",
                "onset_us": onset,
                "release": bad,
                "checks": ["live-quality"],
                "verdicts": verdicts[-7:-5] + verdicts[-1:],
                "finding": finding,
                "why": finding["message"],
            },
            onset + 6 * DAY_US,
        ),
        ("block-training", {"incident": INCIDENT, "why": "until the cause is settled"}, onset + 6 * DAY_US),
        ("note", {"text": "Ben: the transform shifts hr by one; reproduced on yesterday's rows"}, onset + 6 * DAY_US + 3 * HOUR_US),
    )
    for kind, body, event_us in events:
        now = clock.now_us()
        actor = BEN if kind == "note" else WATCH
        store.ledger.write(
            lambda c, kind=kind, body=body, now=now, actor=actor, at=event_us: streams.append(
                c, stream, kind, body, at_us=now, actor=actor, reason="", event_us=at
            )
        )
        tick(clock, 2)


def _power(store: Store, clock: Any) -> None:
    data = str(
        register(store, "dataset", "elec2", {"rows": 45_312, "format": "csv"}, actor=BEN, reason="NSW electricity, half-hourly").address
    )
    made = run(store, clock, "power-logistic", params={"c": 0.3}, loss=(0.9, 0.31), experiment="power")
    model = model_of(store, "power", made, 1, "labels a day late")
    r1 = release(store, "power", model, data, error=21.0, reason="first release")
    deploy(store, r1, actor=BEN, reason="quiet launch", event_us=LIVE_US)
    replica(store, "power", r1, 41_990)
    rng = random.Random(9)
    keep(store, [quality("power", day, 0.97 + rng.gauss(0, 0.06)) for day in range(40)] + others("power", 39))
    tick(clock)


def _fraud(store: Store, clock: Any) -> None:
    data = str(register(store, "dataset", "payments", {"rows": 920_113, "format": "parquet"}, actor=BEN, reason="June and July").address)
    made = run(store, clock, "payments-gbm", params={"depth": 9, "leaves": 63}, loss=(0.6, 0.2), experiment="fraud")
    model = model_of(store, "fraud", made, 1, "first that passed")
    r1 = release(store, "fraud", model, data, error=24.0, reason="first release")
    deploy(store, r1, actor=BEN, reason="replaces the rules engine", event_us=LIVE_US)
    replica(store, "fraud", r1, 42_001)
    rng = random.Random(2)
    keep(store, [quality("fraud", day, 1.0 + rng.gauss(0, 0.07)) for day in range(30)] + others("fraud", 29))
    block_training(store, "fraud", actor=WATCH, reason="merchant_id has been null since Tuesday's import", since_us=LIVE_US + 28 * DAY_US)
    run(
        store,
        clock,
        "payments-gbm-wide",
        params={"depth": 12, "leaves": 127},
        loss=(0.6, 0.19),
        experiment="fraud",
        status="running",
        whole=False,
    )


def _answers(store: Store, clock: Any) -> None:
    register(store, "prompt", "answer", {"template": "Answer from {context} only.\n\n{question}"}, actor=ANA, reason="first")
    register(
        store,
        "prompt",
        "answer",
        {"template": "Answer from {context} only; say so when it is not there.\n\n{question}"},
        actor=ANA,
        reason="fewer inventions",
    )
    made = run(store, clock, "answers-reranker", params={"k": 8}, loss=(1.2, 0.5), experiment="answers")
    model = model_of(store, "answers", made, 1, "reranker")
    release(store, "answers", model, "dataset:elec2@1", error=90.0, reason="worse than asking again")
    tick(clock)
