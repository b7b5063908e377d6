"""What the pages' forms do. They work without JavaScript: a post, then a redirect to the page that shows what came of it.

The guard has already refused posts that another site's page sends. Each form carries the release that held production when the page was
drawn, so that nobody rolls back something they have not seen.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec
from litestar import Response, post
from litestar.params import FromPath, URLEncodedBody
from litestar.response import Redirect

from andon.api.guard import name_in
from andon.api.reading import Given
from andon.api.writing import By, expectation
from andon.board.pages import show_incident, show_release, show_service
from andon.board.words import href
from andon.core.addresses import Address
from andon.core.errors import AndonError, InvalidInput
from andon.operations import moving, showing, watching
from andon.releases import COMPONENTS


class Act(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of every form here; each uses some."""

    reason: str
    release: str = ""
    only: str = ""
    expected: str | None = None


Form = URLEncodedBody[Act]


def _reason(data: Act) -> str:
    if not data.reason.strip():
        raise InvalidInput("say why: the next person reads it", field="reason")
    return data.reason.strip()


@post("/services/{name:str}/rollback", include_in_schema=False, sync_to_thread=True)
def post_rollback(store: Given, actor: By, name: FromPath[str], data: Form) -> Response[str] | Redirect:
    """Put the last good release back."""
    service = name_in(name)
    try:
        if data.only and data.only not in COMPONENTS:
            raise InvalidInput("a release has no such component", field="only", got=data.only[:40])
        only = (data.only,) if data.only else ()
        moving.rollback(
            Address("service", service), why=_reason(data), only=only, expected=expectation(data.expected), store=store, actor=actor
        )  # fmt: skip
    except AndonError as error:
        return show_service(store, service, problem=error, typed={"form": "rollback", "reason": data.reason})
    return _to(f"/services/{quote(service, safe='')}?done=rolled-back")


@post("/services/{name:str}/deploy", include_in_schema=False, sync_to_thread=True)
def post_deploy(store: Given, actor: By, name: FromPath[str], data: Form) -> Response[str] | Redirect:
    """Give production to a release."""
    service = name_in(name)
    try:
        at = Address.parse(data.release, kind="release")
        if at.name != service:
            raise InvalidInput(f"this takes a release of {service}", field="release", got=str(at))
        moving.deploy(at, why=_reason(data), expected=expectation(data.expected), store=store, actor=actor)
    except AndonError as error:
        return show_service(store, service, problem=error, typed={"form": "deploy", "reason": data.reason})
    return _to(f"/services/{quote(service, safe='')}?done=deployed")


@post("/services/{name:str}/cord", include_in_schema=False, sync_to_thread=True)
def post_cord(store: Given, actor: By, name: FromPath[str], data: Form) -> Response[str] | Redirect:
    """Open an incident."""
    service = name_in(name)
    try:
        opened = watching.cord(Address("service", service), why=_reason(data), store=store, actor=actor)
    except AndonError as error:
        return show_service(store, service, problem=error, typed={"form": "cord", "reason": data.reason})
    return _to(href(opened))


@post("/releases/{name:str}/{version:str}/waive", include_in_schema=False, sync_to_thread=True)
def post_waive(store: Given, actor: By, name: FromPath[str], version: FromPath[str], data: Form) -> Response[str] | Redirect:
    """Let a refused release be deployed for a week."""
    address = f"release:{name_in(name)}@{version}"
    try:
        moving.waive(Address.parse(address), why=_reason(data), store=store, actor=actor)
    except AndonError as error:
        return show_release(store, address, problem=error)
    return _to(href(address))


@post("/incidents/{id:str}/rollback", include_in_schema=False, sync_to_thread=True)
def post_incident_rollback(store: Given, actor: By, id: FromPath[str], data: Form) -> Response[str] | Redirect:  # noqa: A002 - the name in the path
    """Do what the incident recommends."""
    view = showing.incident_view(store, Address.parse(f"incident:{id}"))
    action = next((action for action in view.actions if action.verb == "rollback"), None)
    try:
        if action is None:
            raise InvalidInput("this incident has nothing to roll back", field="id", got=id[:80])
        moving.rollback(
            Address("service", view.incident.service),
            why=_reason(data),
            to=action.target,
            expected=expectation(data.expected),
            store=store,
            actor=actor,
        )
    except AndonError as error:
        return show_incident(store, id, problem=error, typed={"reason": data.reason})
    return _to(f"/services/{quote(view.incident.service, safe='')}?done=rolled-back")


def _to(path: str) -> Redirect:
    return Redirect(path, status_code=303)


ROUTES = [post_rollback, post_deploy, post_cord, post_waive, post_incident_rollback]
