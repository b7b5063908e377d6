"""Monitoring and triage replayed offline over faults x features x dates x seeds x cities: who is caught, who is blamed, who is left alone.

Takes some minutes on one core; with ``ANDON_BENCH_SMOKE=1`` a small part. The tests run parts of it too. The monitor sees what production
would see: inputs as sent, predictions as answered, labels one day late. It is told nothing of the faults.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from _report import report
from andon.core.clocks import DAY_US, HOUR_US, to_iso, to_us
from andon.core.verdicts import Verdict
from andon.examples import DATA
from andon.incidents import (
    Action,
    AskTriage,
    Change,
    Finding,
    IncidentPolicy,
    IncidentsState,
    Observation,
    OpenIncident,
    Rollback,
    TriageEvidence,
    decide,
    fold,
    triage,
)  # fmt: skip
from andon.monitoring import (
    ComparisonState,
    Expectations,
    Frame,
    InputsState,
    Policy,
    Profile,
    QualityState,
    Reference,
    concat,
    expectations,
    frame,
    judge_comparison,
    judge_inputs,
    judge_quality,
    sound,
)  # fmt: skip

Columns = dict[str, Any]
Spoil = Callable[[Columns, np.ndarray], None]
"""Spoils columns in place on the rows of a mask."""
GATE_DAYS, TERM_DAYS, WARM_DAYS = 28, 28, 7


@dataclass(frozen=True)
class City:
    """A stream of hourly requests with labels."""

    name: str
    event_us: np.ndarray
    inputs: Columns
    label: np.ndarray
    first_live_us: int
    train_days: int = 180

    @cached_property
    def rows(self) -> Frame:
        return frame(self.event_us, self.inputs, label=self.label)


@dataclass(frozen=True)
class Release:
    """A fitted model behind a transform, with what its own gate saw."""

    name: str
    predict: Callable[[Mapping[str, Any]], np.ndarray]
    profile: Profile
    expected: Expectations


@dataclass
class Outcome:
    """What one replay ended in."""

    incidents: list[tuple[int, Finding]] = field(default_factory=list)
    causes: list[tuple[int, str, str]] = field(default_factory=list)
    rollbacks: list[tuple[int, str]] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    first_fail: dict[str, int] = field(default_factory=dict)
    paid: list[float] = field(default_factory=list)
    """For each rollback: loss of what it went to over what it left, on the two weeks *after* it."""


def bikes() -> City:
    """Washington: the data that the demo runs on."""
    import pyarrow.parquet as pq

    table = pq.read_table(DATA / "bike_sharing.parquet")
    names = ("hr", "weekday", "workingday", "holiday", "weathersit", "temp", "atemp", "hum", "windspeed")
    when = np.asarray(table["timestamp"]).astype("datetime64[us]").astype(np.int64)
    inputs = {name: np.asarray(table[name], dtype=np.float64) for name in names}
    return City("washington", when, inputs, np.asarray(table["cnt"], dtype=np.float64), to_us("2011-08-01"))


def elsewhere(seed: int, days: int = 800) -> City:
    """Another city, made up: other names, units, scale, season and noise, with text categories and correlated weather."""
    rng = np.random.default_rng(seed)
    start = to_us("2018-02-03")
    when = start + np.arange(days * 24, dtype=np.int64) * HOUR_US
    hour, day = when // HOUR_US % 24, (when - start) // DAY_US
    weekday = (when // DAY_US + 3) % 7

    def wander(rate: float, scale: float) -> np.ndarray:
        noise = rng.normal(0, scale * np.sqrt(1 - rate**2), len(when))
        path = np.zeros(len(when))
        for i in range(1, len(when)):
            path[i] = rate * path[i - 1] + noise[i]
        return path

    season = -np.cos(2 * np.pi * (day + 34 - 20) / 365.25)
    celsius = np.round(11 + 10 * season + 4 * np.sin(2 * np.pi * (hour - 9) / 24) + wander(0.985, 3.5), 1)
    rain = np.round(np.maximum(0, wander(0.9, 1.0) - 1.2) * 2, 1)
    sky = np.where(rain > 0.5, "rain", np.where(wander(0.95, 1) > 0.3, "cloud", "clear")).astype(object)
    closed = np.isin(day, rng.choice(days, size=days // 33, replace=False)) & (weekday < 5)
    office = ((weekday < 5) & ~closed).astype(np.float64)
    commute = np.exp(-(((hour - 8) / 1.5) ** 2)) + 1.2 * np.exp(-(((hour - 18) / 2) ** 2))
    leisure = np.exp(-(((hour - 14) / 4.5) ** 2))
    base = 40 + 900 * np.where(office > 0, commute + 0.3 * leisure, 0.9 * leisure)
    comfort = np.exp(-(((celsius - 22) / 16) ** 2)) * np.where(rain > 0.5, 0.5, 1.0)
    demand = base * comfort * (1 + 0.0004 * day) * np.exp(wander(0.97, 0.10))
    inputs = {
        "stunde": hour.astype(np.float64), "wochentag": (weekday + 1).astype(np.float64), "arbeitstag": office,
        "frei": closed.astype(np.float64), "himmel": sky, "t_celsius": celsius,
        "gefuehlt": np.round(1.15 * celsius - 3 + rng.normal(0, 0.4, len(when)), 1), "regen_mm": rain,
        "druck_hpa": np.round(1013 + wander(0.99, 8), 1),
    }  # fmt: skip
    return City(f"elsewhere-{seed}", when, inputs, rng.poisson(demand).astype(np.float64), start + (365 + GATE_DAYS) * DAY_US, 365)


def fit(city: City, at_us: int, *, seed: int = 0, policy: Policy | None = None, name: str = "", trees: int = 100) -> Release:
    """Train on ``city.train_days``, gate on the next 28 (unseen, no refit), ready to go live at ``at_us``; fewer trees learn faster."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = city.rows
    training = rows.between(at_us - (city.train_days + GATE_DAYS) * DAY_US, at_us - GATE_DAYS * DAY_US)
    names = list(city.inputs)
    places = {key: {v: i for i, v in enumerate(sorted(set(c.tolist())))} for key, c in city.inputs.items() if c.dtype.kind == "O"}

    def matrix(columns: Mapping[str, Any]) -> np.ndarray:
        return np.column_stack([
            np.array([places[key].get(one, np.nan) for one in columns[key].tolist()]) if key in places else columns[key] for key in names
        ])  # fmt: skip

    model = HistGradientBoostingRegressor(random_state=seed, max_iter=trees, learning_rate=10 / trees).fit(
        matrix(training.inputs), training.label
    )

    def predict(columns: Mapping[str, Any]) -> np.ndarray:
        return np.asarray(model.predict(matrix(columns)), dtype=np.float64)

    gate = rows.between(at_us - GATE_DAYS * DAY_US, at_us)
    gate = frame(gate.event_us, gate.inputs, label=gate.label, prediction=predict(gate.inputs))
    policy = policy or Policy()
    known = sound(concat([training, gate]), policy)[1]
    return Release(name or f"release:{city.name}@{to_iso(at_us)[:10]}", predict, known, expectations(Reference(training, gate), policy))


