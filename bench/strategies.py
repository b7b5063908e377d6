"""What each rollout strategy catches, and what not: bad releases against strategies, over several seeds.

    OMP_NUM_THREADS=1 python bench/strategies.py           # some minutes on two cores
    python bench/strategies.py --page                      # the matrix of docs/rollout_strategies.md, from bench/results/strategies.json

A simulated service: 10 requests/s of 200,000 users for three hours, written to the logs of a store in memory as the data plane would,
by the split that the ledger holds. Rollouts, controller, analysis and decisions are the real ones, on a clock that is moved by hand. To be
quick the controller looks a second after a change and then ever less often (after a quarter of the time since), so delays are up to a
quarter too long.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from _bad_releases import FAULTS, LATENCY_MS, NOISE, P99_MS, Array, Batch, nothing
from _report import RESULTS, report
from andon.core.clocks import MINUTE_US, SECOND_US, ManualClock
from andon.logs import Served, log_predictions
from andon.logs.exposures import Exposure, log_exposures
from andon.logs.labels import outcomes_table
from andon.logs.labels import table_name as labels_table
from andon.releases import deploy
from andon.releases.splits import WHOLE, Split, arm_at, place
from andon.rollouts import RolloutPolicy, Strategy, ab, blue_green, canary, challenger, shadow
from andon.rollouts.analysis import AnalysisPolicy, LatencyPolicy, MetricPolicy, ScorePolicy
from andon.rollouts.journal import read_action
from andon.rollouts.records import Aborted, Rollout
from andon.store import memory_store, streams
from tests.conftest import ANA, START_US
from tests.unit.rollouts.rig import NEW, OLD, Rig

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
RATE, USERS = 10.0, 200_000
HOURS = 0.1 if SMOKE else 3.0
KINDS = list(FAULTS)[:3] if SMOKE else list(FAULTS)
RARE_AT_S, RARE = HOURS * 3600 * 5 / 6, 20
"""When the requests that come once a day come: after two and a half of the three hours; so many, within a minute."""
TIDY_EVERY = 12
DECLARED = "p99 +50 %, a threshold declared"
UNLOADABLE = "cannot be loaded"
SEEDS, MORE = (1, 0) if SMOKE else (2, 4)
NOBODY = ("shadow, 1 h", "challenger")
"""Answers of these reach nobody."""
SHORTER = {"challenger": "shadow, 1 h", "canary, holdback": "canary"}
STRATEGIES: dict[str, Callable[[], Strategy] | None] = {
    "deploy": None,
    "blue-green": lambda: blue_green(keep="1h"),
    "shadow, 1 h": lambda: shadow(for_="1h"),
    "challenger": challenger,
    "canary": lambda: canary(step="5m"),
    "canary, holdback": lambda: canary(step="5m", holdback=5, holdback_for="1h"),
    "A/B": lambda: ab(rule="winner", metric="booked"),
}


def policy(fault: str) -> RolloutPolicy:
    """What every rollout is compared by: everything that can be declared, and slices by country."""
    latency = LatencyPolicy(thresholds_ms=(LATENCY_MS, P99_MS), margins=(0.05, 0.01)) if fault == DECLARED else LatencyPolicy()
    metrics = (
        MetricPolicy(name="mae", low=0.0, high=40.0, better="lower", margin=0.6),
        MetricPolicy(name="booked", low=0.0, high=1.0, better="higher", margin=0.03),
        MetricPolicy(name="cost", low=0.0, high=4.0, better="lower", margin=0.1),
    )
    compared = AnalysisPolicy(latency=latency, scores=ScorePolicy(), metrics=metrics, slices=("country",))
    return RolloutPolicy(analysis=compared, delays={"mae": "30m", "booked": "10m", "cost": "1m"})


class Service(Rig):
    """The tests' rig, with traffic in columns."""

    fault = ""
    hurt = 0
    """Requests that were handed to the candidate for their answer."""
    mirrored = 0
    first_us: int | None = None
    _salt = ""
    _looks = 0

    def prepare(self, fault: str) -> None:
        """Say what the candidate is like, and let production answer for a minute."""
        self.fault, self.begun_us = fault, self.clock.now_us()
        self.clock.advance(MINUTE_US)
        self.serve()
        self.began_us = self.served_us = self.clock.now_us()

    @property
    def minutes(self) -> float:
        """Since the rollout began."""
        return (self.clock.now_us() - self.began_us) / MINUTE_US

    def loaded(self) -> None:
        """The replica's row, as fresh as they are."""
        if self.fault == UNLOADABLE:
            self.replica(holds=(OLD,), failing={NEW: "ModuleNotFoundError: No module named 'bikes'"})
        else:
            self.replica()

    def tidy(self) -> None:
        """What upkeep does to the logs."""
        self._looks += 1
        if self._looks % TIDY_EVERY == 0:
            self.store.tables.seal()
            for name in self.store.tables.names():
                self.store.tables.compact(name)

    def serve(self) -> None:
        """The requests since the last call, up to now."""
        from_us, now_us = getattr(self, "served_us", self.begun_us), self.clock.now_us()
        self.served_us = now_us
        n = int(self.rng.poisson(RATE * (now_us - from_us) / SECOND_US))
        at_us = np.sort(self.rng.integers(from_us, now_us, n))
        rare = np.zeros(n, dtype=bool)
        rare_us = getattr(self, "began_us", now_us) + int(RARE_AT_S * SECOND_US)
        if from_us <= rare_us < now_us:
            at_us = np.concatenate([at_us, rare_us + np.sort(self.rng.integers(0, max(1, min(MINUTE_US, now_us - rare_us)), RARE))])
            rare = np.concatenate([rare, np.ones(RARE, dtype=bool)])
            order = np.argsort(at_us, kind="stable")
            at_us, rare, n = at_us[order], rare[order], n + RARE
        user = self.rng.integers(0, USERS, n)
        signal = self.rng.normal(100.0, 10.0, n)
        asked = Asked(np.array([f"q{self.asked + i}" for i in range(n)], dtype=object), at_us, user, signal, rare)
        self.asked += n
        split = self.split
        if split is None:
            self._answer(asked, None, "production", self.production)
            return
        arms = self._arms(split, asked.user)
        for arm in split.arms:
            mine = asked.part(arms == arm.channel)
            self._answer(mine, split, arm.channel, arm.release, arm.share / WHOLE)
        for mirror in split.mirrors:
            if mirror.share:
                self._answer(asked, split, "shadow", mirror.release, mirror.share / WHOLE)

    def _arms(self, split: Split, user: Array) -> Array:
        if self._salt != split.salt:
            self._salt, self._places = split.salt, np.full(USERS, -1)
        for one in np.unique(user[self._places[user] < 0]).tolist():
            self._places[one] = place(split.salt, f"u{one}")
        channels = np.array([arm_at(split, at).channel for at in range(WHOLE)], dtype=object)
        return channels[self._places[user]]

    def _answer(self, asked: Asked, split: Split | None, channel: str, release: str, share: float = 1.0) -> None:
        if not len(asked.ids):
            return
        bad = release == NEW
        if bad and self.first_us is None:
            self.first_us = int(asked.at_us[0])
        since_s = (asked.at_us - (self.first_us or 0)) / SECOND_US
        had = self.mirrored if channel == "shadow" else self.hurt
        batch = Batch(self.rng, since_s, asked.signal, asked.user, asked.rare, share, had)
        (FAULTS[self.fault] if bad else nothing)(batch)
        if bad and channel == "shadow":
            self.mirrored += len(asked.ids)
        elif bad:
            self.hurt += len(asked.ids)
        self._log(asked, batch, channel, release)
        if split is not None:
            log_exposures(self.store.tables, "bikes", exposures(asked, batch, split, channel, release))
        if channel != "shadow":
            self._outcomes(asked, batch)

    def _log(self, asked: Asked, batch: Batch, channel: str, release: str) -> None:  # type: ignore[override]
        ok = batch.status == "ok"
        at_us = asked.at_us[ok].tolist()
        log_predictions(
            self.store.tables,
            Served(
                service="bikes", release=release, release_digest="b3:0", channel=channel, request_ids=asked.ids[ok].tolist(),
                row=[0] * len(at_us), event_us=at_us, arrival_us=at_us, latency_ms=batch.latency_ms[ok].tolist(),
                inputs={"country": np.where(asked.user[ok] % 50 == 0, "PT", "ES").astype(object)}, outputs={"rentals": batch.value[ok]},
            ),
        )  # fmt: skip

    def _outcomes(self, asked: Asked, batch: Batch) -> None:
        """The truth comes after 20 minutes, a booking after five, the cost at once; of failed requests only the truth."""
        ok, n = batch.status == "ok", len(asked.ids)
        truth = asked.signal + self.rng.normal(0.0, NOISE, n)
        books = (self.rng.random(n) < batch.books).astype(np.float64)
        self._record(labels_table("bikes"), asked.ids, asked.at_us + 20 * MINUTE_US, truth, None)
        self._record(outcomes_table("bikes"), asked.ids[ok], asked.at_us[ok] + 5 * MINUTE_US, books[ok], "booked")
        self._record(outcomes_table("bikes"), asked.ids[ok], asked.at_us[ok] + SECOND_US, batch.cost[ok], "cost")

    def _record(self, table: str, ids: Array, at_us: Array, values: Array, name: str | None) -> None:
        """As ``record_labels`` would at those times."""
        import pyarrow as pa

        n, time = len(ids), pa.timestamp("us", tz="UTC")
        if not n:
            return
        columns = {
            "event_time": pa.array(at_us, type=time), "arrival_time": pa.array(at_us, type=time), "request_id": pa.array(ids, pa.string()),
            "row": pa.array(np.zeros(n), pa.int32()), "label": pa.array(values, pa.float64()), "label_text": pa.nulls(n, pa.string()),
            "actor": pa.array([str(ANA)] * n, pa.string()),
        }  # fmt: skip
        if name is not None:
            columns["name"] = pa.array([name] * n, pa.string())
        self.store.tables.append(table, pa.RecordBatch.from_pydict(columns))


