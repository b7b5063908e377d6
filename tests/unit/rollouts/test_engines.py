"""A rollout on each engine of the ledger, with tables on disk: what is one transaction here is one there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from andon.core.clocks import SECOND_US, ManualClock
from andon.operations.upkeep import doctor
from andon.rollouts import blue_green
from andon.rollouts.controller import memory_of
from andon.store import open_store
from tests.conftest import START_US
from tests.unit.rollouts.rig import NEW, OLD, Rig, failing
from tests.unit.rollouts.test_controller import BLUNT, QUICK


@pytest.fixture(params=["sqlite", "postgres"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    url = {} if request.param == "sqlite" else {"ledger": request.getfixturevalue("postgres_url")}
    clock = ManualClock(START_US)
    with open_store(tmp_path / "home", clock=clock, **url) as store:
        yield Rig(store, clock)


def test_a_good_and_a_bad_candidate(rig: Rig) -> None:
    rig.start(QUICK, BLUNT)
    for second in range(60):
        rig.clock.advance(SECOND_US)
        rig.replica()
        rig.ask(60)
        rig.look()
        if second % 5 == 4:
            rig.store.tables.seal()
        if rig.state.over:
            break
    assert (rig.state.phase, rig.production, rig.split) == ("promoted", NEW, None)
    memory = memory_of(rig.store, rig.rollout)
    assert memory.analysis is not None
    assert sum(memory.analysis.counts) == sum(tally.units for tally in memory.tallies.values())
    assert doctor(rig.store) == []
    third = rig.release("c")
    rig.behaviour[third] = failing(1.0)
    from andon.rollouts import start
    from tests.conftest import ANA

    rig.rollout = start(rig.store, third, blue_green(keep="1h"), actor=ANA).id
    for _ in range(20):
        rig.clock.advance(SECOND_US)
        rig.replica(holds=(OLD, NEW, third))
        rig.ask(40)
        rig.look()
    assert (rig.state.phase, rig.production) == ("aborted", NEW)
    assert doctor(rig.store) == []
