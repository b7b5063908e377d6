"""Deploying, promoting and rolling back: moves of a channel, decided and made in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec
from sqlalchemy import Connection

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import Conflict, Forbidden, GateRefused, GateUndecided, Incompatible, InvalidInput, NotFound
from andon.core.verdicts import Answer
from andon.registry import ANY, Version, aliases_of_in, get_in, manifest_of, move_alias_in, read_alias_in, register_in
from andon.releases.making import parents_of
from andon.releases.overruling import CONTROL, yield_in
from andon.releases.records import Pin, ReleaseManifest
from andon.releases.services import PRODUCTION, ServiceState, Turn, service_state_in, stream_of
from andon.store import Store, streams

Component = Literal["code", "environment", "data", "features", "model", "prompts", "indexes", "policies"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
PARTIAL_WAIVER_US = 24 * 3_600_000_000
"""How long a partial rollback runs before a gate must have judged it."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's move: what holds it now, what held it before."""

    channel: str
    release: str
    previous: str | None
    made: bool = False
    """Whether the release was made for this move (a partial rollback)."""
    rollout: str = ""
    """The rollout that this move put an end to, as ``rollout:ID``."""


def deploy(
    store: Store,
    release: str | Address,
    *,
    channel: str = PRODUCTION,
    actor: Actor,
    reason: str = "",
    event_us: int | None = None,
    expected: Any = ANY,
    over: str = "",
) -> Moved:
    """Give a channel to a release that the gate let through (or a person waived).

    ``expected`` is the release that must hold the channel now, ``over`` a rollout that ends with this. Raises ``GateRefused``,
    ``GateUndecided``, ``Forbidden`` (rejected before), ``AliasMoved``, ``NotFound``, or ``Conflict`` while another rollout of the service
    is under way; nothing has moved then.
    """
    now_us = store.clock.now_us()
    at = Address.parse(release, kind="release")
    return store.ledger.write(
        lambda c: deploy_in(
            c, at, now_us=now_us, channel=channel, actor=actor, reason=reason, event_us=event_us, expected=expected, over=over
        )
    )


def deploy_in(
    connection: Connection,
    release: str | Address,
    *,
    now_us: int,
    actor: Actor,
    reason: str,
    channel: str = PRODUCTION,
    event_us: int | None = None,
    expected: Any = ANY,
    over: str = "",
    steered: bool = False,
) -> Moved:
    """``deploy`` inside the caller's transaction; ``steered`` callers set the split themselves."""
    version = fit_in(connection, release, channel, now_us)
    moved = _move(connection, version, channel, "deployed", now_us, actor, reason, event_us, expected)
    if steered:
        return moved
    return _past_rollout(connection, version.address.name, moved, "deployed", over, now_us, actor, reason)


def fit_in(connection: Connection, release: str | Address, channel: str, now_us: int) -> Version:
    """The release, if a channel would take it now. Raises ``GateRefused``, ``GateUndecided``, ``Forbidden`` or ``NotFound``."""
    version = get_in(connection, Address.parse(release, kind="release"))
    _refuse_unless_fit(service_state_in(connection, version.address.name), str(version.address), channel, now_us)
    return version


def _past_rollout(
    connection: Connection,
    service: str,
    moved: Moved,
    move: Literal["deployed", "rolled-back"],
    over: str,
    now_us: int,
    actor: Actor,
    reason: str,
) -> Moved:
    if moved.channel != PRODUCTION or moved.previous == moved.release:
        return moved
    ended = yield_in(connection, service, moved.release, move=move, over=over, now_us=now_us, actor=actor, reason=reason)
    return msgspec.structs.replace(moved, rollout=ended)


