"""Making releases: everything pinned, judged through the release itself, kept with its verdicts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from andon import registry
from andon.core.errors import Incompatible, InvalidInput, NotFound
from andon.core.verdicts import Answer
from andon.models import Column, Signature
from andon.releases import CodePin, Made, ReleaseManifest, assemble, make, read_scored, service_state
from andon.store import Store
from tests.conftest import ANA
from tests.unit.releases.conftest import LOCK, examples, register_model, scorer

Line = Callable[..., Made]


def test_a_good_release_is_let_through_with_its_verdicts(store: Store, line: Line) -> None:
    made = line()
    assert made.answer is Answer.GO
    assert str(made.address) == "release:bikes@1"
    kept = registry.get(store, made.address)
    assert kept.digest == made.digest
    assert [v.subject for v in registry.verdicts_on(store, made.address)] == ["release:bikes@1"] * 2
    assert {f"verdict:{v.id}" for v in registry.verdicts_on(store, made.address)} == set(made.manifest.verdicts)
    assert service_state(store, "bikes").judgements["release:bikes@1"].answer == 0


def test_it_pins_the_policy_that_judged_it_and_knows_its_parents(store: Store, line: Line) -> None:
    made = line()
    assert [pin.address for pin in made.manifest.policies] == ["policy:gate/default@1"]
    parents = {edge.parent for edge in registry.lineage(store, made.address, "up").edges}
    assert parents == {"model:bikes@1", "policy:gate/default@1"}


def test_a_worse_release_is_refused_and_kept(store: Store, line: Line) -> None:
    line()
    from andon.releases import deploy

    deploy(store, "release:bikes@1", actor=ANA)
    made = line(bias=30.0, tag="b")
    assert made.answer is Answer.NO
    failed = [item.verdict for item in made.judged if item.verdict.status == "fail"]
    assert [verdict.check for verdict in failed] == ["mae-not-worse"]
    assert failed[0].value is not None
    assert failed[0].value > 2
    assert "release:bikes@1 has" in failed[0].message


def test_the_scored_examples_are_kept_for_the_monitors(store: Store, line: Line) -> None:
    made = line()
    assert made.manifest.scored is not None
    table = read_scored(store, made.manifest.scored)
    assert table.column_names == ["event_time", "input.hr", "prediction", "label", "baseline"]
    assert table.num_rows == 28 * 24


def test_without_examples_the_gate_is_undecided(store: Store, line: Line) -> None:
    assert line(examples=None).answer is Answer.UNDECIDED


def test_few_examples_are_undecided_not_a_pass(store: Store, line: Line) -> None:
    made = line(examples=examples(days=1))
    assert made.answer is Answer.UNDECIDED


def test_a_waiver_is_pinned_and_recorded(store: Store, line: Line) -> None:
    from andon.releases import deploy

    deploy(store, line().address, actor=ANA)
    made = line(bias=30.0, tag="b", waive="the fair is in town")
    waiver = service_state(store, "bikes").waivers[str(made.address)]
    assert made.manifest.waivers == (waiver.id,)
    assert (waiver.person, waiver.reason) == ("person:ana", "the fair is in town")
    assert made.answer is Answer.NO  # a waiver never changes the verdict


def test_unknown_components_are_named(store: Store) -> None:
    model = register_model(store)
    with pytest.raises(NotFound, match="dataset"):
        assemble(store, "bikes", model=model, environment=LOCK, data=("dataset:rides@1",))
    with pytest.raises(NotFound):
        assemble(store, "bikes", model="model:other@1", environment=LOCK)


def test_a_request_signature_of_its_own_needs_a_transform(store: Store) -> None:
    other = Signature((Column("hour", "double"),), (Column("rentals", "double"),))
    model = register_model(store)
    with pytest.raises(Incompatible):
        assemble(store, "bikes", model=model, environment=LOCK, signature=other)
    assemble(store, "bikes", model=model, environment=LOCK, signature=other, code=CodePin(transform="t:f"))


def test_examples_that_lack_a_column_are_refused_and_nothing_is_registered(store: Store) -> None:
    manifest = assemble(store, "bikes", model=register_model(store), environment=LOCK)
    bare = msgspec.structs.replace(examples(), columns={"temp": np.zeros(28 * 24)})
    with pytest.raises(InvalidInput, match="lack hr"):
        make(store, manifest, examples=bare, score=scorer(), actor=ANA)
    assert registry.entries(store, "release") == []


def test_a_gate_on_the_training_data_itself_refuses(store: Store, line: Line) -> None:
    for name in ("rides", "held-out"):
        registry.register(store, "dataset", name, {"rows": name}, actor=ANA)
    assert line(data=("dataset:rides@1",), evaluation="dataset:held-out@1").answer is Answer.GO
    made = line(tag="b", data=("dataset:rides@1",), evaluation="dataset:rides@1")
    assert made.answer is Answer.NO
    failed = [item.verdict for item in made.judged if item.verdict.status == "fail"]
    assert [(verdict.check, "very examples" in verdict.message) for verdict in failed] == [("unseen-examples", True)]


def test_examples_a_models_run_read_are_seen_too(store: Store) -> None:
    registry.register(store, "dataset", "rides", {"rows": 1}, actor=ANA)
    model = register_model(store, parents=[registry.Parent("dataset:rides@1", "data")])
    manifest = assemble(store, "bikes", model=model, environment=LOCK, evaluation="dataset:rides@1")
    assert make(store, manifest, examples=examples(), score=scorer(), actor=ANA).answer is Answer.NO


def test_the_digest_covers_every_component(store: Store, line: Line) -> None:
    manifest = assemble(store, "bikes", model=register_model(store), environment=LOCK)
    digests = {registry.register(store, "release", "x", msgspec.structs.replace(manifest, **change), actor=ANA).digest for change in (
        {}, {"code": CodePin(commit="c")}, {"settings": {"a": 1}}, {"waivers": ("w",)}, {"verdicts": ("v",)},
        {"environment": msgspec.structs.replace(LOCK, requirements=("numpy==1.0",))},
    )}  # fmt: skip
    assert len(digests) == 6
    assert msgspec.convert(registry.get(store, "release:x@1").manifest, ReleaseManifest) == manifest
