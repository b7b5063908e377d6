"""Makers of what a line holds: runs, models, releases judged by the real gate, verdicts, predictions."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import insert

from andon.core.actors import Actor
from andon.core.clocks import DAY_US, HOUR_US, MINUTE_US, SECOND_US, to_us
from andon.core.digests import digest_bytes
from andon.core.verdicts import Evidence, Interval, SliceResult, Status, Verdict
from andon.logs import Label, Served, log_predictions, record_labels
from andon.models.records import Column, ModelManifest, Signature
from andon.registry import Parent, record_verdicts_in, register
from andon.releases import CodePin, Examples, assemble, make
from andon.store import Store
from andon.store import schema as s
from andon.tracking import ensure_experiment_in
from andon.tracking.records import Code, EnvironmentLock, Hardware, RunFacts

ANA, BEN = Actor("person", "ana"), Actor("person", "ben")
LIVE_US = to_us("2011-08-01T00:00:00Z")
INPUTS = ("hr", "weekday", "workingday", "weathersit", "temp", "hum", "windspeed")
SIGNATURE = Signature(tuple(Column(name, "double") for name in INPUTS), (Column("prediction", "double"),))
LOCK = EnvironmentLock(
    python="3.11.7",
    platform="linux-x86_64",
    requirements=("joblib==1.6.0", "numpy==2.4.6", "onnxruntime==1.31.1", "scikit-learn==1.9.1", "scipy==1.17.1", "threadpoolctl==3.8.0"),
)


def tick(clock: Any, minutes: float = 3) -> None:
    """Let some wall time go by."""
    clock.advance(int(minutes * MINUTE_US))


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
                experiment=ensure_experiment_in(c, experiment, now_us=started),
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
                        "owner": f"run:{id_}",
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
    tick(clock, 4)
    return id_


def model_of(store: Store, name: str, run_id: str, n: int, reason: str) -> str:
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


def replica(store: Store, service: str, release_: str, pid: int) -> None:
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


def predictions(store: Store, service: str, first: str, second: str) -> None:
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
