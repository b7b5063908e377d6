"""Tracked runs, as people write them: ``with andon.run("bikes", params={"depth": 6}) as run: …``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from andon.core.actors import Actor, current_actor
from andon.operations.session import current_store
from andon.store import Store

if TYPE_CHECKING:
    from andon.tracking import Run


def run(
    experiment: str = "default",
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
    command: Sequence[str], *, experiment: str = "default", name: str = "", store: Store | None = None, actor: Actor | None = None
) -> int:
    """Run a program as a tracked run, wait for it, and return its exit code."""
    from andon import tracking

    result = tracking.run_command(store or current_store(), command, actor=actor or current_actor(), experiment=experiment, name=name)
    return result.exit_code