def rollback(
    store: Store,
    service: str,
    *,
    only: Sequence[Component] = (),
    to: str | Address | None = None,
    channel: str = PRODUCTION,
    actor: Actor,
    reason: str,
    event_us: int | None = None,
    expected: Any = ANY,
) -> Moved:
    """Put the last good release back, whole, or only some components of it.

    Whole: the channel goes to the newest release that held it, was let through, and was never rejected (or to ``to``, under the same
    rules); the one that is left is marked rejected, so that a second rollback goes further back and never returns to it. Partial: a new
    release equal to the current one but for ``only``, which come from that last good release; it must fit together, and runs under a
    waiver of a day until a gate has judged it.

    ``only=["data"]`` says that the training data was bad: the channel goes to the newest good release that was trained on other data, the
    dataset's aliases go back to what that release was trained on, and training is blocked until somebody allows it.

    Raises ``NotFound`` when there is nothing to go back to, ``Incompatible``, ``InvalidInput``, ``AliasMoved`` or ``Conflict``.
    """
    now_us = store.clock.now_us()
    waiver = store.ids.new()
    return store.ledger.write(
        lambda c: rollback_in(
            c,
            service,
            now_us=now_us,
            actor=actor,
            reason=reason,
            only=only,
            to=to,
            channel=channel,
            event_us=event_us,
            expected=expected,
            waiver=waiver,
        )
    )


def rollback_in(
    connection: Connection,
    service: str,
    *,
    now_us: int,
    actor: Actor,
    reason: str,
    only: Sequence[Component] = (),
    to: str | Address | None = None,
    channel: str = PRODUCTION,
    event_us: int | None = None,
    expected: Any = ANY,
    waiver: str = "",
) -> Moved:
    """``rollback`` inside the caller's transaction; ``waiver`` is the id of the waiver that a partial one grants."""
    if not reason.strip():
        raise InvalidInput("a rollback needs a reason: it is what the next person reads", field="why")
    unknown = [name for name in only if name not in COMPONENTS]
    if unknown:
        raise InvalidInput(f"a release has no component {unknown[0]!r}; it has {', '.join(COMPONENTS)}", field="only")
    state = service_state_in(connection, service)
    current = read_alias_in(connection, Address("service", service, None, channel))
    if current is None:
        raise NotFound("nothing holds this channel", address=f"service:{service}@{channel}", next_step="deploy a release first")
    if "data" in only and set(only) != {"data"}:
        raise InvalidInput("data goes back alone: the model that was trained on it goes with it", field="only")
    bad_data = _training_data(connection, current) if only else None
    target = _target(connection, state, current, channel, now_us, to, bad_data if "data" in only else None)
    stream = stream_of(service)
    if "data" in only:
        version = get_in(connection, target)
        _repoint_data(connection, bad_data, _training_data(connection, target), now_us, actor, reason)
        blocked = {"since_us": None, "incident": None}
        streams.append(connection, stream, "training-blocked", blocked, at_us=now_us, actor=actor, reason=reason, event_us=event_us)
    elif only:
        version = _recombine(connection, current, target, tuple(only), now_us, actor, reason)
        body = {"release": str(version.address), "id": waiver, "expires_us": now_us + PARTIAL_WAIVER_US}
        streams.append(connection, stream, "waived", body, at_us=now_us, actor=actor, reason=f"partial rollback: {reason}")
    else:
        version = get_in(connection, target)
    moved = _move(connection, version, channel, "rolled-back", now_us, actor, reason, event_us, expected)
    moved = _past_rollout(connection, service, moved, "rolled-back", "", now_us, actor, reason)
    streams.append(connection, stream, "rejected", {"release": current}, at_us=now_us, actor=actor, reason=reason, event_us=event_us)
    return msgspec.structs.replace(moved, made=bool(only) and "data" not in only)


def return_in(connection: Connection, release: str, *, now_us: int, actor: Actor, reason: str) -> Moved:
    """Give production back to the release that a rollout has just replaced, and reject the one that is left.

    No gate is asked: it held production when the rollout began. Whoever calls sets the split. Raises ``Conflict`` when it was rejected
    since, ``NotFound`` when it is gone.
    """
    version = get_in(connection, release)
    service, address = version.address.name, str(version.address)
    if address in service_state_in(connection, service).rejections:
        raise Conflict("the release to return to was rejected itself", release=address, next_step=f"andon rollback {service} --to RELEASE")
    current = read_alias_in(connection, Address("service", service, None, PRODUCTION))
    moved = _move(connection, version, PRODUCTION, "rolled-back", now_us, actor, reason, None, ANY)
    if current is not None and current != address:
        streams.append(connection, stream_of(service), "rejected", {"release": current}, at_us=now_us, actor=actor, reason=reason)
    return moved


