"""A small service with columns of every kind, whose releases are functions here: no model, no runner, no HTTP.

Everything from the logs on is real: labels, windows, monitors, triage, journal, moves. So a test may shuffle, repeat, delay or leave out
whatever arrives, and see what the controller makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from andon import datasets, registry, releases
from andon.core.clocks import DAY_US, HOUR_US
from andon.incidents import IncidentsState
from andon.incidents.controller import IncidentController
from andon.incidents.journal import state_of
from andon.logs import Label, Served, log_predictions, record_labels
from andon.models import Column, ModelManifest, Signature
from andon.monitoring import Policy
from andon.monitoring.served import register_monitor_policy
from andon.releases import Examples, ReleaseManifest
from andon.store import Store
from tests.conftest import ANA, START_US
from tests.unit.releases.conftest import LOCK

SIGNATURE = Signature(
    (Column("hr", "double"), Column("city", "string"), Column("member", "boolean"), Column("since", "datetime")),
    (Column("y", "double"),),
)
TRAINING_DAYS, GATE_DAYS = 35, 14
WALL_US = START_US + 400 * DAY_US
Columns = dict[str, Any]


def inputs(event_us: Any, seed: int = 0) -> Columns:
    """What is asked at those instants."""
    rng = np.random.default_rng([seed, int(event_us[0]) // DAY_US])
    n = len(event_us)
    return {
        "hr": (event_us // HOUR_US % 24).astype(float),
        "city": rng.choice(np.array(["dc", "ny", "sf"], dtype=object), n),
        "member": rng.random(n) < 0.5,
        "since": (event_us - rng.integers(1, 300, n) * DAY_US).view("M8[us]"),
    }


def expected(columns: Mapping[str, Any]) -> Any:
    """What is true of the inputs, but for noise."""
    city = np.array([{"dc": 0.0, "ny": 20.0, "sf": 40.0}.get(value, 0.0) for value in columns["city"]])
    return (
        100 + 50 * np.sin(np.asarray(columns["hr"], dtype=float) / 24 * 2 * np.pi) + city + 10 * np.asarray(columns["member"], dtype=float)
    )


def truth(columns: Columns, event_us: Any, kind: str) -> Any:
    """What turned out to be true."""
    rng = np.random.default_rng(int(event_us[0]) // HOUR_US)
    wanted = expected(columns)
    return (wanted + rng.normal(0, 15, len(wanted)) > 120).astype(float) if kind == "class" else wanted + rng.normal(0, 10, len(wanted))


@dataclass
class Small:
    """``service:small``, live from ``START_US``: ``per_hour`` requests an hour, labels a day late."""

    store: Store
    kind: str = "number"
    per_hour: int = 2
    policy: Policy | None = None
    bias: dict[str, float] = field(default_factory=dict)
    """By the name of a release's model: what it adds to the truth."""
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.controller = IncidentController(self.replay)
        self.now_us = START_US
        if self.policy is not None:
            register_monitor_policy(self.store, "small", self.policy, actor=ANA, reason="test")
        event_us = self.instants(START_US - (TRAINING_DAYS + GATE_DAYS) * DAY_US, START_US - GATE_DAYS * DAY_US)
        self.data = str(datasets.register(self.store, "small-training", self._table(event_us), event_time="at", actor=ANA).address)

    def instants(self, start_us: int, end_us: int) -> Any:
        return np.arange(start_us, end_us, HOUR_US // self.per_hour, dtype=np.int64)

    def _table(self, event_us: Any) -> Any:
        import pyarrow as pa

        columns = inputs(event_us)
        label = truth(columns, event_us, self.kind)
        return pa.table({"at": pa.array(event_us, type=pa.timestamp("us", tz="UTC")), **columns, "y": label})

    def replay(self, manifest: ReleaseManifest, columns: Mapping[str, Any]) -> Any:
        """What a release says; refuses columns that its signature does not describe, as the runtime does."""
        kinds = {name: np.asarray(values).dtype.kind for name, values in columns.items()}
        assert kinds == {"hr": "f", "city": "O", "member": "b", "since": "M"}, kinds
        wanted = expected(columns) + self.bias.get(manifest.model.address, 0.0)
        return (wanted > 120).astype(float) if self.kind == "class" else wanted

    def release(self, bias: float = 0.0, *, data: bool = True) -> str:
        """Make and deploy a release, waived if its gate refuses it."""
        event_us = self.instants(START_US - GATE_DAYS * DAY_US, START_US)
        columns = inputs(event_us)
        label = truth(columns, event_us, self.kind)
        baseline = np.full(len(label), label.mean().round())
        examples = Examples(columns=columns, label=label, event_us=event_us, baseline=baseline, baseline_name="always the same")
        files = self.store.blobs.put(f"a bias of {bias}".encode())
        model = registry.register(
            self.store,
            "model",
            "small",
            ModelManifest(format="onnx", files=files, entry="m.onnx", signature=SIGNATURE),
            actor=ANA,
            blobs=[files],
        )
        self.bias[str(model.address)] = bias
        manifest = releases.assemble(
            self.store,
            "small",
            model=model.address,
            environment=LOCK,
            data=(self.data,) if data else (),
            settings={"label": "y", "event_time": "at"},
        )
        made = releases.make(self.store, manifest, examples=examples, score=self.replay, actor=ANA, waive="a test", waiver_s=9e6)
        releases.deploy(self.store, made.address, actor=ANA, reason="a test", event_us=self.now_us)
        return str(made.address)

    def answer(self, event_us: Any, *, sent: Columns | None = None, ids: Sequence[str] | None = None, arrived_us: int = WALL_US) -> None:
        """Log answers of whatever holds production; request ids are the instants."""
        address = registry.resolve(self.store, "service:small@production")
        version = registry.get(self.store, address)
        columns = inputs(event_us) if sent is None else sent
        n = len(event_us)
        self.asked += [int(at) for at in event_us]
        log_predictions(
            self.store.tables,
            Served(
                service="small",
                release=str(address),
                release_digest=version.digest,
                channel="production",
                request_ids=ids or [str(int(at)) for at in event_us],
                row=[0] * n,
                event_us=[int(at) for at in event_us],
                arrival_us=[arrived_us] * n,
                latency_ms=[1.0] * n,
                inputs=columns,
                outputs={"y": self.replay(registry.manifest_of(version, ReleaseManifest), columns)},
            ),
        )

    def labels(self, event_us: Any, known_us: int | None = None) -> list[Label]:
        """The truth about requests at those instants, known a day later (or at ``known_us``)."""
        told = truth(inputs(event_us), event_us, self.kind)
        return [
            Label(request_id=str(int(at)), label=float(y), event_us=int(at) + DAY_US if known_us is None else known_us)
            for at, y in zip(event_us, told, strict=True)
        ]

    def tell(self, labels: Sequence[Label]) -> None:
        record_labels(self.store, "small", labels, actor=ANA)

    def day(self) -> Any:
        """The instants of the day that begins now."""
        return self.instants(self.now_us, self.now_us + DAY_US)

    def live(self, days: int) -> None:
        """Days on which all goes well: asked, judged, labelled."""
        for _ in range(days):
            if self.now_us > START_US:
                self.tell(self.labels(self.instants(self.now_us - DAY_US, self.now_us)))
            self.answer(self.day())
            self.now_us += DAY_US
            self.judge()

    def judge(self) -> int:
        """Judge all that is due; how many windows that was."""
        count = 0
        while self.controller.step(self.store, "small") is not None:
            count += 1
        return count

    @property
    def state(self) -> IncidentsState:
        return state_of(self.store, "small")

    def verdicts(self, check: str) -> list[tuple[int, str, int]]:
        """(window's end in days since the start, status, n) of one check, oldest first."""
        found = registry.verdicts_on(self.store, "service:small", check=check, limit=10_000)
        return [((one.at_us - START_US) // DAY_US, one.status, one.n) for one in reversed(found)]
