"""The controllers that ``andon up`` runs."""

from __future__ import annotations

from typing import Protocol

from andon.core.actors import Actor
from andon.core.clocks import SECOND_US
from andon.store import Store

ACTOR = Actor("controller", "settling")
SEAL_EVERY_US = 15 * SECOND_US
SETTLE_EVERY_US = 30 * SECOND_US


class Controller(Protocol):
    """Something that looks now and then, and acts when it must."""

    @property
    def name(self) -> str:
        """What it is called in logs."""
        ...

    def tick(self, store: Store) -> bool:
        """Do what is due; whether there was anything, and so whether to look again at once."""
        ...


class Sealing:
    """Each quarter of a minute turns finished segments of the inbox into parts, many small parts into few, and takes deleted traces out."""

    name = "sealing"

    def __init__(self) -> None:
        self._next_us = 0

    def tick(self, store: Store) -> bool:
        from andon.logs import reap_spans

        now_us = store.clock.now_us()
        if now_us < self._next_us:
            return False
        self._next_us = now_us + SEAL_EVERY_US
        if store.tables.seal():
            for table in store.tables.names():
                store.tables.compact(table)
        reap_spans(store)
        return False


class Settling:
    """Writes down runs whose process is gone as killed, every half a minute."""

    name = "settling"

    def __init__(self) -> None:
        self._next_us = 0

    def tick(self, store: Store) -> bool:
        now_us = store.clock.now_us()
        if now_us >= self._next_us:
            from andon.tracking import settle_runs

            self._next_us = now_us + SETTLE_EVERY_US
            settle_runs(store, actor=ACTOR)
        return False


def controllers() -> tuple[Controller, ...]:
    """The controllers of one process."""
    from andon.incidents.controller import IncidentController
    from andon.operations.retaining import Retention
    from andon.operations.rolling import open_incidents
    from andon.rollouts.controller import RolloutController

    return (RolloutController(open_incidents), IncidentController(), Sealing(), Settling(), Retention())
