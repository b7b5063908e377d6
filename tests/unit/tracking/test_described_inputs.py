"""Data as runs describe it: the first word counts, in order, within limits, and as a registered dataset where it is one."""

from __future__ import annotations

import pytest

from andon.core.actors import Actor
from andon.core.errors import Gone, InvalidInput, NotFound
from andon.datasets import register
from andon.datasets.records import DatasetManifest
from andon.registry import delete, lineage, manifest_of, set_tag
from andon.registry.lineage import Edge
from andon.store import open_store
from andon.tracking import create_run, delete_run, inputs_of
from andon.tracking.inputs import (
    DIGEST_TAG,
    DescribedDataset,
    DescribedInput,
    described_datasets,
    described_inputs_in,
    described_inputs_of,
    log_described,
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


def _said(name="rides", digest="d1", **more):
    return DescribedInput(name=name, digest=digest, source_type="local", source='{"uri": "rides.csv"}', **more)


def test_what_was_said_comes_back_in_order(engine_store):
    store = engine_store
    first, second = (create_run(store, actor=ANA).id for _ in range(2))
    said = [
        _said("z", schema='{"columns": []}', profile='{"rows": 3}', context="training", tags={"shard": "7", "é": "ü"}),
        _said("a"),
        _said("a", "d2", context=""),
    ]
    log_described(store, first, said[:1], actor=ANA)
    log_described(store, first, said[1:], actor=ANA)
    log_described(store, second, [DescribedInput(name="", digest="")], actor=ANA)
    assert described_inputs_of(store, first) == said
    with store.ledger.read() as connection:
        found = described_inputs_in(connection, [second, first, "nowhere"])
        assert described_inputs_in(connection, []) == {}
    assert found == {first: said, second: [DescribedInput(name="", digest="")]}


def test_the_first_word_on_a_name_and_digest_counts(store, run):
    first = _said(context="training")
    log_described(store, run, [first, _said(context="eval")], actor=ANA)
    log_described(store, run, [_said(context="test", schema="x")], actor=ANA)
    assert described_inputs_of(store, run) == [first]


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("name", {"name": "x" * 501}),
        ("name", {"name": "é" * 499 + "xyz"}),
        ("name", {"name": "a\x00b"}),
        ("digest", {"digest": "x" * 37}),
        ("source", {"source": "x" * 65_536}),
        ("source_type", {"source_type": "x" * 501}),
        ("schema", {"schema": "x" * 1_048_576}),
        ("context", {"context": "x" * 501}),
        ("key", {"tags": {"k" * 256: "v"}}),
        ("value", {"tags": {"k": "v" * 501}}),
        ("value", {"tags": {"k": "\ud800"}}),
    ],
)
def test_what_is_too_long_or_no_text_is_refused_whole(store, run, field, given):
    wrong = DescribedInput(**({"name": "rides", "digest": "d1"} | given))
    with pytest.raises(InvalidInput) as caught:
        log_described(store, run, [_said("good"), wrong], actor=ANA)
    assert caught.value.fields["field"] == field
    assert described_inputs_of(store, run) == []


def test_the_longest_that_may_be_said_is_kept(store, run):
    longest = _said("x" * 500, "y" * 36, schema="s" * 1_048_575, context="c" * 500, tags={"k" * 255: "v" * 500})
    log_described(store, run, [longest], actor=ANA)
    assert described_inputs_of(store, run) == [longest]


def test_a_run_that_is_deleted_or_was_never_takes_none(store, run):
    delete_run(store, run, actor=ANA)
    for which, error in ((run, Gone), ("nowhere", NotFound)):
        with pytest.raises(error):
            log_described(store, which, [_said()], actor=ANA)


@pytest.mark.parametrize("by", ["tag", "version", "bytes"])
def test_a_registered_dataset_is_recognised(engine_store, by):
    store = engine_store
    version = register(store, "rides", {"a": [1, 2]}, actor=ANA)
    set_tag(store, version.address, DIGEST_TAG, "bcd61234", actor=ANA)
    said = {"tag": "bcd61234", "version": version.digest[:36], "bytes": manifest_of(version, DatasetManifest).bytes[3:15]}[by]
    run = create_run(store, actor=ANA).id
    log_described(store, run, [_said("rides", said, context="eval")], actor=ANA)
    assert Edge(f"run:{run}", str(version.address), "data") in lineage(store, f"run:{run}", "up").edges
    assert [(item.address, item.digest, item.context) for item in inputs_of(store, run)] == [(str(version.address), version.digest, "eval")]


@pytest.mark.parametrize(
    ("name", "digest"), [("rides", "other"), ("walks", "bcd61234"), ("rides", ""), ("Rides", "bcd61234"), ("rides", "b3:")]
)
def test_another_name_or_digest_is_not_it(store, run, name, digest):
    version = register(store, "rides", {"a": [1]}, actor=ANA)
    set_tag(store, version.address, DIGEST_TAG, "bcd61234", actor=ANA)
    log_described(store, run, [_said(name, digest)], actor=ANA)
    assert inputs_of(store, run) == []


def test_the_newest_version_that_fits_is_meant(store, run):
    versions = [register(store, "rides", {"a": [n]}, actor=ANA) for n in range(3)]
    for version in versions:
        set_tag(store, version.address, DIGEST_TAG, "same", actor=ANA)
    delete(store, versions[2].address, actor=ANA, reason="wrong")
    log_described(store, run, [_said("rides", "same")], actor=ANA)
    assert [item.address for item in inputs_of(store, run)] == ["dataset:rides@2"]


def test_the_datasets_of_experiments(engine_store):
    store = engine_store
    one, two = create_run(store, experiment="one", actor=ANA), create_run(store, experiment="two", actor=ANA)
    again = create_run(store, experiment="one", actor=ANA)
    log_described(store, one.id, [_said("b", context="training"), _said("a")], actor=ANA)
    log_described(store, again.id, [_said("b", context="eval"), _said("a")], actor=ANA)
    log_described(store, two.id, [_said("b", context="training")], actor=ANA)
    found = described_datasets(store, [one.experiment_id])
    assert found == [
        DescribedDataset(experiment_id=one.experiment_id, name="a", digest="d1", context=None),
        DescribedDataset(experiment_id=one.experiment_id, name="b", digest="d1", context="eval"),
        DescribedDataset(experiment_id=one.experiment_id, name="b", digest="d1", context="training"),
    ]
    assert len(described_datasets(store, [one.experiment_id, two.experiment_id])) == 4
    assert described_datasets(store, [one.experiment_id, two.experiment_id], limit=2) == found[:2]
    assert described_datasets(store, [999]) == []
