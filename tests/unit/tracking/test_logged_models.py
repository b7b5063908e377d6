"""Logged models on both engines: their life, their texts, what was measured of them, and their lineage."""

from __future__ import annotations

import math

import pytest

from andon.core.actors import Actor
from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.registry import Parent, delete, lineage, register, tag_history, tags_of
from andon.registry.lineage import Edge
from andon.store import open_store
from andon.store.streams import read
from andon.tracking import create_experiment, create_run, delete_experiment, delete_run, restore_experiment
from andon.tracking.logged_models import (
    ModelPoint,
    RunModel,
    check_logged_models_in,
    create_logged_model,
    delete_logged_model,
    delete_logged_model_tag_in,
    finalize_logged_model,
    get_logged_model,
    get_logged_models_in,
    log_model_params_in,
    log_model_points_in,
    log_run_models_in,
    new_model_id,
    restore_logged_model,
    run_models_in,
    set_logged_model_tags_in,
)

ANA = Actor("person", "ana")


@pytest.fixture(params=["sqlite", "postgres"])
def engine_store(request, clock, tmp_path):
    ledger = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    with open_store(tmp_path / ".andon", clock=clock, ledger=ledger) as opened:
        yield opened


@pytest.fixture
def run(store):
    return create_run(store, actor=ANA).id


def _models_of(store, run):
    with store.ledger.read() as connection:
        return run_models_in(connection, [run]).get(run, [])


def test_a_life(engine_store, clock):
    store = engine_store
    run = create_run(store, experiment="bikes", actor=ANA)
    clock.advance(5_000_000)
    model = create_logged_model(
        store, run.experiment_id, name="trees", model_type="agent", run=run.id, params={"depth": "6"}, tags={"team": "bikes"}, actor=ANA
    )
    assert model == get_logged_model(store, model.id)
    assert (model.status, model.created_us, model.changed_us) == ("pending", clock.now_us(), clock.now_us())
    clock.advance(1_000_000)
    ready = finalize_logged_model(store, model.id, "ready", actor=ANA)
    assert ready == get_logged_model(store, model.id)
    assert (ready.status, ready.changed_us - ready.created_us) == ("ready", 1_000_000)
    clock.advance(1_000_000)
    delete_logged_model(store, model.id, actor=ANA, reason="worse")
    delete_logged_model(store, model.id, actor=ANA)
    gone = get_logged_model(store, model.id)
    assert gone.deleted_us == gone.changed_us == clock.now_us()
    restore_logged_model(store, model.id, actor=ANA)
    restore_logged_model(store, model.id, actor=ANA)
    assert get_logged_model(store, model.id).deleted_us is None
    with store.ledger.read() as connection:
        told = [(event.type, event.reason) for event in read(connection, model.address)]
    assert told == [("created", ""), ("ready", ""), ("deleted", "worse"), ("restored", "")]


def test_an_id_is_m_and_32_hexadecimal_digits_in_order_of_creation(store):
    made = [new_model_id(store) for _ in range(50)]
    assert made == sorted(set(made))
    assert all(len(model) == 34 and model.startswith("m-") and int(model[2:], 16) for model in made)


def test_one_without_a_name_gets_one(store):
    model = create_logged_model(store, 0, actor=ANA)
    assert model.name == f"model-{model.id[-6:]}"
    assert (model.model_type, model.run) == (None, None)


def test_it_was_made_by_a_run_only_if_that_is_here(store, run):
    known, unknown = create_logged_model(store, 0, run=run, actor=ANA), create_logged_model(store, 0, run="elsewhere", actor=ANA)
    assert lineage(store, known.address).edges == (Edge(known.address, f"run:{run}", "run"),)
    assert lineage(store, unknown.address).edges == ()
    assert get_logged_model(store, unknown.id).run == "elsewhere"


