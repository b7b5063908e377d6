"""A rollout as a page: its arms side by side, what is proven, how sure it has become, and what happened."""

from __future__ import annotations

from typing import Any

import msgspec

from andon import releases
from andon.core.addresses import Address
from andon.core.verdicts import Verdict
from andon.releases.splits import WHOLE
from andon.rollouts.analysis import AnalysisState, guard_alphas
from andon.rollouts.analysis.differences import history
from andon.rollouts.analysis.quantiles import quantile
from andon.rollouts.analysis.records import Difference
from andon.rollouts.controller import memory_of
from andon.rollouts.gathering import Memory
from andon.rollouts.journal import find_in, rollout_in
from andon.rollouts.policies import RolloutPolicy
from andon.rollouts.records import Rollout
from andon.rollouts.strategies import Canary, Shadow
from andon.rollouts.weighing import verdicts_of
from andon.store import Store, streams

MOST_EVENTS = 500


class ArmView(msgspec.Struct, frozen=True, kw_only=True):
    """One release of a rollout. Counts are of all its stages, latency quantiles of the present one (by units, as they are compared)."""

    name: str
    """``control`` or ``candidate``."""
    release: str
    share: float
    """Per cent of the units that see it now (of the copies, for a shadow)."""
    requests: int
    failed: int
    units: int
    slowest_ms: float
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


class SequencePoint(msgspec.Struct, frozen=True):
    """How much worse the candidate is (in the sequence's unit) after ``n`` units, with its confidence sequence."""

    n: int
    at_us: int
    low: float
    value: float
    high: float


class Sequence(msgspec.Struct, frozen=True, kw_only=True):
    """How sure it has become of one check: right at every point at once."""

    check: str
    unit: str
    margin: float
    points: tuple[SequencePoint, ...]


class RolloutEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the timeline; ``inputs`` are what it was decided on."""

    at_us: int
    kind: str
    why: str
    actor: str
    verdicts: tuple[str, ...] = ()
    inputs: dict[str, Any] = {}


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout, whole."""

    id: str
    service: str
    strategy: str
    candidate: str
    baseline: str
    phase: str
    where: str
    """The phase in words, such as ``step 2 of 4 (25 %)``."""
    says: str
    """Why it is there, or why nothing is done."""
    paused: bool
    started_us: int
    ended_us: int | None
    steps: tuple[float, ...]
    step: int
    arms: tuple[ArmView, ...]
    agreement: float | None
    """A shadow: the share of requests that both answered alike."""
    verdicts: tuple[Verdict, ...]
    sequences: tuple[Sequence, ...]
    timeline: tuple[RolloutEvent, ...]
    record: Rollout


def rollout_view(store: Store, address: str | Address) -> RolloutView:
    """The page of ``rollout:ID``, or of the rollout under way (else the last) of a service. Raises ``NotFound``."""
    with store.ledger.read() as connection:
        id_ = find_in(connection, address)
        state = rollout_in(connection, id_)
        events = streams.read(connection, id_)
    memory = memory_of(store, id_)
    policy = msgspec.convert(state.policy, RolloutPolicy)
    return RolloutView(
        id=id_,
        service=state.service,
        strategy=strategy_says(state),
        candidate=state.candidate,
        baseline=state.baseline,
        phase=state.phase,
        where=step_says(state),
        says=state.said or state.why,
        paused=state.paused,
        started_us=state.started_us,
        ended_us=state.ended_us,
        steps=state.strategy.steps if isinstance(state.strategy, Canary) else (),
        step=state.step,
        arms=_arms(store, state, memory),
        agreement=memory.pairs.agreed / memory.pairs.compared if memory.pairs.compared else None,
        verdicts=verdicts_of(state, memory, policy, state.ended_us or store.clock.now_us()),
        sequences=_sequences(memory.analysis, policy),
        timeline=tuple(_event(event) for event in events[-MOST_EVENTS:]),
        record=state,
    )


def strategy_says(state: Rollout) -> str:
    """What the strategy is called."""
    if isinstance(state.strategy, Shadow) and state.strategy.for_us is None:
        return "challenger"
    return str(msgspec.to_builtins(state.strategy)["strategy"])