def _training_data(connection: Connection, release: str) -> Pin | None:
    """The snapshot that a release's model was trained on."""
    data = manifest_of(get_in(connection, release), ReleaseManifest).data
    return data[0] if data else None


def _repoint_data(connection: Connection, bad: Pin | None, sound: Pin | None, now_us: int, actor: Actor, reason: str) -> None:
    """Aliases that point to the bad snapshot go back to the sound one, where the two are versions of one dataset."""
    if bad is None or sound is None or Address.parse(bad.address).entry != Address.parse(sound.address).entry:
        return
    entry = Address.parse(bad.address).entry
    for alias, target in aliases_of_in(connection, entry).items():
        if target == bad.address:
            address = Address(entry.kind, entry.name, None, alias)
            move_alias_in(connection, address, sound.address, now_us=now_us, actor=actor, reason=reason)


def rollback_target(store: Store, service: str, *, channel: str = PRODUCTION) -> str | None:
    """Where ``rollback`` would go now, or None when there is nowhere."""
    with store.ledger.read() as connection:
        current = read_alias_in(connection, Address("service", service, None, channel))
        if current is None:
            return None
        try:
            return _target(connection, service_state_in(connection, service), current, channel, store.clock.now_us(), None)
        except NotFound:
            return None


def reject(store: Store, release: str | Address, *, actor: Actor, reason: str) -> None:
    """Mark a release as not to be deployed again without a waiver."""
    now_us = store.clock.now_us()
    at = Address.parse(release, kind="release")
    store.ledger.write(lambda c: reject_in(c, at, now_us=now_us, actor=actor, reason=reason))


def reject_in(connection: Connection, release: str | Address, *, now_us: int, actor: Actor, reason: str) -> None:
    """``reject`` inside the caller's transaction."""
    at = get_in(connection, Address.parse(release, kind="release")).address
    streams.append(connection, stream_of(at.name), "rejected", {"release": str(at)}, at_us=now_us, actor=actor, reason=reason)


def waive(store: Store, release: str | Address, *, for_s: float, actor: Actor, reason: str) -> str:
    """Let a refused or rejected release be deployed for ``for_s`` seconds; returns the waiver's id. Only a person may."""
    if actor.kind != "person":
        raise Forbidden("only a person grants a waiver", actor=str(actor))
    if not reason.strip():
        raise InvalidInput("a waiver needs a reason", field="reason")
    now_us, id_ = store.clock.now_us(), store.ids.new()

    def work(connection: Connection) -> None:
        at = get_in(connection, Address.parse(release, kind="release")).address
        body = {"release": str(at), "id": id_, "expires_us": now_us + int(for_s * 1e6)}
        streams.append(connection, stream_of(at.name), "waived", body, at_us=now_us, actor=actor, reason=reason)

    store.ledger.write(work)
    return id_


def turns(store: Store, service: str) -> tuple[Turn, ...]:
    """Every time a release came to hold a channel, oldest first."""
    with store.ledger.read() as connection:
        return service_state_in(connection, service).turns


def _refuse_unless_fit(state: ServiceState, release: str, channel: str, now_us: int) -> None:
    if state.waived(release, now_us) is not None:
        return
    waive_it = f"andon waive {release} --why REASON --for 7d"
    rejection = state.rejections.get(release)
    if rejection is not None:
        raise Forbidden(
            "this release was rejected and comes back only by a waiver",
            release=release,
            why=rejection.why,
            by=rejection.actor,
            next_step=waive_it,
        )
    judgement = state.judgements.get(release)
    if channel != PRODUCTION:
        return  # candidates and shadows are there to be judged
    if judgement is None or judgement.answer == Answer.UNDECIDED:
        raise GateUndecided(
            "no gate has let this release through", release=release, next_step=f"release it again with evaluation examples, or {waive_it}"
        )
    if judgement.answer == Answer.NO:
        raise GateRefused(
            "the gate refused this release", release=release, next_step=f"andon show {release}; fix what failed, or {waive_it}"
        )