def test_an_experiment_that_is_deleted_or_was_never_takes_none(store):
    number = create_experiment(store, "bikes", actor=ANA).id
    model = create_logged_model(store, number, actor=ANA)
    delete_experiment(store, number, actor=ANA)
    with pytest.raises(Gone):
        create_logged_model(store, number, actor=ANA)
    assert get_logged_model(store, model.id).deleted_us is not None
    restore_experiment(store, number, actor=ANA)
    assert get_logged_model(store, model.id).deleted_us is None
    with pytest.raises(NotFound):
        create_logged_model(store, 999, actor=ANA)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("name", {"name": "x" * 501}),
        ("name", {"name": "a\x00b"}),
        ("model_type", {"model_type": "x" * 501}),
        ("run", {"run": "x" * 501}),
        ("key", {"params": {"": "x"}}),
        ("key", {"tags": {"k" * 251: "x"}}),
        ("value", {"tags": {"k": "\x00"}}),
        ("value", {"params": {"k": "x" * 400_001}}),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(store, field, given):
    with pytest.raises(InvalidInput) as caught:
        create_logged_model(store, 0, actor=ANA, **given)
    assert caught.value.fields["field"] == field
    with store.ledger.read() as connection:
        assert connection.exec_driver_sql("select count(*) from logged_models").scalar() == 0


def test_a_status_is_one_of_three(store):
    model = create_logged_model(store, 0, actor=ANA)
    with pytest.raises(InvalidInput):
        finalize_logged_model(store, model.id, "uploading", actor=ANA)
    for verb in (lambda: finalize_logged_model(store, "m-0", "ready", actor=ANA), lambda: delete_logged_model(store, "m-0", actor=ANA)):
        with pytest.raises(NotFound):
            verb()
    assert get_logged_model(store, model.id).status == "pending"


def test_params_are_written_once(engine_store):
    store = engine_store
    model = create_logged_model(store, 0, params={"a": "1"}, actor=ANA)
    store.ledger.write(lambda c: log_model_params_in(c, model.id, {"a": "1", "b": "2"}))
    with pytest.raises(Conflict) as caught:
        store.ledger.write(lambda c: log_model_params_in(c, model.id, {"c": "3", "a": "2"}))
    assert caught.value.fields["field"] == "a"
    assert get_logged_model(store, model.id).params == {"a": "1", "b": "2"}
    with pytest.raises(NotFound):
        store.ledger.write(lambda c: log_model_params_in(c, "m-0", {"a": "1"}))


def test_tags_change_and_every_change_is_kept(engine_store, clock):
    store = engine_store
    model = create_logged_model(store, 0, tags={"a": "1", "b": "2"}, actor=ANA)
    now_us = clock.now_us()
    store.ledger.write(lambda c: set_logged_model_tags_in(c, model.id, {"a": "9", "b": "2", "c": "3"}, now_us=now_us, actor=ANA))
    store.ledger.write(lambda c: delete_logged_model_tag_in(c, model.id, "b", now_us=now_us, actor=ANA))
    assert get_logged_model(store, model.id).tags == {"a": "9", "c": "3"} == tags_of(store, model.address)
    told = [(change.key, change.value) for change in tag_history(store, model.address)]
    assert told == [("a", "1"), ("b", "2"), ("a", "9"), ("c", "3"), ("b", None)]
    for model_id, key in ((model.id, "b"), ("m-0", "a")):
        with pytest.raises(NotFound):
            store.ledger.write(lambda c, model_id=model_id, key=key: delete_logged_model_tag_in(c, model_id, key, now_us=now_us, actor=ANA))
    with pytest.raises(NotFound):
        store.ledger.write(lambda c: set_logged_model_tags_in(c, "m-0", {"a": "1"}, now_us=now_us, actor=ANA))


def test_points_about_a_model_are_kept_once_with_all_they_hold(engine_store):
    store = engine_store
    run, model = create_run(store, actor=ANA).id, create_logged_model(store, 0, actor=ANA).id
    points = [
        ModelPoint(model, "mae", 2.0, 1, 10, "rides", "d1"),
        ModelPoint(model, "mae", 2.0, 1, 10, "rides", "d2"),
        ModelPoint(model, "mae", 2.5, 1, 10),
        ModelPoint(model, "loss", math.nan, 0, 5),
        ModelPoint(model, "loss", -math.inf, 0, 6),
    ]
    for _ in range(2):
        store.ledger.write(lambda c: log_model_points_in(c, run, points))
    kept = get_logged_model(store, model).metrics
    assert [(item.key, item.at_us, item.dataset, item.dataset_digest) for item in kept] == [
        ("loss", 5, "", ""),
        ("loss", 6, "", ""),
        ("mae", 10, "", ""),
        ("mae", 10, "rides", "d1"),
        ("mae", 10, "rides", "d2"),
    ]
    assert math.isnan(kept[0].value)
    assert [item.value for item in kept[1:]] == [-math.inf, 2.5, 2.0, 2.0]
    assert {item.run for item in kept} == {run}


