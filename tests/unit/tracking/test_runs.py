"""Runs: created, listed, ended, deleted, found killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from andon.core.actors import Actor
from andon.core.clocks import SECOND_US
from andon.core.errors import Conflict, InvalidAddress, InvalidInput, NotFound
from andon.registry import lineage
from andon.tracking import (
    create_run,
    delete_run,
    events_of,
    experiments,
    get_run,
    list_runs,
    liveness,
    restore_run,
    settle_runs,
    update_run,
)

ANA = Actor("person", "ana")


def test_a_run_is_created_with_params_and_ended(store, clock):
    made = create_run(store, experiment="bikes", name="first", actor=ANA, params={"depth": 6}, tags={"a": "b"})
    assert get_run(store, made.id) == get_run(store, made.address) == made
    assert made.status == "running"
    clock.advance(5 * SECOND_US)
    ended = update_run(store, made.id, actor=ANA, status="finished")
    assert (ended.status, ended.duration_s) == ("finished", 5.0)
    assert [event.type for event in events_of(store, made.id)] == ["started", "finished"]


def test_a_run_may_be_opened_again_and_renamed(store):
    made = create_run(store, actor=ANA)
    update_run(store, made.id, actor=ANA, status="failed", ended_us=7)
    again = update_run(store, made.id, actor=ANA, status="running", name="better")
    assert (again.status, again.ended_us, again.name) == ("running", None, "better")


def test_lists_page_newest_first_and_hide_what_is_deleted(store, clock):
    made = []
    for _ in range(7):
        made.append(create_run(store, experiment="bikes", actor=ANA).id)
        clock.advance(SECOND_US * (len(made) % 2))  # some start at the same instant
    create_run(store, experiment="other", actor=ANA)
    page = [run.id for run in list_runs(store, "bikes", limit=3)]
    page += [run.id for run in list_runs(store, "bikes", limit=3, after=page[-1])]
    page += [run.id for run in list_runs(store, "bikes", limit=3, after=page[-1])]
    assert page == made[::-1]
    delete_run(store, made[0], actor=ANA, reason="test")
    delete_run(store, made[0], actor=ANA)
    assert made[0] not in [run.id for run in list_runs(store)]
    assert [run.id for run in list_runs(store, view="deleted")] == [made[0]]
    assert experiments(store) == {"bikes": 6, "other": 1}
    restore_run(store, made[0], actor=ANA)
    assert experiments(store)["bikes"] == 7
    assert [event.type for event in events_of(store, made[0])] == ["started", "deleted", "restored"]


def test_a_nested_run_knows_its_parent(store):
    parent = create_run(store, actor=ANA)
    child = create_run(store, actor=ANA, parent=parent.id)
    assert [run.id for run in list_runs(store, parent=parent.id)] == [child.id]
    assert [edge.parent for edge in lineage(store, child.address, "up").edges] == [parent.address]
    with pytest.raises(NotFound):
        create_run(store, actor=ANA, parent="nope")


def test_ids_are_given_once(store):
    create_run(store, actor=ANA, run="abc")
    with pytest.raises(Conflict):
        create_run(store, actor=ANA, run="abc")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"experiment": " "}, InvalidAddress),
        ({"name": "a\x00b"}, InvalidInput),
        ({"name": "x" * 1_001}, InvalidInput),
        ({"run": "../x"}, InvalidAddress),
    ],
)
def test_bad_input_is_refused(store, fields, error):
    with pytest.raises(error):
        create_run(store, actor=ANA, **fields)
    assert list_runs(store) == []


def test_statuses_are_four(store):
    made = create_run(store, actor=ANA)
    with pytest.raises(InvalidInput):
        update_run(store, made.id, actor=ANA, status="done")  # type: ignore[arg-type]


def test_a_run_whose_process_is_gone_is_killed(store, clock):
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    made = create_run(store, actor=ANA, holder=liveness.holder(child.pid))
    wired = create_run(store, actor=ANA)
    clock.advance(1_000 * SECOND_US)  # the lease is long over, but on this machine the process itself is the witness
    assert get_run(store, made.id).status == "running"
    assert settle_runs(store, actor=ANA) == []
    child.kill()
    child.wait()
    child.stdin.close()
    assert get_run(store, made.id).status == "killed"
    assert {run.id: run.status for run in list_runs(store)} == {made.id: "killed", wired.id: "running"}
    assert settle_runs(store, actor=Actor("controller", "liveness")) == [made.id]
    assert settle_runs(store, actor=ANA) == []
    assert get_run(store, made.id).ended_us == made.started_us
    assert events_of(store, made.id)[-1].reason == "its process is gone"


def test_a_run_on_another_machine_lives_as_long_as_its_lease(store, clock):
    made = create_run(store, actor=ANA, holder="elsewhere/boot/ns/1/2")
    clock.advance(liveness.LEASE_US - 1)
    assert get_run(store, made.id).status == "running"
    clock.advance(2)
    assert get_run(store, made.id).status == "killed"


def test_a_process_id_given_to_another_process_is_not_mistaken(store):
    machine, pid, ticks = liveness.holder().rsplit("/", 2)
    assert liveness.is_alive(f"{machine}/{pid}/{ticks}", 0, now_us=1)
    assert not liveness.is_alive(f"{machine}/{pid}/{int(ticks or 0) + 1}", 10**18, now_us=1)