def step_says(state: Rollout) -> str:
    """Where a rollout is, in a few words."""
    strategy = state.strategy
    paused = ", paused" if state.paused else ""
    if state.phase == "running" and isinstance(strategy, Canary):
        return f"step {state.step + 1} of {len(strategy.steps)} ({strategy.steps[state.step]:g} %){paused}"
    if state.phase == "undecided" and isinstance(strategy, Canary):
        return f"undecided at {strategy.steps[state.step]:g} %{paused}"
    if state.phase == "keeping":
        return f"promoted, {state.baseline} is kept for a while"
    return f"{state.phase}{paused}"


def under_way(store: Store, service: str) -> RolloutView | None:
    """The page of a service's rollout under way; None when there is none."""
    found = releases.service_state(store, service).rollout
    return None if found is None else rollout_view(store, found)


def _arms(store: Store, state: Rollout, memory: Memory) -> tuple[ArmView, ...]:
    live = releases.live_split(store, state.service)
    split = live.split if live is not None and live.split.rollout == state.id else None
    found = []
    histogram = memory.analysis.arms[0].latency.histogram if memory.analysis else ((), ())
    for arm, (name, release) in enumerate((("control", state.baseline), ("candidate", state.candidate))):
        tallies = [tally for key, tally in memory.tallies.items() if key.endswith(f"/{arm}")]
        share = 0.0
        if split is not None:
            places = [one.share for one in split.arms if one.release == release]
            places += [one.share for one in split.mirrors if one.release == release]
            share = sum(places) * 100 / WHOLE
        elif state.over:
            share = 100.0 if release == state.production else 0.0
        paired = memory.pairs.n if isinstance(state.strategy, Shadow) else 0
        times = [quantile(histogram[arm], level)[1] if histogram[arm] else None for level in (0.5, 0.95, 0.99)]
        found.append(
            ArmView(
                name=name,
                release=release,
                share=share,
                requests=sum(tally.requests for tally in tallies) or paired,
                failed=sum(tally.failed for tally in tallies),
                units=sum(tally.units for tally in tallies) or paired,
                slowest_ms=max((tally.slowest_ms for tally in tallies), default=0.0),
                p50_ms=times[0],
                p95_ms=times[1],
                p99_ms=times[2],
            )
        )
    return tuple(found)


def _sequences(analysis: AnalysisState | None, policy: RolloutPolicy) -> tuple[Sequence, ...]:
    """The confidence sequences of what is compared, in the units that the margins are in."""
    if analysis is None or not analysis.arms:
        return ()
    rules, alphas, one = policy.analysis, guard_alphas(policy.analysis), analysis.arms[0]
    asked: list[tuple[str, str, float, float, Difference, float]] = []
    if rules.errors is not None:
        asked.append(("errors", "share of units", rules.errors.margin, 1.0, one.error_rate, 1.0))
    if rules.latency is not None:
        names = [f"{value:g} ms" for value in rules.latency.thresholds_ms] or [
            f"the latest p{value * 100:g}" for value in rules.latency.levels
        ]
        for name, margin, rate in zip(names, rules.latency.margins, one.latency.rates or (Difference(),) * len(names), strict=True):
            asked.append((f"latency/{name}", f"share of units slower than {name}", margin, 1.0, rate, float(len(names))))
    for metric in rules.metrics:
        known = one.metrics.get(metric.name)
        if known is not None:
            asked.append((f"metric/{metric.name}", "worse", metric.margin, metric.high - metric.low, known.difference, 1.0))
    found = []
    for check, unit, margin, scale, difference, parts in asked:
        part = alphas.get(check if check in alphas else check.partition("/")[0], rules.alpha_abort) / parts
        points = history(difference, part, rules.alpha_promote)
        scaled = tuple(SequencePoint(n, at, low * scale, value * scale, high * scale) for n, at, low, value, high in points)
        found.append(Sequence(check=f"rollout/{check}", unit=unit, margin=margin, points=scaled))
    return tuple(found)


def _event(event: streams.Event) -> RolloutEvent:
    body = event.body
    return RolloutEvent(
        at_us=event.at_us,
        kind=event.type,
        why=str(body.get("why") or event.reason),
        actor=event.actor,
        verdicts=tuple(map(str, body.get("verdicts") or ())),
        inputs=dict(body.get("inputs") or {}),
    )
