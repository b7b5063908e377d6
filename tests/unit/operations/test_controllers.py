"""The small controllers of a control plane: they do what is due, and nothing in between."""

from __future__ import annotations

from andon.core.clocks import DAY_US, ManualClock
from andon.logs import Label, record_labels
from andon.operations.controllers import SEAL_EVERY_US, SETTLE_EVERY_US, Sealing, Settling
from andon.store import Store
from andon.tracking import create_run, get_run
from tests.conftest import ANA


def test_sealing_waits_for_its_turn(store: Store, clock: ManualClock) -> None:
    sealing = Sealing()
    record_labels(store, "bikes", [Label(request_id="a", label=1.0)], actor=ANA)
    assert sealing.tick(store) is False
    sealed = store.tables.version()
    assert sealed > 0
    record_labels(store, "bikes", [Label(request_id="b", label=1.0)], actor=ANA)
    sealing.tick(store)
    assert store.tables.version() == sealed
    clock.advance(SEAL_EVERY_US)
    sealing.tick(store)
    assert store.tables.version() > sealed
    assert store.tables.query('select count(*) as n from "labels/bikes"').to_pylist() == [{"n": 2}]


def test_a_run_whose_process_is_gone_is_written_down(store: Store, clock: ManualClock) -> None:
    run = create_run(store, experiment="default", name="gone", actor=ANA, holder="no-such-process")
    settling = Settling()
    clock.advance(DAY_US)
    settling.tick(store)
    assert get_run(store, run.id).status == "killed"
    other = create_run(store, experiment="default", name="gone too", actor=ANA, holder="no-such-process")
    clock.advance(SETTLE_EVERY_US // 2)
    settling.tick(store)
    assert get_run(store, other.id).status == "running"
