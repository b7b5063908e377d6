"""The thread between a front and its ledger: it polls, reports where the channels point and how requests are split, and keeps the
replica's row fresh.

It is a thread so that a ledger that stalls, however long, is never in a request's way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from andon.serving.presence import Presence, State
from andon.serving.source import ReleaseSource, View

log = logging.getLogger("andon.serving")
POLL_S = 0.02
"""Between two looks at ``changes()``, which costs some microseconds: half of it is what a flip waits on average."""
RECHECK_S = 5.0
"""The channels are read this often even when nothing seems to have changed."""
HEARTBEAT_S = 2.0

Heard = Callable[[View | None, str | None], None]


class Follower:
    """``heard`` is called on the thread with what the ledger says, or with why it could not be read."""

    def __init__(
        self,
        source: ReleaseSource,
        service: str,
        channels: Sequence[str],
        presence: Presence,
        heard: Heard,
        state: Callable[[], State],
        poll_s: float = POLL_S,
    ) -> None:
        self._source = source
        self._service = service
        self._channels = channels
        self.presence = presence
        self._heard = heard
        self._state = state
        self._poll_s = poll_s
        self._stopping = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="andon-follow", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look now, and write the row if it has changed."""
        self._woken.set()

    def stop(self) -> None:
        """End soon, after the row says ``gone``."""
        self._stopping = True
        self._woken.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the end; a ledger that stalls is left behind after ``timeout_s``."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        seen: int | None = None
        checked_s = beat_s = 0.0
        said: object = None
        while not self._stopping:
            now_s = time.monotonic()
            try:
                changes = self._source.changes()
                if changes != seen or now_s - checked_s > RECHECK_S:
                    view = self._source.look(self._service, self._channels)
                    seen, checked_s = changes, now_s
                    self._heard(view, None)
            except Exception as error:  # noqa: BLE001  # whatever a ledger raises means "not now": the front goes on with what it has
                seen = None
                self._heard(None, str(error))
            try:
                state = self._state()
                if (state.urgent() != said or now_s - beat_s > HEARTBEAT_S) and self.presence.write(state):
                    said, beat_s = state.urgent(), now_s
            except Exception:  # what is said of this replica must not end its following
                log.exception("the state of a replica of %s could not be told", self._service)
            self._woken.wait(self._poll_s)
            self._woken.clear()
        self.presence.settle(1.0)
        self.presence.write(msgspec.structs.replace(self._state(), status="gone"))
        self.presence.settle(2.0)
