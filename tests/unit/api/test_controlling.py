"""Controllers under one lease: one process acts, the other waits and takes over; a fault stops nothing else."""

from __future__ import annotations

import threading
import time

from andon.api.controlling import LEASE, Controllers
from andon.core.errors import NotFound
from andon.store import Store


class Counting:
    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.ticks = 0
        self.fails = fails
        self.ticked = threading.Event()

    def tick(self, store: Store) -> bool:
        self.ticks += 1
        self.ticked.set()
        if self.fails:
            raise NotFound("nothing here")
        return False


def test_one_fault_does_not_stop_the_others(store: Store) -> None:
    bad, good = Counting("bad", fails=True), Counting("good")
    loop = Controllers(store, [bad, good], idle_s=0.01)
    loop.start()
    deadline = time.monotonic() + 5
    while (bad.ticks < 3 or good.ticks < 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    loop.stop()
    assert bad.ticks >= 3
    assert good.ticks >= 3


def test_two_processes_one_acts_and_the_other_takes_over(store: Store) -> None:
    first, second = Counting("x"), Counting("x")
    a, b = Controllers(store, [first], idle_s=0.01, wait_s=0.02), Controllers(store, [second], idle_s=0.01, wait_s=0.02)
    a.start()
    assert first.ticked.wait(5)
    b.start()
    time.sleep(0.1)
    assert second.ticks == 0
    a.stop()
    assert second.ticked.wait(5), f"the lease {LEASE} was not given back"
    b.stop()
