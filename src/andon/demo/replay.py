"""The replay: months of real hours through the real service, day by day, with labels a day late.

It keeps pace with the monitors (a day is sent when the day before has been judged), as the world does; it never tells them anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from andon import releases
from andon.core.clocks import DAY_US, to_iso
from andon.core.errors import Unavailable
from andon.demo import bikes
from andon.demo.faults import Fault
from andon.demo.traffic import Caller, wait_until
from andon.incidents.journal import journal_stream
from andon.operations.watching import judged_until_us
from andon.store import Store, streams
from andon.store.schema import replicas

FRESH_US = 30_000_000


@dataclass
class World:
    """What the callers know: the hours that happened, and what is wrong with what they send."""

    store: Store
    history: bikes.History
    fault: Fault | None = None
    caller: Caller | None = None
    pending: list[tuple[int, float]] = field(default_factory=list)
    seen: int = 0

    def live(self, start_us: int, end_us: int, each_day: Callable[[int, list[streams.Event]], None]) -> None:
        """Live through ``[start_us, end_us)``. ``each_day(day_us, events)`` hears what Andon decided once the day before was judged."""
        for day_us in range(start_us, end_us, DAY_US):
            rows = range(*self.history.between(day_us, day_us + DAY_US).indices(len(self.history.event_us)))
            for position, row in enumerate(rows):
                self._ask(row)
                if position == 0 and day_us > start_us:
                    self._let_it_judge(day_us)
                if position == 0:
                    each_day(day_us, self._news())
                    self._follow()
            self._tell(day_us + DAY_US)
            self.pending += [(int(self.history.event_us[row]), float(self.history.rentals[row])) for row in rows]

    def _ask(self, row: int) -> None:
        event_us = int(self.history.event_us[row])
        sent = {name: float(values[row]) for name, values in self.history.features.items()}
        if self.fault is not None:
            sent = self.fault(sent)
        self._caller().predict(sent, request_id(event_us), to_iso(event_us))

    def _tell(self, now_us: int) -> None:
        """Labels of the day before."""
        told = [
            {"request_id": request_id(event_us), "label": label, "event_time": to_iso(event_us + DAY_US)}
            for event_us, label in self.pending
            if event_us + DAY_US < now_us
        ]
        self._caller().label(told)
        self.pending = [item for item in self.pending if item[0] + DAY_US >= now_us]

    def _caller(self) -> Caller:
        if self.caller is None:
            self.caller = Caller(wait_until(lambda: serving_url(self.store), "the service to be ready"))
        return self.caller

    def _let_it_judge(self, day_us: int) -> None:
        wait_until(
            lambda: (judged_until_us(f"service:{bikes.SERVICE}", store=self.store) or 0) >= day_us,
            f"the monitors to judge {to_iso(day_us)}",
        )

    def _follow(self) -> None:
        """Wait until the service answers with the release that holds production."""
        wanted = releases.service_state(self.store, bikes.SERVICE).current()
        wait_until(lambda: serving_release(self.store) == wanted, f"the service to follow to {wanted}")

    def _news(self) -> list[streams.Event]:
        with self.store.ledger.read() as connection:
            events = streams.read(connection, journal_stream(bikes.SERVICE), after=self.seen)
        self.seen = events[-1].n if events else self.seen
        return events

    def close(self) -> None:
        """Hang up."""
        if self.caller is not None:
            self.caller.close()


def request_id(event_us: int) -> str:
    """One request an hour, named by its hour."""
    return f"bikes-{to_iso(event_us)[:13]}"


def serving_url(store: Store) -> str | None:
    """Where the bikes are served, once they are."""
    row = _replica(store)
    return None if row is None else str(row.url)


def serving_release(store: Store) -> str | None:
    """The release that answers now."""
    row = _replica(store)
    return None if row is None else row.release


def _replica(store: Store) -> Any:
    query = select(replicas).where(replicas.c.service == bikes.SERVICE, replicas.c.status == "ready")
    with store.ledger.read() as connection:
        rows = connection.execute(query.order_by(replicas.c.seen_us.desc())).all()
    failed = [row for row in rows if "could not" in row.note]
    if failed:
        raise Unavailable(f"the service could not follow: {failed[0].note}")
    fresh = [row for row in rows if row.seen_us > store.clock.now_us() - FRESH_US]
    return fresh[0] if fresh else None
