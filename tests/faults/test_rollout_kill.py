"""Killed at the commits of a rollout's controller: it goes on where it was, and nothing is counted or moved twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from andon.core.clocks import SECOND_US, ManualClock
from andon.operations.upkeep import doctor
from andon.releases import service_state
from andon.rollouts.controller import memory_of
from andon.store import open_store
from tests.conftest import START_US
from tests.unit.rollouts.rig import NEW, Rig
from tests.unit.rollouts.test_controller import BLUNT, QUICK

SECONDS = 22
GO_ON = """
import sys
from andon.core import faults
from andon.core.clocks import ManualClock
from andon.rollouts import rollout_of
from andon.rollouts.controller import RolloutController
from andon.store import open_store

home, began_us, seconds, fault = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
clock = ManualClock(began_us)
with open_store(home, clock=clock) as store:
    state = rollout_of(store, "service:bikes")
    clock.set(max(began_us, state.since_us))
    controller = RolloutController()
    faults.arm(fault or None)
    while clock.now_us() < began_us + seconds * 1_000_000 and not rollout_of(store, state.id).over:
        clock.advance(1_000_000)
        controller.step(store, state.id)
"""


def _prepared(home: Path) -> tuple[str, int]:
    """A rollout in its only step, with all the traffic that there will be in the logs: what arrives "later" is not looked at yet."""
    clock = ManualClock(START_US)
    with open_store(home, clock=clock) as store:
        rig = Rig(store, clock)
        rig.start(QUICK, BLUNT)
        clock.advance(SECOND_US)
        rig.replica()
        rig.look()
        began_us = clock.now_us()
        for _ in range(SECONDS):
            clock.advance(SECOND_US)
            rig.ask(150)
        clock.advance(-SECONDS // 2 * SECOND_US)
        rig.replica()  # fresh for the whole story
        return rig.rollout, began_us


def _outcome(home: Path, rollout: str) -> tuple[list[str], object, int, bool]:
    with open_store(home) as store:
        from andon.store import streams

        with store.ledger.read() as connection:
            kinds = [event.type for event in streams.read(connection, rollout) if event.type not in ("waited", "judged")]
        memory = memory_of(store, rollout)
        turns = len(service_state(store, "bikes").turns)
        return kinds, (memory.analysis and memory.analysis.counts, memory.tallies), turns, doctor(store) == []


def test_killed_again_and_again(tmp_path: Path) -> None:
    """At a commit, before or after it, several times over; beside it the same rollout, left alone."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    rollout, began_us = _prepared(whole)
    shutil.copytree(whole, cut)  # the same rollout, so that the same units are the candidate's
    outcomes = []
    for home, fault in ((whole, ""), (cut, "ledger.*_commit")):
        kills = 0
        for attempt in range(12):
            strikes = f"{fault}:{4 + 9 * attempt}" if fault else ""
            command = [sys.executable, "-c", GO_ON, str(home), str(began_us), str(SECONDS), strikes]
            done = subprocess.run(
                command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode == 0:
                break
            assert done.returncode == -signal.SIGKILL, done.stderr
            kills += 1
        assert done.returncode == 0, done.stderr
        outcomes.append(_outcome(home, rollout))
        assert (kills >= 2) is bool(fault)
    (moves, counted, turns, sound), (_, _, _, also_sound) = outcomes
    assert moves == ["started", "stepped", "stepped", "promoted"]
    assert outcomes[1][0] == moves
    assert outcomes[1][1] == counted
    assert outcomes[1][2] == turns
    assert sound
    assert also_sound
    with open_store(cut) as store:
        assert service_state(store, "bikes").current() == NEW
