"""The controllers' loop: one thread, one lease. Any number of control planes may run over one ledger, and exactly one acts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from andon.core.clocks import SECOND_US
from andon.core.errors import AndonError, LeaseHeld
from andon.operations.controllers import Controller
from andon.store import Store
from andon.store.leases import release_lease, take_lease
from andon.tracking.liveness import holder, is_alive

log = logging.getLogger("andon.controllers")
LEASE = "controllers"
LEASE_S = 30.0
IDLE_S = 0.1
"""Between looks that found nothing to do. A controller sees that cheaply, and a lease is renewed only when a third of it has gone."""
WAIT_S = 5.0
"""How long to look away when another process acts, or the ledger is not there."""


class Controllers:
    """Runs ``tick`` of each in turn while this process holds the lease."""

    def __init__(self, store: Store, controllers: Sequence[Controller], *, idle_s: float = IDLE_S, wait_s: float = WAIT_S) -> None:
        self._store = store
        self._controllers = tuple(controllers)
        self._idle_s, self._wait_s = idle_s, wait_s
        self._holder = f"{store.ids.new()} {holder()}"
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed: dict[str, str] = {}
        self._renew_us = 0

    def start(self) -> None:
        """Begin; does nothing without controllers."""
        if self._controllers:
            self._thread = threading.Thread(target=self._run, name="andon-controllers", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish the tick in hand, give the lease back, and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._take()
            except LeaseHeld:  # another control plane acts; it may die, so look again
                self._stopping.wait(self._wait_s)
                continue
            except AndonError as error:
                log.warning("the controllers wait for the ledger: %s", error)
                self._stopping.wait(self._wait_s)
                continue
            if not self._round():
                self._stopping.wait(self._idle_s)
        self._let_go()
        for controller in self._controllers:
            close = getattr(controller, "close", None)  # few hold anything open
            if close is not None:
                close()

    def _take(self) -> None:
        now_us = self._store.clock.now_us()
        if now_us < self._renew_us:
            return

        def alive(held_by: str) -> bool:
            return is_alive(held_by.partition(" ")[2] or held_by, now_us + 1, now_us=now_us)

        for_us = int(LEASE_S * SECOND_US)
        self._store.ledger.write(lambda c: take_lease(c, LEASE, self._holder, now_us=now_us, for_us=for_us, alive=alive))
        self._renew_us = now_us + int(LEASE_S * SECOND_US / 3)

    def _let_go(self) -> None:
        try:
            self._store.ledger.write(lambda c: release_lease(c, LEASE, self._holder))
        except AndonError as error:  # it expires by itself
            log.debug("the lease was not given back: %s", error)

    def _round(self) -> bool:
        """One tick of each; whether any had something to do."""
        busy = False
        for controller in self._controllers:
            if self._stopping.is_set():
                return False
            try:
                busy |= bool(controller.tick(self._store))
                self._failed.pop(controller.name, None)
            except Exception as error:  # one controller's defect must not stop the others; it is logged and tried again
                said = f"{type(error).__name__}: {error}"
                if self._failed.get(controller.name) != said:  # once per new complaint, not once a second
                    log.warning("controller %s: %s", controller.name, said, exc_info=not isinstance(error, AndonError))
                self._failed[controller.name] = said
        return busy
