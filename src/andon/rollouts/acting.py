"""Carrying a decision out: the event, the split, the channels and the rejection, all in one transaction of the ledger or not at all."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import Conflict, InvalidInput, NotFound
from andon.registry import move_alias_in, read_alias_in
from andon.releases import (
    CANDIDATE,
    CONTROL,
    PRODUCTION,
    deploy_in,
    end_split_in,
    fit_in,
    live_split_in,
    reject_in,
    return_in,
    service_state_in,
    set_split_in,
    stream_of,
)
from andon.rollouts.decide import begin, by_hand
from andon.rollouts.journal import find_in, rollout_in, write_in
from andon.rollouts.policies import RolloutPolicy, check_rollout_policy, rollout_policy
from andon.rollouts.records import Aborted, Action, Ended, Promoted, Rollout, Started
from andon.rollouts.sharing import split_of
from andon.rollouts.strategies import AB, Shadow, Strategy, check_strategy
from andon.store import Store, streams

VERBS = ("promote", "abort", "end", "pause", "resume")


def start(
    store: Store,
    release: str | Address,
    strategy: Strategy,
    *,
    actor: Actor,
    reason: str = "",
    policy: RolloutPolicy | None = None,
) -> Rollout:
    """Begin a rollout of a release. It gets no traffic before every replica has it loaded.

    The gate's rules are those of ``deploy``, but for a shadow, which answers nobody. A standing challenger of the service steps aside.
    Raises ``GateRefused``, ``GateUndecided``, ``Forbidden``, ``NotFound`` (nothing holds production, so there is nothing to compare with),
    or ``Conflict`` while another rollout is under way; nothing has changed then.
    """
    now_us, id_ = store.clock.now_us(), str(Address("rollout", store.ids.new()))
    at = Address.parse(release, kind="release")
    policy = policy or rollout_policy(store, at.name)
    check_rollout_policy(policy)
    check_strategy(strategy)
    if isinstance(strategy, AB) and strategy.metric is not None and strategy.metric not in {one.name for one in policy.analysis.metrics}:
        raise InvalidInput("an A/B test is won by a metric of its policy", field="metric", got=strategy.metric[:80])

    def work(connection: Connection) -> Rollout:
        version = fit_in(connection, at, "shadow" if isinstance(strategy, Shadow) else PRODUCTION, now_us)
        candidate, service = str(version.address), version.address.name
        production = read_alias_in(connection, Address("service", service, None, PRODUCTION))
        if production is None:
            raise NotFound(
                "nothing holds production, so there is nothing to compare with",
                address=f"service:{service}@production",
                next_step=f"andon deploy {candidate}",
            )
        if production == candidate:
            raise Conflict("that release holds production already", release=candidate)
        _step_aside_in(connection, service, now_us, actor)
        why = reason or f"{candidate} by {msgspec.to_builtins(strategy)['strategy']}"
        started = Started(
            at_us=now_us,
            why=why,
            service=service,
            candidate=candidate,
            baseline=production,
            strategy=strategy,
            policy=msgspec.to_builtins(policy),
        )
        state = begin(id_, started)
        body = msgspec.to_builtins(started)
        streams.append(connection, id_, "started", body, at_us=now_us, actor=actor, reason=why, expected=0)
        deploy_in(connection, candidate, now_us=now_us, channel=CANDIDATE, actor=actor, reason=id_, steered=True)
        set_split_in(connection, service, split_of(state), expected=0, now_us=now_us)
        streams.append(connection, stream_of(service), "rollout-started", {"rollout": id_}, at_us=now_us, actor=actor, reason=why)
        return state

    return store.ledger.write(work)


def _step_aside_in(connection: Connection, service: str, now_us: int, actor: Actor) -> None:
    running = service_state_in(connection, service).rollout
    if running is None:
        return
    state = rollout_in(connection, running)
    if isinstance(state.strategy, Shadow) and state.strategy.for_us is None:
        ended = Ended(at_us=now_us, why="a standing challenger steps aside for another rollout")
        act_in(connection, state, ended, now_us=now_us, actor=actor)
        return
    raise Conflict(
        "a rollout of this service is under way",
        rollout=running,
        next_step=f"`andon rollout show {service}`; then `andon rollout promote`, `abort` or `end` it",
    )


def steer(store: Store, address: str | Address, verb: str, *, actor: Actor, reason: str) -> Rollout:
    """What a person asks of a rollout: ``promote``, ``abort``, ``end`` (production stays as it is), ``pause`` or ``resume``.

    Raises ``InvalidInput``, ``NotFound``, ``Conflict`` when it makes no sense now, and for ``promote`` what ``deploy`` raises.
    """
    if verb not in VERBS:
        raise InvalidInput(f"a rollout can {', '.join(VERBS)}", field="verb", got=verb[:40])
    if verb in ("abort", "end") and not reason.strip():
        raise InvalidInput(f"to {verb} a rollout needs a reason: it is what the next person reads", field="why")
    now_us = store.clock.now_us()

    def work(connection: Connection) -> Rollout:
        state = rollout_in(connection, find_in(connection, address))
        action = by_hand(state, verb, now_us, reason or f"{verb} by {actor}")
        return act_in(connection, state, action, now_us=now_us, actor=actor, reason=reason)

    return store.ledger.write(work)


def act_in(connection: Connection, state: Rollout, action: Action, *, now_us: int, actor: Actor, reason: str = "") -> Rollout:
    """Journal an action and do what it says; returns the state after it. Raises what the moves raise, and nothing has changed then."""
    after = write_in(connection, state, action, now_us=now_us, actor=actor, reason=reason)
    why = f"{state.id}: {reason or action.why}"
    if isinstance(action, Promoted):
        deploy_in(connection, state.candidate, now_us=now_us, actor=actor, reason=why, expected=state.baseline, steered=True)
        if action.keep:  # an alias is what keeps the old release from being deleted, and its environment from being swept
            control = Address("service", state.service, None, CONTROL)
            move_alias_in(connection, control, state.baseline, now_us=now_us, actor=actor, reason=why)
    elif isinstance(action, Aborted) and state.phase == "keeping":
        return_in(connection, state.baseline, now_us=now_us, actor=actor, reason=why)
    elif isinstance(action, Aborted):
        reject_in(connection, state.candidate, now_us=now_us, actor=actor, reason=why)
    if after.over:
        end_split_in(connection, state.service, state.id, now_us=now_us, actor=actor, reason=why)
        return after
    live, wanted = live_split_in(connection, state.service), split_of(after)
    if live is not None and live.split.rollout != state.id:
        raise Conflict("another rollout holds the split", rollout=live.split.rollout)
    if live is None or live.split != wanted:
        set_split_in(connection, state.service, wanted, expected=0 if live is None else live.revision, now_us=now_us)
    return after
