"""A store that looks like a team's after a season: four services in four states, written only with the verbs that the product itself uses."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import insert

from andon.core.actors import Actor
from andon.core.clocks import DAY_US, HOUR_US, MINUTE_US, SECOND_US, ManualClock, to_us
from andon.core.digests import digest_bytes
from andon.core.verdicts import Evidence, Interval, SliceResult, Status, Verdict
from andon.gates import BeatsBaseline, GatePolicy, NotWorse, Rule, register_policy
from andon.logs import Label, Served, log_predictions, record_labels
from andon.models.records import Column, ModelManifest, Signature
from andon.registry import Parent, move_alias, record_verdicts_in, register, set_tag
from andon.releases import CodePin, Examples, assemble, block_training, deploy, make
from andon.store import Store, streams
from andon.store import schema as s
from andon.tracking.records import Code, EnvironmentLock, Hardware, RunFacts

ANA, BEN = Actor("person", "ana"), Actor("person", "ben")
WATCH = Actor("controller", "incidents")
LIVE_US = to_us("2011-08-01T00:00:00Z")
INPUTS = ("hr", "weekday", "workingday", "weathersit", "temp", "hum", "windspeed")
SIGNATURE = Signature(tuple(Column(name, "double") for name in INPUTS), (Column("prediction", "double"),))
LOCK = EnvironmentLock(
    python="3.11.7",
    platform="linux-x86_64",
    requirements=("joblib==1.6.0", "numpy==2.4.6", "onnxruntime==1.31.1", "scikit-learn==1.9.1", "scipy==1.17.1", "threadpoolctl==3.8.0"),
)
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


def _tick(clock: Any, minutes: float = 3) -> None:
    clock.advance(int(minutes * MINUTE_US))


def _common(store: Store) -> None:
    policy = GatePolicy(
        (
            Rule(BeatsBaseline(metric="mae")),
            Rule(NotWorse(metric="mae", margin=0.02, slices=("workingday",))),
            Rule(NotWorse(metric="mse", margin=0.1), blocks=False),
        )
    )
    register_policy(store, "gate/default", policy, actor=ANA, reason="what we agreed in the review of 12 July")


def run(
    store: Store,
    clock: Any,
    name: str,
    *,
    params: Mapping[str, Any],
    loss: tuple[float, float],
    status: str = "finished",
    experiment: str = "bikes",
    whole: bool = True,
) -> str:
    """A run with a loss curve, as tracking leaves one."""
    id_, started = store.ids.new(), clock.now_us()
    rng = random.Random(name)
    facts = RunFacts(
        code=Code(
            commit="8f2c1d94be03a7715c20ffac91b4b2f0c6d3e582",
            branch="main",
            dirty_diff=digest_bytes(b"diff") if not whole else None,
            entry_point="train.py",
            argv=("train.py", "--depth", str(params.get("depth", 6))),
        ),
        environment=LOCK,
        hardware=Hardware(host="laptop", cpu="AMD EPYC 9R14", cores=2, memory_bytes=16 << 30),
        seeds={"python": 7, "numpy": 7} if whole else {},
    )

    def work(c: Any) -> None:
        c.execute(
            insert(s.runs).values(
                id=id_,
                experiment=experiment,
                name=name,
                status=status,
                started_us=started,
                ended_us=None if status == "running" else started + 94 * SECOND_US,
                actor=str(ANA),
                parent=None,
                facts=msgspec.json.encode(facts),
                deleted_us=None,
            )
        )
        c.execute(insert(s.params), [{"run": id_, "key": key, "value": str(value)} for key, value in params.items()])
        for key, (start, end), wobble in (
            ("mae", loss, 0.6),
            ("val/mae", (loss[0] * 1.05, loss[1] * 1.12), 1.1),
            ("learning_rate", (0.1, 0.01), 0.0),
        ):
            values = [end + (start - end) * math.exp(-step / 22) + rng.gauss(0, wobble) for step in range(120)]
            made = c.execute(
                insert(s.series).values(
                    run=id_, key=key, step=119, at_us=started, value=values[-1], special=0, count=120, min=min(values), max=max(values)
                )
            )
            number = made.inserted_primary_key[0]
            c.execute(
                insert(s.points),
                [
                    {"series": number, "step": step, "at_us": started + step * 700_000, "value": value, "special": 0}
                    for step, value in enumerate(values)
                ],
            )
        if whole:
            c.execute(
                insert(s.artifacts),
                [
                    {
                        "run": id_,
                        "path": path,
                        "digest": digest_bytes(path.encode()),
                        "size_bytes": size,
                        "media_type": kind,
                        "at_us": started,
                    }
                    for path, size, kind in (
                        ("model/model.onnx", 412_887, "application/octet-stream"),
                        ("plots/residuals.png", 48_120, "image/png"),
                        ("report.html", 9_411, "text/html"),
                    )
                ],
            )
            c.execute(
                insert(s.run_inputs).values(run=id_, address="dataset:bike-sharing@1", digest=digest_bytes(b"rides"), context="training")
            )

    store.ledger.write(work)
    _tick(clock, 4)
    return id_


def _model(store: Store, name: str, run_id: str, n: int, reason: str) -> str:
    manifest = ModelManifest(
        format="onnx",
        files=digest_bytes(f"{name}{n}".encode()),
        entry="model.onnx",
        signature=SIGNATURE,
        libraries={"scikit-learn": "1.9.1"},
        facts={"depth": 4 + n},
    )
    parents = [Parent(f"run:{run_id}", "run")]
    return str(register(store, "model", name, manifest, actor=ANA, reason=reason, parents=parents).address)


def release(
    store: Store,
    service: str,
    model: str,
    data: str,
    *,
    error: float,
    reason: str,
    transform: str | None = None,
    waive: str | None = None,
    lock: EnvironmentLock = LOCK,
) -> str:
    """A release judged by the real gate on made-up examples; ``error`` is the spread of its mistakes (the baseline's is 48)."""
    rng = np.random.default_rng(len(reason))
    n = 28 * 24
    event_us = LIVE_US - 28 * DAY_US + np.arange(n) * HOUR_US
    hour = np.arange(n) % 24
    label = 180 + 140 * np.sin((hour - 7) / 24 * 2 * np.pi) + rng.normal(0, 8, n)
    columns = {name: rng.random(n) for name in INPUTS} | {
        "hr": hour.astype(float),
        "workingday": ((np.arange(n) // 24) % 7 < 5).astype(float),
    }
    by_name = {service: error}

    def score(manifest: Any, columns: Any) -> Any:
        spread = by_name.get(manifest.settings.get("spread_of", ""), manifest.settings.get("spread", 20.0))
        return label + np.random.default_rng(int(spread * 10)).normal(0, spread, n)

    manifest = assemble(
        store,
        service,
        model=model,
        environment=lock,
        signature=SIGNATURE,
        data=(data,),
        code=CodePin(
            commit="8f2c1d94be03a7715c20ffac91b4b2f0c6d3e582",
            tree=digest_bytes((transform or "").encode()),
            transform=transform or "features:columns",
        ),
        settings={"label": "cnt", "event_time": "dteday", "label_delay_s": 86_400, "spread": error},
    )
    examples = Examples(
        columns=columns, label=label, event_us=event_us, baseline=label + rng.normal(0, 58, n), baseline_name="the same hour last week"
    )
    made = make(store, manifest, examples=examples, score=score, gate="policy:gate/default", actor=ANA, reason=reason, waive=waive)
    return str(made.address)


def quality(
    service: str, day: int, ratio: float, *, status: Status | None = None, pooled: float | None = None, at: int = LIVE_US
) -> Verdict:
    """One judged day of live quality."""
    start, end = at + day * DAY_US, at + (day + 1) * DAY_US
    value = pooled if pooled is not None else ratio
    status = status or ("fail" if value > 1.4 else "warn" if value > 1.3 else "pass")
    said = {"fail": "harmed", "warn": "perhaps harmed", "pass": "as expected"}.get(status, "")
    row = (f"day {day}", 24, round(26 * ratio, 2), 26.0, 48.2, 1.0, round(ratio, 3), round(1 / ratio, 3))
    slices = tuple(
        SliceResult(slice=f"hours {6 * q}-{6 * q + 6} UTC", status="warn" if value * w > 1.4 else "pass", value=value * w, n=6)
        for q, w in enumerate((0.7, 1.25, 0.9, 1.1))
    )
    return Verdict(
        subject=f"service:{service}",
        check="live-quality",
        status=status,
        value=None if status == "undecided" else value,
        unit="x expected loss",
        threshold=1.4,
        message="3 labels are due in this window; 12 are needed"
        if status == "undecided"
        else f"{said}: loss is {value:.2f} x what the gate leads one to expect (24 labels)",
        interval=None if status == "undecided" else Interval(max(0.0, value - 0.18), value + 0.18),
        n=24,
        slices=slices,
        evidence=(
            Evidence("Scored windows", ("window", "labels", "loss", "expected", "naive", "growth", "ratio", "actual/predicted"), (row,)),
        ),
        at_us=end,
        window_us=(start, end),
        duration_ms=41.2,
    )


def others(service: str, day: int, at: int = LIVE_US, *, fault: bool = False) -> list[Verdict]:
    """The other monitors' verdicts of one day."""
    window = (at + day * DAY_US, at + (day + 1) * DAY_US)
    common: dict[str, Any] = {"subject": f"service:{service}", "at_us": window[1], "window_us": window, "n": 24}
    ranked = (
        ("temp", 0.62, 0.91, 0.564),
        ("hr", 0.08, 1.0, 0.08),
        ("hum", 0.31, 0.22, 0.068),
        ("windspeed", 0.12, 0.09, 0.011),
        ("weathersit", 0.05, 0.14, 0.007),
    )
    return [
        Verdict(check="inputs/nulls", status="pass", message="nothing unusual", value=0.0, unit="share of rows", threshold=0.001, **common),
        Verdict(check="inputs/range", status="pass", message="nothing unusual", value=0.0, unit="share of rows", threshold=0.001, **common),
        Verdict(
            check="inputs/constant",
            status="fail" if fault else "pass",
            message="workingday: stuck at 0 for 24 of 24 rows" if fault else "nothing unusual",
            value=1.0 if fault else 0.02,
            unit="share of rows",
            threshold=0.05,
            slices=(SliceResult(slice="workingday", status="fail" if fault else "pass", value=1.0 if fault else 0.02, n=24),),
            **common,
        ),
        Verdict(
            check="inputs/volume", status="pass", message="nothing unusual", value=1.0, unit="x rows of like hours", threshold=0.5, **common
        ),
        Verdict(
            check="drift",
            status="warn",
            message="drifted: temp (0.62)",
            value=0.564,
            unit="effect x importance",
            threshold=0.5,
            slices=tuple(
                SliceResult(slice=name, status="warn" if effect >= 0.5 else "pass", value=effect, n=672) for name, effect, _, _ in ranked
            ),
            evidence=(Evidence("Drift, worst first", ("feature", "effect", "importance", "product"), ranked),),
            **common,
        ),
    ]


def keep(store: Store, verdicts: list[Verdict]) -> list[str]:
    """Record verdicts; returns their ids."""
    named = [msgspec.structs.replace(verdict, id=store.ids.new()) for verdict in verdicts]
    store.ledger.write(lambda c: record_verdicts_in(c, named))
    return [verdict.id for verdict in named]


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
    model = _model(store, "bikes", first, 1, "best of three")
    r1 = release(store, "bikes", model, data, error=26.0, reason="first release")
    _tick(clock)
    deploy(store, r1, actor=ANA, reason="first release: beats last week's hour by a third", event_us=LIVE_US)
    _replica(store, "bikes", r1, 41_873)
    second = run(store, clock, "depth-7-more-data", params={"depth": 7, "learning_rate": 0.08, "max_iter": 160}, loss=(146, 22))
    model2 = _model(store, "bikes", second, 2, "August added")
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
    _tick(clock)
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
    _predictions(store, "bikes", r1, r3)
    _tick(clock, 20)
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
        _tick(clock, 2)


def _replica(store: Store, service: str, release_: str, pid: int) -> None:
    now = store.clock.now_us()
    values = {
        "id": store.ids.new(),
        "service": service,
        "url": "http://127.0.0.1:41873",
        "pid": pid,
        "release": release_,
        "status": "ready",
        "note": "",
        "started_us": now,
        "seen_us": now + 10 * HOUR_US,
    }
    store.ledger.write(lambda c: c.execute(insert(s.replicas).values(**values)))


def _predictions(store: Store, service: str, first: str, second: str) -> None:
    rng = np.random.default_rng(3)
    for day in range(44):
        n = 24
        held = first if day < 37 else second
        event = [LIVE_US + day * DAY_US + hour * HOUR_US for hour in range(n)]
        ids = [f"r{day:03d}-{hour:02d}" for hour in range(n)]
        slow = 1.0 if day < 37 else 1.6
        log_predictions(
            store.tables,
            Served(
                service=service,
                release=held,
                release_digest=digest_bytes(held.encode()),
                channel="production",
                request_ids=ids,
                row=[0] * n,
                event_us=event,
                arrival_us=event,
                latency_ms=list(rng.gamma(4, 0.5 * slow, n)),
                inputs={name: rng.random(n) for name in INPUTS},
                outputs={"prediction": rng.random(n) * 300},
            ),
        )
    record_labels(
        store,
        service,
        [
            Label(request_id=f"r{day:03d}-{hour:02d}", label=100.0 + hour, event_us=LIVE_US + (day + 1) * DAY_US + hour * HOUR_US)
            for day in range(43)
            for hour in range(24)
        ],
        actor=ANA,
    )


def _power(store: Store, clock: Any) -> None:
    data = str(
        register(store, "dataset", "elec2", {"rows": 45_312, "format": "csv"}, actor=BEN, reason="NSW electricity, half-hourly").address
    )
    made = run(store, clock, "power-logistic", params={"c": 0.3}, loss=(0.9, 0.31), experiment="power")
    model = _model(store, "power", made, 1, "labels a day late")
    r1 = release(store, "power", model, data, error=21.0, reason="first release")
    deploy(store, r1, actor=BEN, reason="quiet launch", event_us=LIVE_US)
    _replica(store, "power", r1, 41_990)
    rng = random.Random(9)
    keep(store, [quality("power", day, 0.97 + rng.gauss(0, 0.06)) for day in range(40)] + others("power", 39))
    _tick(clock)


def _fraud(store: Store, clock: Any) -> None:
    data = str(register(store, "dataset", "payments", {"rows": 920_113, "format": "parquet"}, actor=BEN, reason="June and July").address)
    made = run(store, clock, "payments-gbm", params={"depth": 9, "leaves": 63}, loss=(0.6, 0.2), experiment="fraud")
    model = _model(store, "fraud", made, 1, "first that passed")
    r1 = release(store, "fraud", model, data, error=24.0, reason="first release")
    deploy(store, r1, actor=BEN, reason="replaces the rules engine", event_us=LIVE_US)
    _replica(store, "fraud", r1, 42_001)
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
    model = _model(store, "answers", made, 1, "reranker")
    release(store, "answers", model, "dataset:elec2@1", error=90.0, reason="worse than asking again")
    _tick(clock)
