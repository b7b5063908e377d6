"""Ids sort by creation in one process, whatever the clock and the threads do, and no two processes make the same one."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from andon.core.clocks import ManualClock
from andon.core.ids import Ids


@given(st.lists(st.integers(-5_000_000, 5_000_000), min_size=1, max_size=50), st.integers(0, 2**50))
def test_they_grow_however_the_clock_jumps(jumps: list[int], start_us: int) -> None:
    clock = ManualClock(start_us)
    ids = Ids(clock)
    made = []
    for jump in jumps:
        clock.advance(jump)
        made += [ids.new(), ids.new()]
    assert made == sorted(set(made))
    assert {len(one) for one in made} == {26}


def test_a_clock_before_1970_makes_ids_too() -> None:
    ids = Ids(ManualClock(-1))
    assert ids.new() < ids.new()


def test_they_grow_within_each_of_many_threads_and_never_repeat() -> None:
    ids = Ids(ManualClock(1))
    ready = threading.Barrier(8)

    def make(_: int) -> list[str]:
        ready.wait()
        return [ids.new() for _ in range(500)]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert all(batch == sorted(batch) for batch in made)
    assert len({one for batch in made for one in batch}) == 4000


def test_the_time_comes_first() -> None:
    early, late = Ids(ManualClock(1_000_000)), Ids(ManualClock(2_000_000))
    assert early.new() < late.new()


def test_a_forked_child_makes_other_ids_also_while_the_clock_stands() -> None:
    ids = Ids(ManualClock(10**15))
    clock_back = ManualClock(0)
    for _ in range(3):
        ids.new()
    ids._clock = clock_back  # from here on every id is the last one and a step
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "".join(ids.new() for _ in range(50)).encode())
        os._exit(0)
    os.close(write)
    mine = {ids.new() for _ in range(50)}
    with os.fdopen(read) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert len(text) == 50 * 26
    assert not mine & {text[i : i + 26] for i in range(0, len(text), 26)}
