"""What a supervisor needs of the ledger, in a thread of its own: the policy as it is now, and where decisions are written down.

What reads a ledger is imported by that thread, so that the supervisor need not wait for it. A ledger that is away costs nothing but the
record: the last policy stays in force, and decisions are kept until there are too many.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from andon.autoscaling import Decision, ServingPolicy, policy_of, stream_of, worth_recording
from andon.core.actors import Actor
from andon.core.errors import AndonError
from andon.core.settings import Settings
from andon.store import Store, open_store

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from andon.serving.presence import Presence

log = logging.getLogger("andon.scaling")
ACTOR = Actor("controller", "autoscaling")
LOOK_S = 2.0
KEPT = 1000


class Journal:
    """Follows ``policy:serving/SERVICE`` and records decisions. Every method returns at once."""

    def __init__(self, settings: Settings, service: str, policy: ServingPolicy, url: str) -> None:
        self.policy = policy
        self.asleep = False
        """Whether there is no replica on purpose: then this process's own row says where the service is reached."""
        self._settings = settings
        self._service = service
        self._url = url
        self._said: dict[str, int] = {}
        self._waiting: queue.SimpleQueue[tuple[int, Decision]] = queue.SimpleQueue()
        self._woken = threading.Event()
        self._stopping = False
        self._told = False
        self._thread = threading.Thread(target=self._run, name="andon-scaling", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def record(self, decision: Decision) -> None:
        """Write a decision down soon, if it says something new."""
        at_us = time.time_ns() // 1000
        if worth_recording(self._said, decision, at_us):
            if decision.action != "hold":
                log.info("service:%s %s from %d to %d: %s", self._service, decision.action, decision.before, decision.wanted, decision.why)
            if self._waiting.qsize() < KEPT:
                self._waiting.put((at_us, decision))
            self._woken.set()

    def stop(self, timeout_s: float = 3.0) -> None:
        """Write what waits, if the ledger lets it."""
        self._stopping = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        from andon.serving.presence import Presence

        try:
            with open_store(self._settings) as store:
                presence = Presence(store, self._service)
                while True:
                    ending = self._stopping
                    self._look(store, presence)
                    if ending:
                        return
                    self._woken.wait(LOOK_S)
                    self._woken.clear()
        except AndonError as error:
            log.warning("decisions about service:%s are not recorded: %s", self._service, error)

    def _look(self, store: Store, presence: Presence) -> None:
        try:
            self._write(store)
            self.policy = policy_of(store, self._service) or self.policy
        except AndonError as error:
            log.debug("the ledger is away: %s", error)
        asleep = self.asleep and not self._stopping
        if asleep or self._told:
            from andon.serving.presence import State

            self._told = asleep
            presence.write(State(url=self._url, status="asleep" if asleep else "gone"))

    def _write(self, store: Store) -> None:
        while not self._waiting.empty():
            at_us, decision = self._waiting.get()

            try:
                store.ledger.write(partial(_add, service=self._service, at_us=at_us, decision=decision))
            except AndonError:
                if self._waiting.qsize() < KEPT:
                    self._waiting.put((at_us, decision))
                raise


def _add(connection: Connection, *, service: str, at_us: int, decision: Decision) -> None:
    from andon.store import streams

    streams.append(connection, stream_of(service), decision.action, decision, at_us=at_us, actor=ACTOR, reason=decision.why)