def spoiled(release: Release, name: str, transform: Spoil) -> Release:
    """The same model behind a broken transform; its gate ran offline, past the transform, and saw nothing."""

    def predict(columns: Mapping[str, Any]) -> np.ndarray:
        inputs = {key: column.copy() for key, column in columns.items()}
        transform(inputs, np.ones(len(next(iter(inputs.values()))), dtype=bool))
        return release.predict(inputs)

    return Release(name, predict, release.profile, release.expected)


class Line:
    """One service under watch: judged day by day, decided on, and rolled back when it is decided so."""

    def __init__(self, city: City, live: Release, previous: Release | None, policy: Policy) -> None:
        self.city, self.policy = city, policy
        self.live, self.previous = live, previous
        self.sent = city.rows
        self.answered = np.full(len(city.event_us), np.nan)
        self.by = np.full(len(city.event_us), "", dtype=object)
        self.quality, self.comparison, self.inputs = QualityState(), ComparisonState(), InputsState()
        self.state = IncidentsState(f"service:{city.name}")
        self.changes: list[Change] = []
        self.failed: list[Verdict] = []
        self.outcome = Outcome()
        self._said: dict[str, np.ndarray] = {}

    def fork(self, sent: Columns | None = None) -> Line:
        """A line with the same past, and from now on perhaps other requests."""
        other = copy.copy(self)
        other.answered, other.by = self.answered.copy(), self.by.copy()
        other.changes, other.failed, other.outcome = list(self.changes), list(self.failed), copy.deepcopy(self.outcome)
        if sent is not None:
            other.sent = replace(self.sent, inputs=sent)
        other._said = {} if sent is not None else {name: said.copy() for name, said in self._said.items()}
        return other

    def _answer(self, release: Release, low: int, high: int) -> np.ndarray:
        """What a release says to the requests ``low:high``; it is asked for four weeks at a time."""
        said = self._said.setdefault(release.name, np.full(len(self.city.event_us), np.nan))
        if np.isnan(said[low:high]).any():
            until = min(len(said), max(high, low + TERM_DAYS * 24))
            said[low:until] = release.predict({name: column[low:until] for name, column in self.sent.inputs.items()})
        return said[low:high]

    def deploy(self, release: Release, at_us: int, *, components: tuple[str, ...] = ("model", "data")) -> None:
        self.changes.append(
            Change(
                at_us=at_us, kind="release", subject=self.state.service, before=self.live.name, after=release.name, components=components
            )
        )
        self.previous, self.live = self.live, release

    def _served(self, start_us: int, end_us: int, labels_until_us: int) -> Frame:
        low, high = np.searchsorted(self.city.event_us, [start_us, end_us])
        rows = self.sent.between(start_us, end_us)
        label = np.where(rows.event_us < labels_until_us, rows.label, np.nan)
        return Frame(rows.event_us, rows.inputs, self.answered[low:high], label, self.by[low:high])

    def day(self, start_us: int) -> None:
        """Serve one day, judge what is due at its end, decide, and act."""
        end = start_us + DAY_US
        low, high = np.searchsorted(self.city.event_us, [start_us, end])
        if high > low:
            self.answered[low:high] = self._answer(self.live, int(low), int(high))
            self.by[low:high] = self.live.name
        due = self.policy.matured(end)
        window = (due - self.policy.window_us, due)
        recent = self._served(start_us - 9 * DAY_US, end, due)
        subject = self.state.service
        verdicts, self.inputs = judge_inputs(self.live.profile, self.inputs, recent, (start_us, end), subject=subject, policy=self.policy)
        one, self.quality = judge_quality(
            self.live.expected, self.quality, recent, window, subject=subject, release=self.live.name, policy=self.policy
        )
        low, high = np.searchsorted(self.city.event_us, window)
        theirs = self._answer(self.previous, int(low), int(high)) if self.previous is not None else None
        two, self.comparison = judge_comparison(
            self.comparison, recent.between(*window), theirs, window, subject=subject, release=self.live.name,
            previous=self.previous.name if self.previous else "", policy=self.policy,
        )  # fmt: skip
        self._decide((*verdicts, one, two), end, due)

    def _decide(self, verdicts: tuple[Verdict, ...], end_us: int, due_us: int) -> None:
        for verdict in verdicts:
            if verdict.status == "fail":
                self.failed.append(verdict)
                self.outcome.first_fail.setdefault(verdict.check, end_us)
        seen = Observation(at_us=end_us, release=self.live.name, verdicts=verdicts)
        actions = decide(self.state, seen, IncidentPolicy())
        if isinstance(actions[0], AskTriage):
            since = min([end_us - 7 * DAY_US, *(incident.onset_us for incident in self.state.open)])
            recent = [v for v in self.failed if v.at_us > since and v not in verdicts and v.check.startswith("inputs/")]
            finding = triage(TriageEvidence(
                subject=self.state.service, release=self.live.name, served=self._served(end_us - 35 * DAY_US, end_us, due_us),
                verdicts=(*recent, *verdicts), profile=self.live.profile, expected=self.live.expected, quality=self.quality,
                comparison=self.comparison, policy=self.policy, changes=tuple(self.changes), predict=self.live.predict,
            ))  # fmt: skip
            self.outcome.incidents.append((end_us, finding))
            actions = (
                actions[0],
                *decide(
                    self.state, Observation(at_us=end_us, release=self.live.name, verdicts=verdicts, finding=finding), IncidentPolicy()
                ),
            )
        self.state = fold(self.state, actions)
        self.outcome.actions += actions
        for action in actions:
            if isinstance(action, OpenIncident) or type(action).__name__ == "Escalate":
                self.outcome.causes.append((end_us, action.cause, ", ".join(action.suspects)))
            if isinstance(action, Rollback):
                self.outcome.rollbacks.append((end_us, action.to))
                assert self.previous is not None
                later = self.sent.between(end_us, end_us + 14 * DAY_US)
                both = [
                    float(np.abs(one.predict(later.inputs) - later.label).sum()) if len(later) else 1.0
                    for one in (self.previous, self.live)
                ]
                self.outcome.paid.append(both[0] / max(1e-9, both[1]))
                self.changes.append(
                    Change(at_us=end_us, kind="release", subject=self.state.service, before=action.release, after=action.to)
                )
                self.live, self.previous = self.previous, None


