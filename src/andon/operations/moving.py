"""Deploying and going back, as every face offers it: the domain's verbs with the default store and the current person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from andon import registry, releases
from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.clocks import to_us
from andon.core.errors import InvalidInput
from andon.operations.session import current_store
from andon.releases import ANY_HOLDER, Moved
from andon.store import Store

if TYPE_CHECKING:
    from andon.rollouts import Rollout, Strategy

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


@overload
def deploy(
    release: str | Address,
    *,
    channel: str = releases.PRODUCTION,
    why: str = "",
    event_time: str | int | None = None,
    expected: Any = ANY_HOLDER,
    strategy: None = None,
    force: bool = False,
    store: Store | None = None,
    actor: Actor | None = None,
) -> Moved: ...


@overload
def deploy(
    release: str | Address,
    *,
    channel: str = releases.PRODUCTION,
    why: str = "",
    event_time: str | int | None = None,
    expected: Any = ANY_HOLDER,
    strategy: Strategy,
    force: bool = False,
    store: Store | None = None,
    actor: Actor | None = None,
) -> Rollout: ...


def deploy(
    release: str | Address,
    *,
    channel: str = releases.PRODUCTION,
    why: str = "",
    event_time: str | int | None = None,
    expected: Any = ANY_HOLDER,
    strategy: Strategy | None = None,
    force: bool = False,
    store: Store | None = None,
    actor: Actor | None = None,
) -> Moved | Rollout:
    """Give a service's channel to a release. Serving follows within a moment and drops nothing.

    With a ``strategy`` (``andon.canary(…)``, ``andon.shadow(…)``, ``andon.blue_green(…)``, ``andon.ab(…)``, ``andon.challenger(…)``) it
    comes to production that way, and the rollout is returned. ``force`` begins one that will take long, or deploys past one under way,
    which ends then. ``event_time`` is when this happened in the data's own time (for replays). Raises ``GateRefused``, ``GateUndecided``,
    ``Forbidden``, ``NotFound``, ``AliasMoved``, or ``Conflict`` while a rollout is under way; nothing has moved then.
    """
    store = store or current_store()
    at = registry.resolve(store, Address.parse(release, kind="release"))
    if strategy is not None:
        from andon.operations.rolling import begin

        if channel != releases.PRODUCTION or event_time is not None or expected is not ANY_HOLDER:
            told = "a rollout goes to production, now; channel, event_time and expected are for a deploy without one"
            raise InvalidInput(told, field="strategy")
        return begin(at, strategy, why=why, force=force, store=store, actor=actor)
    event_us = None if event_time is None else to_us(event_time, field="event_time")
    return releases.deploy(
        store,
        at,
        channel=channel,
        actor=actor or current_actor(),
        reason=why,
        event_us=event_us,
        expected=expected,
        over=_over(store, at.name, force=force),
    )


def _over(store: Store, service: str, *, force: bool) -> str:
    """The rollout that a deploy may end: one that has already given production to its candidate, and any when forced."""
    id_ = releases.service_state(store, service).rollout
    if id_ is None:
        return ""
    from andon.rollouts import rollout_of

    return id_ if force or rollout_of(store, id_).phase == "keeping" else ""


def rollback(
    service: str | Address,
    *,
    why: str,
    only: Sequence[releases.Component] = (),
    to: str | Address | None = None,
    channel: str = releases.PRODUCTION,
    event_time: str | int | None = None,
    expected: Any = ANY_HOLDER,
    store: Store | None = None,
    actor: Actor | None = None,
) -> Moved:
    """Put the last good release of a service back: an alias flip. With ``only``, just those components.

    While a candidate is being tried on a part of the users, that is what is taken back: the rollout is aborted and everything goes to
    production at once; ``to`` or ``only`` say that production itself is meant, and the rollout ends with it. Raises ``NotFound`` when there
    is nothing to go back to, ``Incompatible``, ``InvalidInput`` or ``AliasMoved``.
    """
    at = Address.parse(service, kind="service")
    store = store or current_store()
    if not (only or to) and (at.alias or channel) == releases.PRODUCTION:
        taken = _take_back(store, at.name, why, actor, expected)
        if taken is not None:
            return taken
    return releases.rollback(
        store,
        at.name,
        only=only,
        to=to,
        channel=at.alias or channel,
        actor=actor or current_actor(),
        reason=why,
        event_us=None if event_time is None else to_us(event_time, field="event_time"),
        expected=expected,
    )


def _take_back(store: Store, service: str, why: str, actor: Actor | None, expected: Any) -> Moved | None:
    """Abort the rollout whose candidate answers some of the users; None when there is none."""
    id_ = releases.service_state(store, service).rollout
    if id_ is None:
        return None
    from andon.rollouts import Shadow, rollout_of, steer

    state = rollout_of(store, id_)
    if isinstance(state.strategy, Shadow) or state.phase == "keeping":
        return None  # users see only production: that is what goes back
    if expected is not ANY_HOLDER and str(expected) != state.baseline:
        return None  # which then says that production is another
    steer(store, id_, "abort", actor=actor or current_actor(), reason=why)
    return Moved(channel=releases.PRODUCTION, release=state.baseline, previous=state.candidate, rollout=id_)


def waive(release: str | Address, *, why: str, lasting: str = "7d", store: Store | None = None, actor: Actor | None = None) -> str:
    """Let a refused or rejected release be deployed for a while (``12h``, ``7d``); returns the waiver's id. Only a person may."""
    store = store or current_store()
    at = registry.resolve(store, Address.parse(release, kind="release"))
    return releases.waive(store, at, for_s=seconds(lasting), actor=actor or current_actor(), reason=why)


def alias(
    address: str | Address, to: str | Address, *, why: str = "", store: Store | None = None, actor: Actor | None = None
) -> registry.Move:
    """Point ``kind:name@alias`` to a version. A service's channels move by ``deploy`` and ``rollback``, which know the rules."""
    at = Address.parse(address)
    if at.kind == "service":
        raise InvalidInput("a channel moves by deploying or rolling back", field="address", next_step=f"andon deploy {to}")
    return registry.move_alias(store or current_store(), at, to, actor=actor or current_actor(), reason=why)


def seconds(text: str) -> float:
    """Seconds from ``90s``, ``15m``, ``12h``, ``7d`` or ``2w``. Raises ``InvalidInput``.

    >>> seconds("12h")
    43200.0
    """
    unit = _UNITS_S.get(text[-1:])
    try:
        number = float(text[:-1])
    except ValueError:
        number = -1.0
    if unit is None or not 0 < number < 1e6:
        raise InvalidInput("a duration is a number and a unit: 90s, 15m, 12h, 7d or 2w", field="duration", got=text[:40])
    return number * unit
