"""Tracked runs, as people write them: ``with andon.run("bikes", params={"depth": 6}) as run: …``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.actors import Actor, current_actor
from andon.operations.session import current_store
from andon.store import Store

if TYPE_CHECKING:
    from andon.tracking import Run


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """How a tracked command ended: its run's address, its exit code, and what kept it from ending by itself (not found, a signal)."""

    address: str
    exit_code: int
    problem: str


def run(
    experiment: str = "Default",
    *,
    name: str = "",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    parent: str | None = None,
    store: Store | None = None,
    actor: Actor | None = None,
) -> Run:
    """Start a tracked run; use it as a context manager.

    Captured without being asked: the commit and what differs from it, the entry point, the environment, the hardware, seeds, duration.
    Inside ``andon run -- CMD`` it joins the run that the command belongs to. An exception inside the block marks the run as failed.
    """
    from andon import tracking

    store, actor = store or current_store(), actor or current_actor()
    return tracking.start_run(store, experiment, actor=actor, name=name, params=params, tags=tags, parent=parent)


def run_command(
    command: Sequence[str], *, experiment: str = "Default", name: str = "", store: Store | None = None, actor: Actor | None = None
) -> Ran:
    """Run a program as a tracked run, and wait for it."""
    from andon import tracking
    from andon.store import streams

    store = store or current_store()
    result = tracking.run_command(store, command, actor=actor or current_actor(), experiment=experiment, name=name)
    address = f"run:{result.run.id}"
    with store.ledger.read() as connection:
        said = streams.read(connection, address)
    return Ran(address=address, exit_code=result.exit_code, problem=next((str(e.body["error"]) for e in said if "error" in e.body), ""))