@dataclass
class Service:
    """A city's releases, one every 28 days from ``offset_days`` after its first live day."""

    city: City
    releases: list[Release]
    offset_days: int
    policy: Policy
    warm: dict[tuple[int, int], Line] = field(default_factory=dict)

    def at(self, term: int, day: int = 0) -> int:
        """The start of a day of a term."""
        return self.city.first_live_us + (self.offset_days + TERM_DAYS * term + day) * DAY_US

    def warmed(self, term: int, start_us: int, sent: Columns | None = None) -> Line:
        """A line that has served a week before ``start_us`` with the term's healthy release, and gets ``sent`` from then on."""
        if (term, start_us) not in self.warm:
            line = Line(self.city, self.releases[term], self.releases[term - 1] if term else None, self.policy)
            for day in range(start_us - WARM_DAYS * DAY_US, start_us, DAY_US):
                line.day(day)
            self.warm[term, start_us] = line
        return self.warm[term, start_us].fork(sent)


def calendar_of(city: City) -> tuple[str, str, str, list[str]]:
    """(hour, weekday, working day, measured features) of a city: for *making* faults only."""
    if city.name == "washington":
        return "hr", "weekday", "workingday", ["temp", "atemp", "hum", "windspeed"]
    return "stunde", "wochentag", "arbeitstag", ["t_celsius", "gefuehlt", "regen_mm", "druck_hpa"]


