"""``POST`` and ``DELETE``: the operations, with the actor who asked. Each is one ledger transaction: all of it happens, or nothing."""

from __future__ import annotations

from typing import Any

from litestar import Request, delete, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, SkipValidation

from andon import registry
from andon.api.bodies import Cord, Deploy, Done, Labels, MoveAlias, Rollback, SetTag, Waive
from andon.api.guard import name_in
from andon.api.reading import Given
from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.clocks import to_us
from andon.core.errors import Forbidden, InvalidInput
from andon.logs import Label, record_labels
from andon.operations import moving, showing, watching
from andon.releases import ANY_HOLDER, Moved

WRITERS = frozenset({"person", "token"})
By = NamedDependency[SkipValidation[Actor]]


def actor_of(request: Request[Any, Any, Any]) -> Actor:
    """Who writes: ``x-andon-actor`` if sent, else the person who started this server. Controllers and processes do not come in by HTTP."""
    named = request.headers.get("x-andon-actor")
    if named is None:
        here = current_actor()
        return here if here.kind in WRITERS else Actor("person", here.name)
    try:
        named = named.encode("latin-1").decode("utf-8")
    except UnicodeError:
        raise InvalidInput("the actor is not UTF-8", field="x-andon-actor") from None
    actor = Actor.parse(named)
    if actor.kind not in WRITERS:
        raise Forbidden("a request writes as a person or a token", field="x-andon-actor", got=str(actor)[:80])
    return actor


def expectation(text: str | None) -> Any:
    """For compare-and-swap: not sent means "wherever it points", empty means "nothing"."""
    return ANY_HOLDER if text is None else (text or None)


@post("/api/v1/services/{name:str}/deploy", sync_to_thread=True, status_code=200, summary="Give a channel to a release")
def post_deploy(store: Given, actor: By, name: FromPath[str], data: JSONBody[Deploy]) -> Moved:
    """Refused (409) unless its gate let it through or a person waived it; nothing has moved then."""
    at = Address.parse(data.release, kind="release")
    if at.name != name_in(name):
        raise InvalidInput(f"this takes a release of {name_in(name)}", field="release", got=str(at))
    return moving.deploy(
        at, channel=data.channel, why=data.reason, event_time=data.event_time, expected=expectation(data.expected), store=store, actor=actor
    )


@post("/api/v1/services/{name:str}/rollback", sync_to_thread=True, status_code=200, summary="Put the last good release back")
def post_rollback(store: Given, actor: By, name: FromPath[str], data: JSONBody[Rollback]) -> Moved:
    """An alias flip. The release that is left is marked rejected, and comes back only by a waiver."""
    showing.check_service(store, name_in(name))
    return moving.rollback(
        Address("service", name_in(name)),
        why=data.reason,
        only=data.only,
        to=data.to,
        channel=data.channel,
        event_time=data.event_time,
        expected=expectation(data.expected),
        store=store,
        actor=actor,
    )


@post("/api/v1/services/{name:str}/cord", sync_to_thread=True, summary="Pull the cord: open an incident")
def post_cord(store: Given, actor: By, name: FromPath[str], data: JSONBody[Cord]) -> Done:
    """Opens an incident and has it triaged."""
    showing.check_service(store, name_in(name))
    return Done(done="opened", detail=watching.cord(Address("service", name_in(name)), why=data.reason, store=store, actor=actor))


@post("/api/v1/services/{name:str}/labels", sync_to_thread=True, status_code=200, summary="Record labels that came late")
def post_labels(store: Given, actor: By, name: FromPath[str], data: JSONBody[Labels]) -> Done:
    """On disk when this answers. None is kept when one is wrong; the error names it."""
    showing.check_service(store, name_in(name))
    read = [
        Label(
            request_id=item.request_id,
            label=item.label,
            row=item.row,
            event_us=None if item.event_time is None else to_us(item.event_time, field=f"labels[{position}].event_time"),
        )
        for position, item in enumerate(data.labels)
    ]
    return Done(done="recorded", detail=record_labels(store, name_in(name), read, actor=actor))


@post("/api/v1/releases/{name:str}/{version:str}/waive", sync_to_thread=True, status_code=200, summary="Let a refused release be deployed")
def post_waive(store: Given, actor: By, name: FromPath[str], version: FromPath[str], data: JSONBody[Waive]) -> Done:
    """Only a person may. It changes what happens, never the verdict."""
    at = Address.parse(f"release:{name_in(name)}@{version}")
    return Done(done="waived", detail=moving.waive(at, why=data.reason, lasting=data.lasting, store=store, actor=actor))


@post("/api/v1/aliases", sync_to_thread=True, status_code=200, summary="Move or remove an alias")
def post_alias(store: Given, actor: By, data: JSONBody[MoveAlias]) -> registry.Move:
    """409 when it has moved since you looked. A service's channels move by deploying and rolling back."""
    import msgspec

    expected = registry.ANY if data.expected is msgspec.UNSET else data.expected
    at = Address.parse(data.address)
    if at.kind == "service":
        raise InvalidInput(
            "a channel moves by deploying or rolling back", field="address", got=str(at), next_step="POST …/deploy or …/rollback"
        )
    if data.to is None:
        return registry.remove_alias(store, at, actor=actor, reason=data.reason, expected=expected)
    return registry.move_alias(store, at, data.to, actor=actor, reason=data.reason, expected=expected)


@post("/api/v1/tags", sync_to_thread=True, status_code=200, summary="Set or remove a tag")
def post_tag(store: Given, actor: By, data: JSONBody[SetTag]) -> Done:
    """On anything that has an address; the change is journaled."""
    registry.set_tag(store, data.address, data.key, data.value, actor=actor, reason=data.reason)
    return Done(done="removed" if data.value is None else "set")


@delete("/api/v1/versions", sync_to_thread=True, status_code=200, summary="Delete a version; its tombstone stays")
def delete_version(store: Given, actor: By, address: FromQuery[str], reason: FromQuery[str]) -> Done:
    """409 while an alias or a living release needs it."""
    at = Address.parse(address)
    if at.version is None:
        raise InvalidInput("name the very version: kind:name@3", field="address", got=str(at))
    if not reason.strip():
        raise InvalidInput("a deletion needs a reason: the tombstone shows it", field="reason")
    gone = registry.delete(store, at, actor=actor, reason=reason)
    return Done(done="deleted", detail=str(gone.address))


ROUTES = [post_deploy, post_rollback, post_cord, post_labels, post_waive, post_alias, post_tag, delete_version]