@pytest.mark.parametrize(
    "point",
    [
        ModelPoint("m-0", "mae", 1.0, 0, 0),
        ModelPoint("", "mae", "x", 0, 0),
        ModelPoint("", "mae", 1.0, 2**63, 0),
        ModelPoint("", "", 1.0, 0, 0),
        ModelPoint("", "mae", 1.0, 0, 0, "\x00"),
        ModelPoint("", "mae", 1.0, 0, 0, "d", "x" * 145),
    ],
)
def test_a_point_that_cannot_be_kept_is_refused_with_its_batch(store, run, point):
    model = create_logged_model(store, 0, actor=ANA).id
    point = point if point.model else point._replace(model=model)
    with pytest.raises(InvalidInput):
        store.ledger.write(lambda c: log_model_points_in(c, run, [ModelPoint(model, "ok", 1.0, 0, 0), point]))
    assert get_logged_model(store, model).metrics == ()


def test_no_points_are_no_work(store, run):
    store.ledger.write(lambda c: log_model_points_in(c, run, []))


def test_what_went_in_and_what_came_out(engine_store, clock):
    store, now_us = engine_store, clock.now_us()
    run = create_run(store, actor=ANA).id
    old, new = (create_logged_model(store, 0, actor=ANA) for _ in range(2))
    models = [
        RunModel(model=old.id, role="input"),
        RunModel(model=new.id, role="output", step=3),
        RunModel(model="m-elsewhere", role="output", step=1),
    ]
    for _ in range(2):
        store.ledger.write(lambda c: log_run_models_in(c, run, models, now_us=now_us, actor=ANA))
    assert _models_of(store, run) == sorted(models, key=lambda item: item.model)
    assert set(lineage(store, f"run:{run}").edges) == {
        Edge(f"run:{run}", old.address, "model"),
        Edge(new.address, f"run:{run}", "run"),
    }


def test_an_output_has_one_step(store, run, clock):
    def log(*models):
        store.ledger.write(lambda c: log_run_models_in(c, run, models, now_us=clock.now_us(), actor=ANA))

    log(RunModel(model="m-1", role="output", step=3))
    for again in ([RunModel(model="m-1", role="output", step=4)], [RunModel(model="m-2", role="output", step=n) for n in (1, 2)]):
        with pytest.raises(Conflict):
            log(*again)
    log(RunModel(model="m-1", role="output", step=3), RunModel(model="m-1", role="input"))
    assert [(item.role, item.step) for item in _models_of(store, run)] == [("input", 0), ("output", 3)]


def test_a_run_that_is_deleted_or_was_never_takes_none(store, run, clock):
    delete_run(store, run, actor=ANA)
    for which, error in ((run, Gone), ("nowhere", NotFound)):
        with pytest.raises(error):
            store.ledger.write(
                lambda c, which=which: log_run_models_in(c, which, [RunModel(model="m-1", role="input")], now_us=clock.now_us(), actor=ANA)
            )


def test_many_at_once_come_in_the_order_asked_for_with_their_own(engine_store):
    store = engine_store
    made = [create_logged_model(store, 0, params={"n": str(n)}, tags={"n": str(n)}, actor=ANA).id for n in range(4)]
    for n in range(3):
        parents = [Parent(f"logged-model:{made[1]}", "logged-model")]
        register(store, "model", "bikes", {"n": n}, actor=ANA, parents=parents)
    register(store, "model", "other", {"n": 9}, actor=ANA, parents=[Parent(f"logged-model:{made[1]}", "model")])
    delete(store, "model:bikes@1", actor=ANA, reason="wrong")
    asked = [made[2], "m-0", made[0], made[1]]
    with store.ledger.read() as connection:
        found = get_logged_models_in(connection, asked)
        assert get_logged_models_in(connection, []) == []
        check_logged_models_in(connection, made)
        with pytest.raises(NotFound):
            check_logged_models_in(connection, asked)
    assert [item.id for item in found] == [made[2], made[0], made[1]]
    assert [(item.params["n"], item.tags["n"]) for item in found] == [("2", "2"), ("0", "0"), ("1", "1")]
    assert [[item.address for item in model.registrations] for model in found] == [[], [], ["model:bikes@2", "model:bikes@3"]]