def _set(name: str, change: Callable[[np.ndarray], Any]) -> Spoil:
    def spoil(columns: Columns, mask: np.ndarray) -> None:
        column = columns[name].copy()
        column[mask] = change(column[mask])
        columns[name] = column

    return spoil


def upstream_faults(city: City) -> dict[str, tuple[str, Spoil]]:
    """Fault -> (feature, how its input is spoiled)."""
    hour, weekday, working, measured = calendar_of(city)
    faults: dict[str, tuple[str, Spoil]] = {
        f"{hour} +5 h": (hour, _set(hour, lambda x: (x + 5) % 24)),
        f"{hour} -1 h": (hour, _set(hour, lambda x: (x - 1) % 24)),
        f"{hour} frozen": (hour, _set(hour, lambda x: x[0])),
        f"{weekday} off by one": (weekday, _set(weekday, lambda x: x.min() + (x - x.min() + 1) % 7)),
        f"{working} stuck at 0": (working, _set(working, lambda _: 0.0)),
        f"{working} null": (working, _set(working, lambda _: np.nan)),
    }
    for name in measured[:3]:
        faults[f"{name} another unit"] = (name, _set(name, lambda x: x * 1.8 + 32))
        faults[f"{name} frozen"] = (name, _set(name, lambda x: x[0]))
        faults[f"{name} null"] = (name, _set(name, lambda _: np.nan))
    return faults


def bad_transforms(city: City) -> dict[str, Spoil]:
    """What a broken release does to its inputs, inside, unseen."""
    hour, _, working, measured = calendar_of(city)
    return {
        f"{hour} - 1": _set(hour, lambda x: (x - 1) % 24),
        f"{hour} + 2": _set(hour, lambda x: (x + 2) % 24),
        f"{working} dropped": _set(working, lambda _: 0.0),
        f"{working} inverted": _set(working, lambda x: 1 - x),
        f"{measured[0]} scaled": _set(measured[0], lambda x: x * 0.4),
        f"{measured[0]} dropped": _set(measured[0], lambda _: np.nan),
    }


