"""Months of real hours through the real registry, gate, runners, logs, monitors and incidents, without HTTP: quick enough to permute.

What is sent, and which release is deployed when, is all that a scenario says. Everything else is Andon's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import andon
from andon import registry, releases
from andon.core.clocks import DAY_US
from andon.core.verdicts import Answer
from andon.demo import bikes, training
from andon.demo.replay import request_id
from andon.gates import BeatsBaseline, GatePolicy, NotWorse, Rule, register_policy
from andon.incidents import IncidentsState
from andon.incidents.controller import IncidentController
from andon.incidents.journal import state_of
from andon.logs import Label, Served, log_predictions, record_labels
from andon.registry import get, manifest_of
from andon.releases import Made, ReleaseManifest
from andon.serving.replaying import Replayer
from andon.store import Store
from tests.conftest import ANA

Columns = dict[str, Any]
Change = Callable[[int, Columns], Columns]
TRAIN_DAYS, GATE_DAYS = 169, 28


@dataclass
class Line:
    """A service that goes live at ``launch_us`` with a model trained on the 169 days before the gate's month."""

    store: Store
    launch_us: int
    seed: int = 0
    history: bikes.History = field(default_factory=bikes.History.load)

    def __post_init__(self) -> None:
        self.replay = Replayer(self.store)
        self.controller = IncidentController(self.replay)
        self.now_us = self.launch_us
        gate_us = self.launch_us - GATE_DAYS * DAY_US
        self.table = self.history.table(gate_us - TRAIN_DAYS * DAY_US, gate_us)
        trained = training.trained(self.table, self.seed)
        self.snapshot, self.model = trained["snapshot"], trained["model"]
        self.evaluation = andon.register_dataset("bikes-gate", self.history.table(gate_us, self.launch_us), event_time=bikes.EVENT_TIME)
        # Lenient, so that a line can be started in any season: what is under test here is what happens after the gate.
        register_policy(
            self.store, "gate/lenient", GatePolicy((Rule(BeatsBaseline(metric="mae", ratio=2.0)), Rule(NotWorse(metric="mae")))), actor=ANA
        )
        self.deploy(self.release(), "launch")

    def release(self, code: Path | None = None, **options: Any) -> Made:
        """Release the model, with serving code of its own if there is some."""
        return andon.release(
            bikes.SERVICE,
            model=self.model,
            data=self.snapshot,
            evaluation=str(self.evaluation.address),
            label=bikes.LABEL,
            event_time=bikes.EVENT_TIME,
            baseline=bikes.BASELINE,
            code=code,
            gate="policy:gate/lenient",
            transform=None if code is None else "changed:transform",
            actor=ANA,
            **options,
        )

    def deploy(self, made: Made, why: str) -> None:
        """Deploy now; a refused release needs a person's waiver first."""
        if made.answer is not Answer.GO:
            andon.waive(made.address, why="a test", lasting="52w", actor=ANA)
        andon.deploy(made.address, why=why, event_time=self.now_us, actor=ANA)

    def live(self, days: int, change: Change = lambda day_us, columns: columns) -> None:
        """Live through some days: answer, judge, act; labels come a day late."""
        for _ in range(days):
            rows = self.history.between(self.now_us, self.now_us + DAY_US)
            if rows.start < rows.stop:
                self._answer(rows, change)
                while self.controller.step(self.store, bikes.SERVICE) is not None:
                    pass
            self._label(self.history.between(self.now_us - DAY_US, self.now_us))
            self.now_us += DAY_US

    def _answer(self, rows: slice, change: Change) -> None:
        event_us = self.history.event_us[rows]
        sent = change(self.now_us, {name: values[rows].copy() for name, values in self.history.features.items()})
        release = registry.resolve(self.store, f"service:{bikes.SERVICE}@production")
        version = get(self.store, release)
        answered = self.replay(manifest_of(version, ReleaseManifest), sent)
        n = len(event_us)
        log_predictions(
            self.store.tables,
            Served(
                service=bikes.SERVICE,
                release=str(release),
                release_digest=version.digest,
                channel="production",
                request_ids=[request_id(int(at)) for at in event_us],
                row=[0] * n,
                event_us=[int(at) for at in event_us],
                arrival_us=[int(at) for at in event_us],
                latency_ms=[1.0] * n,
                inputs=sent,
                outputs={bikes.LABEL: answered},
            ),
        )

    def _label(self, rows: slice) -> None:
        if self.now_us == self.launch_us:
            return
        labels = [
            Label(request_id=request_id(int(at)), label=float(value), event_us=int(at) + DAY_US)
            for at, value in zip(self.history.event_us[rows], self.history.rentals[rows], strict=True)
        ]
        record_labels(self.store, bikes.SERVICE, labels, actor=ANA)

    @property
    def state(self) -> IncidentsState:
        """The incidents so far."""
        return state_of(self.store, bikes.SERVICE)

    def turns(self) -> list[str]:
        """Which releases held production, in order."""
        return [turn.release for turn in releases.turns(self.store, bikes.SERVICE)]

    def close(self) -> None:
        """End the runners."""
        self.controller.close()
        self.replay.close()


def told(store: Store) -> list[tuple[Any, ...]]:
    """Everything the monitors said and the controllers decided, without ids and wall times: what must be the same every time."""
    from andon.incidents.journal import journal_stream
    from andon.store import streams

    verdicts = [(v.at_us, v.check, v.status, v.value, v.message, v.n) for v in registry.verdicts_on(store, "service:bikes", limit=100_000)]
    with store.ledger.read() as connection:
        events = streams.read(connection, journal_stream(bikes.SERVICE))
    return sorted(verdicts, key=str) + [(event.event_us, event.type, str(event.body)) for event in events]


def stuck(name: str, value: float, since_us: int) -> Change:
    """One input always says the same."""

    def change(day_us: int, columns: Columns) -> Columns:
        return {**columns, name: np.full_like(columns[name], value)} if day_us >= since_us else columns

    return change


def scaled(names: tuple[str, ...], factor: float, since_us: int) -> Change:
    """Inputs in another unit."""

    def change(day_us: int, columns: Columns) -> Columns:
        return {**columns, **{name: columns[name] * factor for name in names}} if day_us >= since_us else columns

    return change


def shifted(name: str, by: int, modulo: int, since_us: int) -> Change:
    """A clock in another time zone."""

    def change(day_us: int, columns: Columns) -> Columns:
        return {**columns, name: (columns[name] + by) % modulo} if day_us >= since_us else columns

    return change


def gone(name: str, since_us: int) -> Change:
    """An input that is no longer sent: null throughout."""

    def change(day_us: int, columns: Columns) -> Columns:
        return {**columns, name: np.full_like(columns[name], np.nan)} if day_us >= since_us else columns

    return change