@dataclass(frozen=True)
class Asked:
    """Requests, in columns."""

    ids: Array
    at_us: Array
    user: Array
    signal: Array
    rare: Array

    def part(self, rows: Array) -> Asked:
        return Asked(self.ids[rows], self.at_us[rows], self.user[rows], self.signal[rows], self.rare[rows])


def exposures(asked: Asked, batch: Batch, split: Split, channel: str, release: str) -> list[Exposure]:
    columns = (asked.ids.tolist(), asked.at_us.tolist(), asked.user.tolist(), batch.status.tolist(), batch.latency_ms.tolist())
    return [
        Exposure(
            event_us=at_us, arrival_us=at_us, request_id=id_, unit=f"u{user}", rollout=split.rollout, stage=split.stage,
            channel=channel, release=release, status=status, latency_ms=latency_ms, rows=1,
        )
        for id_, at_us, user, status, latency_ms in zip(*columns, strict=True)
    ]  # fmt: skip


@dataclass(frozen=True)
class End:
    """How one rollout went. ``by``: what noticed; empty: nothing did. ``minutes`` from its start."""

    fault: str
    strategy: str
    by: str
    minutes: float
    hurt: int
    outcome: str


def one(fault: str, strategy: str, seed: int) -> list[End]:
    """One rollout of a bad release, until it is noticed, over or the time is up; before it, what its shorter form found.

    A canary without a holdback is over when one with a holdback promotes, and an hour's shadow is the first hour of a challenger.
    """
    clock = ManualClock(START_US)
    make = STRATEGIES[strategy]
    short: list[End] = []
    with memory_store(clock) as store:
        service = Service(store, clock, seed=seed)
        service.prepare(fault)
        end_us = service.began_us + int(HOURS * 3600 * SECOND_US)
        if make is None:
            return [deployed(service, fault, strategy, end_us)]
        service.start(make(), policy(fault))
        by = ""
        while clock.now_us() < end_us and not by and not service.state.over:
            since_us = clock.now_us() - service.state.since_us
            clock.advance(min(max(SECOND_US, since_us // 4), end_us - clock.now_us()))
            service.loaded()
            service.serve()
            service.look()
            service.tidy()
            by = noticed(service)
            outcome = "" if short or by else shorter_ends(strategy, service)
            if outcome:
                short = [ending(service, fault, SHORTER[strategy], "", outcome, end_us)]
        end = ending(service, fault, strategy, by, service.state.phase, end_us)
        if strategy in SHORTER and not short:
            short = [replace(end, strategy=SHORTER[strategy])]
        return [*short, end]


def shorter_ends(strategy: str, service: Service) -> str:
    """How the shorter form of a strategy is over by now; empty: it is not, or there is none."""
    if strategy == "challenger":
        return "ended" if service.minutes >= 60 else ""
    return "promoted" if strategy in SHORTER and service.state.phase == "keeping" else ""


def ending(service: Service, fault: str, strategy: str, by: str, outcome: str, end_us: int) -> End:
    """What is kept of it. Once it is over, production's answers are the candidate's unwatched."""
    unseen = round(RATE * (end_us - service.clock.now_us()) / SECOND_US) if outcome == "promoted" else 0
    return End(fault, strategy, by, service.minutes, service.hurt + unseen, outcome)


def deployed(service: Service, fault: str, strategy: str, end_us: int) -> End:
    """No strategy: production moves at once. Replicas keep what they hold when the new release cannot be loaded."""
    deploy(service.store, NEW, actor=ANA)
    asked = round(RATE * (end_us - service.began_us) / SECOND_US)
    return End(fault, strategy, "", 0.0, 0 if fault == UNLOADABLE else asked, "promoted")


def noticed(service: Service) -> str:
    """The check that spoke, or what needed no check; empty while nothing has."""
    state = service.state
    failing = sorted(name.removeprefix("rollout/") for name, status in state.statuses.items() if status == "fail")
    if state.phase == "aborted":
        return _short(_last(service, state))
    if state.phase == "ended" and "proven worse" in state.why:
        return "booked (A/B)"
    if not state.over and failing and (service.mirrored or state.phase == "undecided"):
        return failing[0] if len(failing) == 1 else ", ".join(failing)
    return ""


def _last(service: Service, state: Rollout) -> str:
    with service.store.ledger.read() as connection:
        actions = [read_action(event) for event in streams.read(connection, state.id)]
    return next(action.why for action in reversed(actions) if isinstance(action, Aborted))


def _short(why: str) -> str:
    known = {"cannot run": "loading", "process died": "deaths", "latest requests failed": "breaker", "not loaded everywhere": "loading"}
    found = next((name for words, name in known.items() if words in why), None)
    return found or why.partition(":")[0].removeprefix("metric/")


def run() -> list[End]:
    """``SEEDS`` rollouts of each, and ``MORE`` of what was noticed within a quarter of an hour every time: those are cheap."""
    ends: list[End] = []
    simulated = [name for name in STRATEGIES if name not in SHORTER.values()]
    with ProcessPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        for task in [pool.submit(one, *cell) for cell in product(KINDS, simulated, range(1, SEEDS + 1))]:
            ends += task.result()
        late = {(end.fault, end.strategy) for end in ends if not end.by or end.minutes > 15}
        soon = [(fault, name) for fault, name in product(KINDS, simulated) if (fault, name) not in late]
        for task in [pool.submit(one, *cell, seed) for cell, seed in product(soon, range(SEEDS + 1, SEEDS + MORE + 1))]:
            ends += task.result()
    return ends


def rows(ends: list[End]) -> list[tuple[Any, ...]]:
    """One for each bad release and strategy; minutes and answers are medians, of those that were noticed where any was."""
    found = []
    for fault in KINDS:
        for strategy in STRATEGIES:
            cell = [end for end in ends if (end.fault, end.strategy) == (fault, strategy)]
            seen = [end for end in cell if end.by]
            by = " or ".join(name for name, _ in Counter(end.by for end in seen).most_common(2)) or "-"
            outcome = ", ".join(name for name, _ in Counter(end.outcome for end in cell).most_common())
            minutes = round(median(end.minutes for end in seen), 1) if seen else "-"
            answers = round(median(end.hurt for end in seen or cell))
            found.append((fault, strategy, len(cell), len(seen), by, minutes, answers, outcome))
    return found


COLUMNS = ("the candidate", "strategy", "rollouts", "noticed", "by", "after minutes", "answers by it", "ended")


def page() -> str:
    """The matrix in Markdown, from the kept results."""
    kept = json.loads((RESULTS / "strategies.json").read_text(encoding="utf-8"))
    cells = {(row[0], row[1]): row for row in kept["rows"]}
    told = [name for name in STRATEGIES if name not in ("deploy", "challenger")]  # the page says those in words
    lines = ["| the candidate | " + " | ".join(told) + " |", "|---" * (len(told) + 1) + "|"]
    lines += [f"| {fault} | " + " | ".join(cell(cells[fault, strategy]) for strategy in told) + " |" for fault in FAULTS]
    return "\n".join(lines)


def cell(row: list[Any]) -> str:
    """What the page says of one bad release and one strategy."""
    _, strategy, rollouts, seen, by, minutes, answers, _ = row
    told = "" if strategy in NOBODY else f", {count_of(answers)}"
    share = "" if seen == rollouts else f"{seen} of {rollouts}: "
    return f"{share}**{by}**, {time_of(minutes)}{told}" if seen else f"no{told}"


def count_of(answers: int) -> str:
    """
    >>> count_of(61), count_of(6_376), count_of(108_230)
    ('61', '6,400', '108k')
    """
    return f"{answers / 1000:.0f}k" if answers >= 10_000 else f"{round(answers, -2):,}" if answers >= 1_000 else str(answers)


def time_of(minutes: float) -> str:
    """
    >>> time_of(0.0), time_of(0.4), time_of(2.6), time_of(75)
    ('at once', '24 s', '3 min', '1.2 h')
    """
    if minutes < 0.05:
        return "at once"
    return f"{minutes * 60:.0f} s" if minutes < 1 else f"{minutes:.0f} min" if minutes < 60 else f"{minutes / 60:.1f} h"


def main() -> None:
    if "--page" in sys.argv:
        print(page())
        return
    method = (
        f"{RATE:g} requests/s of {USERS:,} users for {HOURS:g} h; canary 5/25/50/100 %, steps of 5 min, holdback 5 % for 1 h; A/B 50 %; "
        f"seeds 1 to {SEEDS}, to {SEEDS + MORE} for what is noticed within 15 min; alpha 5 % over all guards; "
        "minutes and answers are medians; a shadow answers nobody; looks after 1 s, then after a quarter of the time since the last change"
    )
    report("strategies", "What each strategy notices of a bad release, and how many answers it gave before", COLUMNS, rows(run()), method)


if __name__ == "__main__":
    main()