def retrained(city: City, *, offset_days: int, seed: int, policy: Policy, trees: int = 100, most: int | None = None) -> Service:
    """A service that is retrained every 28 days until its data ends, or ``most`` times."""
    first = city.first_live_us + offset_days * DAY_US
    last = int(city.event_us[-1]) - 7 * DAY_US
    days = range(first, last, TERM_DAYS * DAY_US)[:most]
    return Service(city, [fit(city, at, seed=seed, policy=policy, trees=trees) for at in days], offset_days, policy)


def run_clean(service: Service) -> tuple[Outcome, int]:
    """The healthy service, retrained every 28 days, from end to end: (outcome, weeks)."""
    city, releases = service.city, service.releases
    line = Line(city, releases[0], None, service.policy)
    first = service.at(0)
    last = min(int(city.event_us[-1]) // DAY_US * DAY_US, service.at(len(releases), 7))
    for at in range(first, last, DAY_US):
        term, day = divmod((at - first) // DAY_US, TERM_DAYS)
        if day == 0 and 0 < term < len(releases):
            line.deploy(releases[term], at)
        line.day(at)
    return line.outcome, (last - first) // (7 * DAY_US)


def run_bad_release(service: Service, term: int, day: int, transform: Spoil) -> tuple[Outcome, int, float]:
    """A bad release on ``day`` of a term: (outcome, when, true loss ratio over the four weeks)."""
    start = service.at(term, day)
    line = service.warmed(term, start)
    good = service.releases[term]
    bad = spoiled(good, good.name + "-next", transform)
    rows = service.city.rows.between(start, start + TERM_DAYS * DAY_US)
    ratio = float(np.abs(bad.predict(rows.inputs) - rows.label).sum() / max(1e-9, np.abs(good.predict(rows.inputs) - rows.label).sum()))
    line.deploy(bad, start, components=("code",))
    for at in range(start, start + TERM_DAYS * DAY_US, DAY_US):
        line.day(at)
        if line.outcome.rollbacks:
            break
    return line.outcome, start, ratio


def run_upstream(service: Service, term: int, day: int, spoil: Spoil, days: int = 28) -> tuple[Outcome, int, float]:
    """An upstream fault on ``day`` of a term: (outcome, when, true loss ratio)."""
    city, live, start = service.city, service.releases[term], service.at(term, day)
    sent = dict(city.inputs)
    spoil(sent, (city.event_us >= start) & (city.event_us < start + days * DAY_US))
    line = service.warmed(term, start, sent)
    rows, broken = city.rows.between(start, start + days * DAY_US), line.sent.between(start, start + days * DAY_US)
    ratio = float(np.abs(live.predict(broken.inputs) - rows.label).sum() / max(1e-9, np.abs(live.predict(rows.inputs) - rows.label).sum()))
    for at in range(start, start + days * DAY_US, DAY_US):
        line.day(at)
    return line.outcome, start, ratio


def run_world(city: City, offset_days: int, seed: int, policy: Policy, days: int = 300, trees: int = 100) -> tuple[Outcome, int]:
    """A release that nobody retrains, and the one before it: (outcome, start)."""
    start = city.first_live_us + offset_days * DAY_US
    line = Line(city, fit(city, start, seed=seed, policy=policy, trees=trees), None, policy)
    # the "previous" release: the same recipe with another seed, as a team that redeploys without news would have
    line.previous = fit(city, start, seed=seed + 1, policy=policy, name="release:before", trees=trees)
    for at in range(start, min(start + days * DAY_US, int(city.event_us[-1]) // DAY_US * DAY_US), DAY_US):
        line.day(at)
    return line.outcome, start


def measure(
    cities: list[tuple[City, int, int]], *, every: int, faults_every: int, policy: Policy, say: Callable[[str], None], quick: bool = False
) -> list[dict[str, Any]]:
    """The table: one row a city (with its start offset in days and its seed). ``quick``: few and small releases."""
    table = []
    trees, most = (40, 4) if quick else (100, None)
    for city, offset, seed in cities:
        rng = np.random.default_rng(seed)
        service = retrained(city, offset_days=offset, seed=seed, policy=policy, trees=trees, most=most)
        row: dict[str, Any] = {"city": city.name, "offset_days": offset, "seed": seed, "releases": len(service.releases)}
        clean, weeks = run_clean(service)
        row["clean weeks"], row["clean incidents"] = weeks, len(clean.causes)
        row["clean rollbacks"] = len(clean.rollbacks)
        row["of them worth it"] = sum(one < 0.9 for one in clean.paid)
        for when, cause, suspects in clean.causes:
            say(f"  clean {city.name}+{offset}: {to_iso(when)[:10]} {cause} {suspects}")
        row |= _bad_rows(service, every, rng, say)
        row |= _upstream_rows(service, faults_every, rng, say)
        world, start = run_world(city, offset, seed, policy, days=90 if quick else 300, trees=trees)
        found = [(when - start) // DAY_US for when, cause, _ in world.causes if cause == "world"]
        row["world noticed, day"], row["world rollbacks"] = (found[0] if found else None), len(world.rollbacks)
        table.append(row)
        say(json.dumps(row))
    return table


def _bad_rows(service: Service, every: int, rng: Any, say: Callable[[str], None]) -> dict[str, Any]:
    harmful = caught = blamed_else = mild = mild_back = 0
    days = []
    for term in range(1, len(service.releases) - 1, every):
        for name, transform in bad_transforms(service.city).items():
            outcome, start, ratio = run_bad_release(service, term, int(rng.integers(5, 20)), transform)
            back = bool(outcome.rollbacks)
            if ratio < 1.25:
                mild, mild_back = mild + 1, mild_back + back
                continue
            harmful, caught = harmful + 1, caught + back
            blamed_else += (not back) and any(when > start for when, _, _ in outcome.causes)
            if back:
                days.append((outcome.rollbacks[0][0] - start) / DAY_US)
            else:
                say(f"  missed {service.city.name}+{service.offset_days}: {name} term {term} x{ratio:.2f} {_told(outcome)}")
    return {
        "harmful releases": harmful, "rolled back": caught, "days to rollback (median)": float(np.median(days)) if days else None,
        "mild releases": mild, "mild rolled back": mild_back, "harmful, other cause": blamed_else,
    }  # fmt: skip


def _upstream_rows(service: Service, every: int, rng: Any, say: Callable[[str], None]) -> dict[str, Any]:
    total = attributed = right = wrong = 0
    days = []
    for term in range(1, len(service.releases) - 1, every):
        for name, (feature, spoil) in upstream_faults(service.city).items():
            outcome, start, ratio = run_upstream(service, term, int(rng.integers(7, 14)), spoil, days=14)
            total += 1
            mine = [(when, suspects) for when, cause, suspects in outcome.causes if cause == "upstream" and when > start]
            attributed += bool(mine)
            named = [
                when for when, finding in outcome.incidents if finding.cause == "upstream" and feature in finding.suspects and when > start
            ]
            right += bool(named)
            wrong += bool(outcome.rollbacks)
            if named:
                days.append((named[0] - start) / DAY_US)
            if not named or outcome.rollbacks:
                where = f"{service.city.name}+{service.offset_days}"
                say(f"  fault {where}: {name} term {term} x{ratio:.2f} {_told(outcome)} {outcome.rollbacks}")
    return {
        "upstream faults": total, "attributed upstream": attributed, "feature named": right, "wrongly rolled back": wrong,
        "days to name (median)": float(np.median(days)) if days else None,
    }  # fmt: skip


def _told(outcome: Outcome) -> list[tuple[str, str, str]]:
    return [(to_iso(when)[:10], cause, suspects) for when, cause, suspects in outcome.causes]


def main() -> None:
    quick = bool(os.environ.get("ANDON_BENCH_SMOKE"))
    washington = bikes()
    cities = [(washington, 0, 0)] if quick else [
        (washington, 0, 0), (elsewhere(2), 5, 2), (washington, 17, 2), (elsewhere(1), 0, 1), (washington, 9, 1), (elsewhere(3), 11, 3),
    ]  # fmt: skip
    table = measure(cities, every=2, faults_every=3, policy=Policy(), say=lambda line: print(line, flush=True), quick=quick)
    columns = [key for key in table[0] if key not in ("city", "offset_days", "seed")]
    report(
        "monitoring_replay",
        "Faults, releases and seasons replayed: noticed, explained, answered",
        ("", *(f"{row['city']}+{row['offset_days']}" for row in table)),
        [(column, *(row[column] for row in table)) for column in columns],
        f"pure statistics over 17 months of hours per run, offline, one core; policy defaults; numpy {np.__version__}",
    )


if __name__ == "__main__":
    main()
