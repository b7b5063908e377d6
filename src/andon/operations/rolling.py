"""Rollouts as every face offers them: beginning one, how long it will take, and what a person may ask of it."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.clocks import HOUR_US
from andon.core.errors import Conflict, InvalidInput
from andon.operations.session import current_store
from andon.rollouts import Canary, Rollout, RolloutPolicy, Strategy, rollout_of, rollout_policy, start, steer
from andon.rollouts.journal import ids_in, rollout_in
from andon.rollouts.strategies import AB, duration_us
from andon.store import Store, streams

TESTED = (Canary, AB)
"""Strategies that end in a verdict, and so take as long as the traffic makes them."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """How long a verdict will take at the traffic of late. ``hours`` None: it cannot be told, or will not come."""

    requests_an_hour: float
    units: int | None = None
    hours: float | None = None
    checks: tuple[tuple[str, float | None], ...] = ()
    """What must be proven, or a harm of a stated size, and the hours until it is."""
    says: str


def begin(
    release: str | Address,
    strategy: Strategy,
    *,
    why: str = "",
    force: bool = False,
    store: Store | None = None,
    actor: Actor | None = None,
) -> Rollout:
    """Begin a rollout. Refuses one whose verdict would take longer than the policy's ``longest`` at the present traffic, unless forced.

    Raises ``Conflict`` (naming blue-green as the way out, or another rollout under way), and what ``andon.rollouts.start`` raises.
    """
    store = store or current_store()
    at = Address.parse(release, kind="release")
    policy = rollout_policy(store, at.name)
    if isinstance(strategy, AB) and strategy.metric is not None:
        _check_metric(strategy, policy)
    told = forecast(store, at.name, strategy, policy)
    longest_us = duration_us(policy.longest, "longest")
    if not force and isinstance(strategy, Canary) and told.hours is not None and told.hours * HOUR_US > longest_us:
        raise Conflict(
            f"{told.says}, and the policy waits for {policy.longest} at most",
            next_step="use --strategy blue-green (it proves nothing, and goes back at once), or --force",
            requests_an_hour=round(told.requests_an_hour, 1),
        )
    return start(store, at, strategy, actor=actor or current_actor(), reason=why, policy=policy)


def _check_metric(strategy: AB, policy: RolloutPolicy) -> None:
    known = [metric.name for metric in policy.analysis.metrics]
    if strategy.metric not in known:
        told = f"the policy declares {', '.join(known)}" if known else "the policy declares no metric"
        raise InvalidInput(
            f"an A/B test is won by a metric of the policy; {told}", field="metric", next_step="andon policy register rollout/SERVICE FILE"
        )


def forecast(store: Store, service: str, strategy: Strategy, policy: RolloutPolicy | None = None) -> Forecast:
    """How long a strategy's verdict will take, from the requests of the last day."""
    from andon.telemetry.exposed import requests_an_hour

    policy = policy or rollout_policy(store, service)
    rate = requests_an_hour(store, service, store.clock.now_us())
    if not isinstance(strategy, TESTED) or (isinstance(strategy, AB) and strategy.rule == "person"):
        return Forecast(requests_an_hour=rate, says="it does not wait for a proof")
    if rate <= 0:
        return Forecast(requests_an_hour=0.0, says="nothing was asked in the last day, so nobody can tell when there will be a verdict")
    from andon.rollouts.expecting import expect, today

    now = today(store, service, policy)
    told = expect(strategy, policy, rate, now)
    units, hours = told.promote.units, told.promote.hours
    if units is None or hours is None:
        says = f"at {rate:,.0f} requests/h there will be no verdict: the policy requires nothing that can be proven"
        return Forecast(requests_an_hour=rate, says=says)
    checks = tuple((line.what, None if line.hours is None else round(line.hours, 3)) for line in (*told.checks, *told.abort))
    says = f"at {rate:,.0f} requests/h {_name(strategy)} needs {_long(hours)} to be proven ({units:,.0f} units)"
    if now.assumed:
        says += f"; nothing is known yet of this, so it is assumed: {', '.join(now.assumed)}"
    return Forecast(requests_an_hour=rate, units=round(units), hours=hours, checks=checks, says=says)


def _name(strategy: Strategy) -> str:
    return "a canary" if isinstance(strategy, Canary) else "an A/B test"


def _long(hours: float) -> str:
    """A stretch of time in words, to one figure or two."""
    if hours < 1:
        minutes = max(1, round(hours * 60))
        return "about a minute" if minutes == 1 else f"about {minutes} minutes"
    if hours < 1.5:
        return "about an hour"
    return f"about {hours:.0f} hours" if hours < 48 else f"about {hours / 24:.0f} days"


def promote(address: str | Address, *, why: str = "", store: Store | None = None, actor: Actor | None = None) -> Rollout:
    """Give the candidate production now. Raises what ``deploy`` raises, and ``Conflict`` when the rollout is over."""
    return steer(store or current_store(), address, "promote", actor=actor or current_actor(), reason=why)


def abort(address: str | Address, *, why: str, store: Store | None = None, actor: Actor | None = None) -> Rollout:
    """Give everything to the old release at once, and reject the candidate."""
    return steer(store or current_store(), address, "abort", actor=actor or current_actor(), reason=why)


def end(address: str | Address, *, why: str, store: Store | None = None, actor: Actor | None = None) -> Rollout:
    """Stop a rollout and leave production as it is; nobody is rejected."""
    return steer(store or current_store(), address, "end", actor=actor or current_actor(), reason=why)


def pause(address: str | Address, *, why: str = "", store: Store | None = None, actor: Actor | None = None) -> Rollout:
    """Stop a rollout where it is: no step and no promotion. Guards go on."""
    return steer(store or current_store(), address, "pause", actor=actor or current_actor(), reason=why)


def resume(address: str | Address, *, why: str = "", store: Store | None = None, actor: Actor | None = None) -> Rollout:
    """Let a paused or undecided rollout go on; its deadline counts from now."""
    return steer(store or current_store(), address, "resume", actor=actor or current_actor(), reason=why)


def all_rollouts(store: Store, *, under_way: bool = False) -> list[Rollout]:
    """Every rollout, the newest first."""
    with store.ledger.read() as connection:
        found = [rollout_in(connection, id_) for id_ in reversed(ids_in(connection))]
    return [state for state in found if not (under_way and state.over)]


def running(store: Store, service: str) -> Rollout | None:
    """The rollout under way of a service, if any."""
    from andon.releases import service_state

    id_ = service_state(store, service).rollout
    return None if id_ is None else rollout_of(store, id_)


def open_incidents(connection: Connection, service: str, since_us: int) -> tuple[str, ...]:
    """The open incidents of a service that were opened (wall time) since an instant: what the rollouts' controller waits for."""
    from andon.incidents.journal import state_in

    found = []
    for incident in state_in(connection, service).open:
        opened = streams.read(connection, str(Address("incident", incident.id)))
        if opened and opened[0].at_us >= since_us:
            found.append(str(Address("incident", incident.id)))
    return tuple(found)
