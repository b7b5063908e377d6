"""Experiments: numbers that stay, names that change, and what deleting one does to its runs."""

from __future__ import annotations

import pytest

from andon.core.actors import Actor
from andon.core.errors import Conflict, Gone, InvalidAddress, InvalidInput, NotFound
from andon.registry import tag_history, tags_of
from andon.store import streams
from andon.tracking import (
    create_experiment,
    create_run,
    delete_experiment,
    get_experiment,
    get_run,
    list_experiments,
    list_runs,
    rename_experiment,
    restore_experiment,
)
from andon.tracking.experiments import DEFAULT, DEFAULT_ID, check_open_in, stream_of

ANA = Actor("person", "ana")


def test_the_default_is_there_from_the_start(store):
    assert get_experiment(store, DEFAULT_ID).name == DEFAULT
    assert [item.id for item in list_experiments(store)] == [DEFAULT_ID]


def test_an_experiment_is_found_by_number_name_and_address(store):
    made = create_experiment(store, "räder 🚲", location="s3://bucket/x", tags={"team": "rides\n2"}, actor=ANA)
    assert get_experiment(store, made.id) == get_experiment(store, "räder 🚲") == get_experiment(store, made.address) == made
    assert tags_of(store, made.address) == {"team": "rides\n2"}
    assert [change.key for change in tag_history(store, made.address)] == ["team"]


def test_a_rename_moves_the_name_and_nothing_else(store):
    made = create_experiment(store, "old", tags={"a": "b"}, actor=ANA)
    run = create_run(store, experiment="old", actor=ANA)
    assert rename_experiment(store, made.id, "new", actor=ANA, reason="typo").id == made.id
    assert get_run(store, run.id).experiment == "new"
    assert tags_of(store, "experiment:new") == {"a": "b"}
    with store.ledger.read() as connection:
        (event,) = streams.read(connection, stream_of(made.id))
    assert (event.type, event.body, event.reason) == ("renamed", {"from": "old", "to": "new"}, "typo")
    with pytest.raises(NotFound):
        get_experiment(store, "old")


def test_a_name_is_taken_also_while_its_experiment_is_deleted(store):
    made = create_experiment(store, "a", actor=ANA)
    other = create_experiment(store, "b", actor=ANA)
    delete_experiment(store, made.id, actor=ANA)
    with pytest.raises(Conflict, match="deleted"):
        create_experiment(store, "a", actor=ANA)
    with pytest.raises(Conflict):
        rename_experiment(store, other.id, "a", actor=ANA)


def test_deleting_hides_the_runs_and_restoring_brings_them_back(store):
    made = create_experiment(store, "a", actor=ANA)
    run = create_run(store, experiment="a", actor=ANA)
    other = create_run(store, actor=ANA)
    delete_experiment(store, made.id, actor=ANA)
    assert [item.id for item in list_runs(store)] == [other.id]
    assert [item.id for item in list_experiments(store, deleted=True)] == [made.id]
    with store.ledger.read() as connection, pytest.raises(Gone):
        check_open_in(connection, made.id)
    with pytest.raises(Gone):
        create_run(store, experiment="a", actor=ANA)
    restore_experiment(store, made.id, actor=ANA)
    restore_experiment(store, made.id, actor=ANA)  # again is nothing
    assert get_run(store, run.id).deleted_us is None
    with store.ledger.read() as connection:
        assert check_open_in(connection, made.id).name == "a"
        assert [event.type for event in streams.read(connection, stream_of(made.id))] == ["deleted", "restored"]


@pytest.mark.parametrize(
    ("name", "location", "error"),
    [
        ("", None, InvalidAddress),
        ("  ", None, InvalidAddress),
        ("a\nb", None, InvalidAddress),
        ("x" * 501, None, InvalidAddress),
        ("a", "s3://" + "x" * 9_000, InvalidInput),
        ("a", "s3://b\n", InvalidInput),
    ],
)
def test_what_cannot_be_kept_is_refused(store, name, location, error):
    with pytest.raises(error):
        create_experiment(store, name, location=location, actor=ANA)
    assert len(list_experiments(store, deleted=None)) == 1


def test_names_of_any_script_fit(store):
    assert create_experiment(store, "é" * 500, actor=ANA).name == "é" * 500
