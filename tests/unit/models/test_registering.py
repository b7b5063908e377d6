"""Models in the registry."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from andon.core.actors import Actor
from andon.core.errors import CorruptBytes, InvalidAddress
from andon.models import ModelManifest, load_model, save_model
from andon.registry import lineage, manifest_of, move_alias
from andon.tracking import create_run

ANA = Actor("person", "ana")
X = np.random.default_rng(0).normal(size=(50, 3))


def test_a_model_is_a_version_with_the_run_as_its_parent(store):
    run = create_run(store, actor=ANA)
    version = save_model(store, Ridge().fit(X, X[:, 0]), name="m", example=X[:5], actor=ANA, run=run.id)
    assert str(version.address) == "model:m@1"
    assert manifest_of(version, ModelManifest).format == "onnx"
    assert [edge.parent for edge in lineage(store, version.address, "up").edges] == [run.address]
    move_alias(store, "model:m@champion", "model:m@1", actor=ANA, reason="first")
    predictor = load_model(store, "model:m@champion")
    np.testing.assert_allclose(predictor.predict({f"x{k}": X[:, k] for k in range(3)})["prediction"], Ridge().fit(X, X[:, 0]).predict(X))


def test_the_same_model_again_is_the_same_version(store):
    model = Ridge().fit(X, X[:, 0])
    first = save_model(store, model, name="m", example=X[:5], actor=ANA)
    assert save_model(store, model, name="m", example=X[:5], actor=ANA).address == first.address


def test_other_kinds_are_refused(store):
    with pytest.raises(InvalidAddress):
        load_model(store, "dataset:m@1")
    with pytest.raises(InvalidAddress):
        save_model(store, Ridge().fit(X, X[:, 0]), name="Not A Name", example=X[:5], actor=ANA)


def test_damaged_bytes_name_the_model(disk_store):
    version = save_model(disk_store, Ridge().fit(X, X[:, 0]), name="m", example=X[:5], actor=ANA)
    manifest = manifest_of(version, ModelManifest)
    file = disk_store.blobs.local_path(disk_store.blobs.tree(manifest.files)["model.onnx"])
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptBytes) as caught:
        load_model(disk_store, "model:m")
    assert caught.value.fields["model"] == "model:m@1"