def _target(
    connection: Connection,
    state: ServiceState,
    current: str,
    channel: str,
    now_us: int,
    to: str | Address | None,
    not_trained_on: Pin | None = None,
) -> str:
    if to is not None:
        named = str(get_in(connection, Address.parse(to, kind="release")).address)
        if named == current:
            raise Conflict("that release holds the channel already", release=named)
        _refuse_unless_fit(state, named, channel, now_us)
        return named
    control = read_alias_in(connection, Address("service", state.name, None, CONTROL)) if channel == PRODUCTION else None
    if control is not None and control != current and control not in state.rejections and not_trained_on is None:
        return control  # a rollout keeps it warm for this: it held production until a moment ago, whatever let it through
    for release in reversed(state.held(channel)):
        if release == current or release in state.rejections:
            continue
        if not_trained_on is not None and _training_data(connection, release) == not_trained_on:
            continue
        judgement = state.judgements.get(release)
        if judgement is not None and judgement.answer == Answer.GO:
            return release
    raise NotFound(
        "no earlier release held this channel and passed its gate without being rejected since",
        service=state.name,
        next_step=f"name one with --to, or waive one: andon history service:{state.name}",
    )


def _move(
    connection: Connection,
    version: Version,
    channel: str,
    kind: str,
    now_us: int,
    actor: Actor,
    reason: str,
    event_us: int | None,
    expected: Any,
) -> Moved:
    release, service = version.address, version.address.name
    alias = Address("service", service, None, channel)
    before = read_alias_in(connection, alias)
    if before == str(release) and expected is ANY:
        return Moved(channel=channel, release=str(release), previous=before)
    move_alias_in(connection, alias, release, now_us=now_us, actor=actor, reason=reason, expected=expected)
    if channel == PRODUCTION:
        # The model's champion is what production pins; both move in one transaction.
        model = Address.parse(manifest_of(version, ReleaseManifest).model.address)
        champion = Address(model.kind, model.name, None, "champion")
        move_alias_in(connection, champion, model, now_us=now_us, actor=actor, reason=f"{release} holds production")
    body = {"release": str(release), "channel": channel, "previous": before}
    streams.append(connection, stream_of(service), kind, body, at_us=now_us, actor=actor, reason=reason, event_us=event_us)
    return Moved(channel=channel, release=str(release), previous=before)


def _recombine(
    connection: Connection, current: str, target: str, only: tuple[Component, ...], now_us: int, actor: Actor, reason: str
) -> Version:
    now = manifest_of(get_in(connection, current), ReleaseManifest)
    good = manifest_of(get_in(connection, target), ReleaseManifest)
    changed = {name: getattr(good, name) for name in only}
    if all(getattr(now, name) == value for name, value in changed.items()):
        raise Conflict(f"{target} has the same {', '.join(only)}, so going back to it changes nothing", current=current, target=target)
    if now.signature != good.signature and {"model", "code"} & set(only) and not {"model", "code"} <= set(only):
        raise Incompatible(
            "the two releases take different requests, so model and code go back together",
            field="only",
            next_step="use --only model --only code",
        )
    mixed = msgspec.structs.replace(now, **changed, verdicts=(), waivers=())
    if {"model", "code"} <= set(only):
        mixed = msgspec.structs.replace(mixed, signature=good.signature, example=good.example)
    if {"model", "code", "environment"} & set(only):
        mixed = msgspec.structs.replace(mixed, scored=good.scored if set(only) >= {"model", "code"} else now.scored)
    blobs = [digest for digest in (mixed.code.tree, mixed.code.dirty_diff, mixed.scored, mixed.environment.wheels) if digest]
    return register_in(
        connection,
        "release",
        now.service,
        mixed,
        now_us=now_us,
        actor=actor,
        reason=f"partial rollback of {', '.join(only)} from {current} to {target}: {reason}",
        parents=parents_of(mixed),
        blobs=blobs,
    )
