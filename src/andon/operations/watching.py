"""Watching services and pulling the cord, as every face offers it."""

from __future__ import annotations

import contextlib

from andon import releases
from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.errors import AndonError, InvalidInput, LeaseHeld, NotFound
from andon.core.verdicts import Verdict
from andon.operations.session import current_store
from andon.store import Store, leases


def cord(service: str | Address, *, why: str, store: Store | None = None, actor: Actor | None = None) -> str:
    """Pull the cord: open an incident on a service and triage it at once; returns ``incident:ID``.

    Raises ``InvalidInput`` without a reason, ``NotFound`` when nothing is in production.
    """
    from andon.incidents.controller import IncidentController
    from andon.serving.replaying import Replayer

    if not why.strip():
        raise InvalidInput("pulling the cord needs a reason: what did you see?", field="why")
    store = store or current_store()
    with Replayer(store) as replay:
        return IncidentController(replay).pull(store, _name(service), actor=actor or current_actor(), why=why)


def watch(service: str | Address, *, store: Store | None = None) -> list[Verdict]:
    """Judge every window of a service that is due, act on what is found, and return the verdicts.

    Raises ``NotFound`` when nothing is in production, ``LeaseHeld`` while another process watches it.
    """
    from andon.incidents.controller import IncidentController
    from andon.serving.replaying import Replayer

    store = store or current_store()
    found: list[Verdict] = []
    with Replayer(store) as replay:
        controller, name = IncidentController(replay), _name(service)
        if releases.service_state(store, name).current() is None:
            raise NotFound("nothing is in production under that name", address=str(Address("service", name)))
        try:
            while (judged := controller.step(store, name)) is not None:
                found += judged.verdicts
        except LeaseHeld as error:
            raise LeaseHeld(
                "another process watches this service",
                next_step=f"`andon up` does it all the time; see `andon show service:{name}`",
                **error.fields,
            ) from None
        finally:
            with contextlib.suppress(AndonError):
                controller.let_go(store, name)
    return found


def judged_until_us(service: str | Address, *, store: Store | None = None) -> int | None:
    """How far (event time) a service has been judged; None before the first window."""
    store = store or current_store()
    with store.ledger.read() as connection:
        state = leases.read_cursor(connection, f"watch:{_name(service)}").state
    return None if state is None else state["next_us"]


def _name(service: str | Address) -> str:
    return Address.parse(service, kind="service").name
