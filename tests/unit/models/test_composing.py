"""Ensembles and cascades: what may be put together, and answers equal to what is computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from andon import registry
from andon.core.errors import Incompatible, InvalidInput
from andon.models import Column, ModelManifest, Signature, combining, load_model, save_model
from andon.models.composing import register_cascade, register_ensemble
from andon.operations.upkeep import needed_blobs
from andon.store import Store
from tests.conftest import ANA
from tests.unit.serving.line import linear_onnx

X = {"x": np.array([1.0, 2.0, -3.0]), "k": np.array([1, 0, 5])}
BOTH = Signature((Column("x", "double"), Column("k", "long")), (Column("y", "double"),))
ROWS = [{"x": 1.0, "k": 2}, {"x": 0.5, "k": 0}]


def linear(store: Store, name: str, *weights: float, bias: float = 0.0, signature: Signature = BOTH) -> str:
    """``y = x . weights + bias`` as a model version."""
    graph = linear_onnx(weights, bias)
    example = [{column.name: row[column.name] for column in signature.inputs} for row in ROWS]
    return str(save_model(store, graph, name=name, example=example, signature=signature, actor=ANA).address)


def code(store: Store, folder: Path, name: str, body: str, outputs: tuple[Column, ...]) -> str:
    """A class in a module that is called ``model`` in every member, as people do."""
    where = folder / name
    where.mkdir()
    (where / "model.py").write_text(
        f"import numpy as np\nfrom names import NAME\nclass Model:\n    def predict(self, c):\n        {body}\n"
    )
    (where / "names.py").write_text(f"NAME = {name!r}\n")
    signature = Signature(BOTH.inputs, outputs)
    return str(save_model(store, where, name=name, entry="model:Model", example=ROWS, signature=signature, actor=ANA).address)


def answers(store: Store, version: registry.Version) -> Mapping[str, Any]:
    return load_model(store, version.address).predict(X)


def test_a_mean_is_what_it_is_by_hand(store: Store) -> None:
    a, b = linear(store, "a", 2.0, 1.0), linear(store, "b", 1.0, 0.0, bias=1.0)
    made = answers(store, register_ensemble(store, "both", [a, b], weights=[3, 1], actor=ANA))
    assert made["y"].tolist() == ((3 * (2 * X["x"] + X["k"]) + (X["x"] + 1)) / 4).tolist()
    shown = register_ensemble(store, "both", {"a": a, "b": b}, show_members=True, actor=ANA)
    made = answers(store, shown)
    assert list(made) == ["y", "a_y", "b_y"]
    assert made["a_y"].tolist() == [3.0, 4.0, -1.0]
    assert made["b_y"].tolist() == [2.0, 3.0, -2.0]
    assert made["y"].tolist() == [2.5, 3.5, -1.5]


def test_members_may_take_different_columns(store: Store) -> None:
    a = linear(store, "a", 2.0, 1.0)
    b = linear(store, "b", 10.0, signature=Signature((Column("x", "double"),), BOTH.outputs))
    manifest = registry.manifest_of(made := register_ensemble(store, "both", [b, a], actor=ANA), ModelManifest)
    assert [column.name for column in manifest.signature.inputs] == ["x", "k"]
    assert manifest.example == tuple(ROWS)
    assert answers(store, made)["y"].tolist() == ((10 * X["x"] + 2 * X["x"] + X["k"]) / 2).tolist()


def test_labels_are_voted_on(store: Store, tmp_path: Path) -> None:
    outputs = (Column("label", "string"), Column("p", "double"))
    label = "return {'label': np.array([%s] * len(c['x']), dtype=object), 'p': c['x'] * %s}"
    members = [code(store, tmp_path, name, label % (text, factor), outputs) for name, text, factor in (("a", "NAME", 1), ("b", "'z'", 2))]
    members.append(code(store, tmp_path, "c", label % ("'z'", 3), outputs))
    made = answers(store, register_ensemble(store, "three", members, actor=ANA))
    assert made["label"].tolist() == ["z"] * 3
    assert made["p"].tolist() == (X["x"] * 2).tolist()
    weighed = answers(store, register_ensemble(store, "three", members, weights=[3, 1, 1], actor=ANA))
    assert weighed["label"].tolist() == ["a"] * 3  # its own module `names`, not another member's
    tie = answers(store, register_ensemble(store, "two", members[:2], how="vote", actor=ANA))
    assert tie["label"].tolist() == ["a"] * 3  # the earlier member's
    assert tie["p"].tolist() == X["x"].tolist()


def test_a_final_member_weighs_the_others(store: Store) -> None:
    a, b = linear(store, "a", 2.0, 1.0), linear(store, "b", 1.0, 0.0, bias=1.0)
    inputs = (Column("a_y", "double"), Column("b_y", "double"), Column("x", "double"))
    graph = linear_onnx((0.5, 2.0, -1.0), 0.25)
    example = [{"a_y": 1.0, "b_y": 1.0, "x": 1.0}]
    final = save_model(store, graph, name="final", example=example, signature=Signature(inputs, (Column("out", "double"),)), actor=ANA)
    stacked = register_ensemble(store, "stacked", {"a": a, "b": b}, how="stacked", final=final.address, actor=ANA)
    assert answers(store, stacked)["out"].tolist() == (0.5 * (2 * X["x"] + X["k"]) + 2 * (X["x"] + 1) - X["x"] + 0.25).tolist()
    manifest = registry.manifest_of(stacked, ModelManifest)
    assert [column.name for column in manifest.signature.inputs] == ["x", "k"]


def test_a_cascade_asks_the_next_member_only_for_what_the_last_was_unsure_of(store: Store, tmp_path: Path) -> None:
    outputs = (Column("p", "double"), Column("rows", "long"))
    small = code(store, tmp_path, "small", "return {'p': np.where(c['k'] > 0, 0.9, 0.55), 'rows': c['k'] * 0 + len(c['k'])}", outputs)
    middle = code(store, tmp_path, "middle", "return {'p': np.where(c['x'] > 0, 0.1, np.nan), 'rows': c['k'] * 0 + len(c['k'])}", outputs)
    large = code(store, tmp_path, "large", "return {'p': c['x'] * 0 + 0.2, 'rows': c['k'] * 0 + len(c['k'])}", outputs)
    version = register_cascade(
        store, "tiers", {"small": small, "middle": middle, "large": large}, confidence="p", thresholds=[0.3, 0.2], actor=ANA
    )
    predictor = load_model(store, version.address)
    made = predictor.predict({"x": np.array([1.0, 1.0, -1.0, 2.0]), "k": np.array([5, 0, 0, 1])})
    assert made["p"].tolist() == [0.9, 0.1, 0.2, 0.9]
    assert made["answered_by"].tolist() == ["small", "middle", "large", "small"]
    assert made["rows"].tolist() == [4, 2, 1, 4]  # how many rows each member was given
    sure = predictor.predict({"x": np.array([1.0]), "k": np.array([1])})
    assert (sure["answered_by"].tolist(), sure["rows"].tolist()) == (["small"], [1])


def test_a_member_that_is_not_needed_is_not_called() -> None:
    calls: list[int] = []

    def member(p: float) -> combining.Predict:
        def predict(columns: dict[str, Any], n: int) -> dict[str, Any]:
            calls.append(n)
            return {"p": np.full(n, p)}

        return predict

    described = [{"name": name, "outputs": [["p", "double"]]} for name in "ab"]
    told = {"members": described, "confidence": {"column": "p", "rule": "output", "thresholds": [0.5]}}
    assert combining.cascade([member(0.6), member(0.1)], told)({"x": np.zeros(7)}, 7)["p"].tolist() == [0.6] * 7
    assert calls == [7]
    combining.cascade([member(0.4), member(0.1)], told)({"x": np.zeros(7)}, 7)
    assert calls == [7, 7, 7]


def test_what_a_member_is_sure_of() -> None:
    p = {"a_1": np.array([0.1, 0.7]), "a_2": np.array([0.9, 0.3]), "b": np.array([0.0, np.nan])}
    assert combining.sure(p, "a_", "max", 0.8).tolist() == [True, False]
    assert combining.sure(p, "a_1", "margin", 0.3).tolist() == [True, False]
    assert combining.sure(p, "b", "output", 0.0).tolist() == [True, False]


def test_members_are_parents_and_their_bytes_are_kept(disk_store: Store) -> None:
    store = disk_store
    a, b = linear(store, "a", 2.0, 1.0), linear(store, "b", 1.0, 0.0)
    version = register_ensemble(store, "both", [a, b], actor=ANA)
    graph = registry.lineage(store, version.address, "up")
    assert {edge.parent: edge.role for edge in graph.edges} == {a: "member", b: "member"}
    manifest = registry.manifest_of(version, ModelManifest)
    assert manifest.flags == ("code-free",)
    assert manifest.files in needed_blobs(store)
    for address in (a, b):
        registry.delete(store, address, actor=ANA, reason="tidying")
    assert store.blobs.gc(lambda: needed_blobs(store), older_than_us=0).digests  # their manifests' trees go, the files in them stay
    assert answers(store, version)["y"].tolist() == ((3 * X["x"] + X["k"]) / 2).tolist()


def test_an_ensemble_may_be_a_member(store: Store) -> None:
    a, b, c = linear(store, "a", 2.0, 0.0), linear(store, "b", 4.0, 0.0), linear(store, "c", 0.0, 1.0)
    inner = register_ensemble(store, "inner", [a, b], actor=ANA)
    made = answers(store, register_ensemble(store, "outer", [inner.address, c], actor=ANA))
    assert made["y"].tolist() == ((3 * X["x"] + X["k"]) / 2).tolist()


def test_what_does_not_fit_together_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    a, b = linear(store, "a", 2.0, 1.0), linear(store, "b", 1.0, 0.0)
    other = linear(store, "other", 1.0, signature=Signature((Column("x", "double"),), (Column("z", "double"),)))
    typed = linear(store, "typed", 1.0, signature=Signature((Column("k", "double"),), BOTH.outputs))
    label = code(store, tmp_path, "label", "return {'l': c['k']}", (Column("l", "long"),))
    cases: list[tuple[type[Exception], str, Any]] = [
        (InvalidInput, "2 to 64 members", lambda: register_ensemble(store, "e", [a], actor=ANA)),
        (InvalidInput, "mean, vote or stacked", lambda: register_ensemble(store, "e", [a, b], how="best", actor=ANA)),  # type: ignore[arg-type]
        (InvalidInput, "needs a final member", lambda: register_ensemble(store, "e", [a, b], how="stacked", actor=ANA)),
        (InvalidInput, "weights are 2 numbers", lambda: register_ensemble(store, "e", [a, b], weights=[1], actor=ANA)),
        (InvalidInput, "weights are 2 numbers", lambda: register_ensemble(store, "e", [a, b], weights=[0, 0], actor=ANA)),
        (InvalidInput, "begins with a letter", lambda: register_ensemble(store, "e", {"1": a, "2": b}, actor=ANA)),
        (InvalidInput, "nothing to average", lambda: register_ensemble(store, "e", [label, label], actor=ANA)),
        (Incompatible, "gives no such output", lambda: register_ensemble(store, "e", [a, other], actor=ANA)),
        (Incompatible, "takes double in this column", lambda: register_ensemble(store, "e", [a, typed], actor=ANA)),
        (InvalidInput, "one threshold", lambda: register_cascade(store, "c", [a, b], confidence="y", thresholds=[1, 2], actor=ANA)),
        (InvalidInput, "no such output of floats", lambda: register_cascade(store, "c", [a, b], confidence="q", thresholds=1, actor=ANA)),
        (
            InvalidInput,
            "margin, max or output",
            lambda: register_cascade(store, "c", [a, b], confidence="y", thresholds=1, rule="x", actor=ANA),
        ),  # type: ignore[arg-type]
    ]
    for kind, said, call in cases:
        with pytest.raises(kind, match=said):
            call()
    assert not [entry for entry in registry.entries(store, "model") if entry.name in "ec"]
