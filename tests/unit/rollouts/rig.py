"""A service under a rollout without any server: traffic is written to the logs as the data plane would, following the ledger's split."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from sqlalchemy import insert, update

from andon import registry
from andon.core.clocks import HOUR_US, SECOND_US, ManualClock
from andon.core.ids import Ids
from andon.logs import Label, Served, log_predictions, record_labels
from andon.logs.exposures import Exposure, log_exposures
from andon.releases import assemble, assign, deploy, live_split, make, service_state
from andon.releases.splits import Split, place
from andon.rollouts import Rollout, RolloutPolicy, Strategy, rollout_of, start, steer
from andon.rollouts.controller import RolloutController, memory_of
from andon.rollouts.journal import read_action
from andon.store import Store, streams
from andon.store.schema import replicas
from tests.conftest import ANA
from tests.unit.releases.conftest import LOCK, examples, register_model, scorer

OLD, NEW = "release:bikes@1", "release:bikes@2"


@dataclass(frozen=True)
class Answer:
    """What a release does with one request."""

    status: str = "ok"
    latency_ms: float = 5.0
    value: float | None = 100.0


Behaviour = Callable[[np.random.Generator], Answer]


def well(rng: np.random.Generator) -> Answer:
    """A sound release: answers in about five milliseconds."""
    return Answer(latency_ms=float(rng.gamma(5.0, 1.0)), value=float(rng.normal(100.0, 10.0)))


def failing(share: float) -> Behaviour:
    """As ``well``, but a share of the requests fails."""
    return lambda rng: Answer("model-failed", 1.0, None) if rng.random() < share else well(rng)


def slow(factor: float) -> Behaviour:
    """As ``well``, but so many times slower."""

    def answer(rng: np.random.Generator) -> Answer:
        said = well(rng)
        return Answer(said.status, said.latency_ms * factor, said.value)

    return answer


@dataclass
class Rig:
    """``service:bikes``: ``OLD`` holds production, ``NEW`` was let through by its gate."""

    store: Store
    clock: ManualClock
    controller: RolloutController = field(default_factory=RolloutController)
    behaviour: dict[str, Behaviour] = field(default_factory=dict)
    seed: int = 1
    asked: int = 0
    users: int = 0
    """0: each request is its own unit."""
    broken: str = ""
    """The country whose requests the new release fails to answer, every second one; one request in ten comes from there."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        # The rollout's id says who is shown what: the same in every run of a test.
        self.store = dataclasses.replace(self.store, ids=Ids(self.clock, random.Random(self.seed).randbytes))
        for tag in "ab":
            self.release(tag)
        deploy(self.store, OLD, actor=ANA)

    def release(self, tag: str, *, good: bool = True) -> str:
        self.clock.advance(HOUR_US)
        model = register_model(self.store, tag=tag)
        manifest = assemble(self.store, "bikes", model=model, environment=LOCK)
        score = scorer() if good else scorer(lambda _: 500.0)
        return str(make(self.store, manifest, examples=examples(9), score=score, actor=ANA, reason=tag).address)

    def replica(self, name: str = "r1", *, holds: tuple[str, ...] = (OLD, NEW), failing: dict[str, str] | None = None) -> None:
        """A replica's row, fresh."""
        load = msgspec.json.encode({"holds": list(holds), "failing": failing or {}}).decode()
        now_us = self.clock.now_us()
        values = {"status": "ready", "note": "", "seen_us": now_us, "load": load}

        def work(connection) -> None:  # type: ignore[no-untyped-def]
            if not connection.execute(update(replicas).where(replicas.c.id == name).values(**values)).rowcount:
                fixed = {"id": name, "service": "bikes", "url": "", "pid": 1, "started_us": now_us}
                connection.execute(insert(replicas).values(**fixed, **values))

        self.store.ledger.write(work)

    def start(self, strategy: Strategy, policy: RolloutPolicy | None = None) -> Rollout:
        self.rollout = start(self.store, NEW, strategy, actor=ANA, policy=policy).id
        return self.state

    @property
    def state(self) -> Rollout:
        return rollout_of(self.store, self.rollout)

    @property
    def split(self) -> Split | None:
        live = live_split(self.store, "bikes")
        return None if live is None else live.split

    @property
    def production(self) -> str:
        return str(registry.resolve(self.store, "service:bikes@production"))

    @property
    def rejected(self) -> set[str]:
        return set(service_state(self.store, "bikes").rejections)

    def actions(self) -> list[str]:
        with self.store.ledger.read() as connection:
            return [event.type for event in streams.read(connection, self.rollout)]

    def whys(self, kind: str) -> list[str]:
        with self.store.ledger.read() as connection:
            found = [read_action(event) for event in streams.read(connection, self.rollout) if event.type == kind]
        return [action.why for action in found]

    def ask(self, n: int, *, over_us: int = SECOND_US, wrong: float = 0.0) -> list[str]:
        """``n`` requests that arrived evenly over the last second, shared out as the split says (``wrong``: a share of candidates lost)."""
        split = self.split
        ids = [f"q{self.asked + i}" for i in range(n)]
        self.asked += n
        if split is None:
            return ids
        now_us = self.clock.now_us()
        shown, rows = [], []
        for i, request in enumerate(ids):
            unit = f"u{int(self.rng.integers(self.users))}" if self.users else request
            arm = assign(split, unit)
            if wrong and arm.channel == "candidate" and self.rng.random() < wrong:
                continue
            to = [(arm.channel, arm.release)]
            for mirror in split.mirrors:
                if place(split.salt + "m", request) < mirror.share:
                    to.append(("shadow", mirror.release))
            at_us = now_us - over_us + i * over_us // max(n, 1)
            for channel, release in to:
                answer = self.behaviour.get(release, well)(self.rng)
                country = "PT" if self.broken and i % 10 == 0 else "ES"
                if release == NEW and country == self.broken and self.rng.random() < 0.5:
                    answer = Answer("model-failed", 1.0, None)
                shown.append(
                    Exposure(
                        event_us=at_us, arrival_us=at_us, request_id=request, unit=unit, rollout=split.rollout, stage=split.stage,
                        channel=channel, release=release, status=answer.status, latency_ms=answer.latency_ms, rows=1,
                        slices=msgspec.json.encode(dict.fromkeys(split.slices, country)).decode() if split.slices else None,
                    )
                )  # fmt: skip
                if answer.status == "ok":
                    rows.append((request, channel, release, at_us, answer))
        for channel in {row[1] for row in rows}:
            self._log([row for row in rows if row[1] == channel], channel)
        log_exposures(self.store.tables, "bikes", shown)
        return ids

    def _log(self, rows: list[tuple[str, str, str, int, Answer]], channel: str) -> None:
        n = len(rows)
        log_predictions(
            self.store.tables,
            Served(
                service="bikes", release=rows[0][2], release_digest="b3:0", channel=channel, request_ids=[row[0] for row in rows],
                row=[0] * n, event_us=[row[3] for row in rows], arrival_us=[row[3] for row in rows],
                latency_ms=[row[4].latency_ms for row in rows], inputs={"hr": np.zeros(n)},
                outputs={"rentals": np.array([np.nan if row[4].value is None else row[4].value for row in rows])},
            ),
        )  # fmt: skip

    def label(self, ids: list[str], value: float, name: str | None = None) -> None:
        record_labels(self.store, "bikes", [Label(request_id=one, label=value, name=name) for one in ids], actor=ANA)

    def logged(self) -> tuple[int, int]:
        """Of the exposures in the log: how many units are behind the controller's mark, and how many requests were done before it."""
        mark = memory_of(self.store, self.rollout).mark
        done = "epoch_us(arrival_time) + cast(latency_ms * 1000.0 as bigint)"
        found = self.store.tables.query(
            f"""select count(*) filter (epoch_us(arrival_time) < ?) as units, count(*) as requests
            from "exposures/bikes" where stage > 0 and rollout = ? and {done} < ?""",
            [mark.arrived_us, self.rollout, mark.done_us],
        ).to_pylist()[0]
        return found["units"], found["requests"]

    def look(self) -> bool:
        return self.controller.step(self.store, self.rollout)

    def go(self, seconds: int, *, a_second: int = 100, wrong: float = 0.0, until: Callable[[Rollout], bool] | None = None) -> int:
        """So many seconds of traffic with a look after each; stops when ``until`` holds or the rollout is over. Returns the seconds."""
        for second in range(seconds):
            self.clock.advance(SECOND_US)
            self.replica()
            if a_second:
                self.ask(a_second, wrong=wrong)
            self.look()
            if self.state.over or (until is not None and until(self.state)):
                return second + 1
        return seconds

    def steer(self, verb: str, why: str = "because") -> Rollout:
        return steer(self.store, self.rollout, verb, actor=ANA, reason=why)
