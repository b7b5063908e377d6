"""Models of another client: their description is read, nothing of theirs is run."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import yaml

from andon.core.errors import Forbidden, Incompatible, InvalidInput, LoadFailed
from andon.models import Column, ModelManifest, describe_foreign, load_model
from andon.models.foreign import read_signature
from andon.operations.releasing import check_foreign
from andon.registry import register
from andon.store import schema as s
from andon.tracking.records import EnvironmentLock
from tests.conftest import ANA

PYFUNC = {"loader_module": "mlflow.sklearn", "predict_fn": "predict", "python_version": "3.11.7"}
SKOPS = {"pickled_model": "model.skops", "serialization_format": "skops", "skops_trusted_types": None}
NUMBERS = json.dumps([{"type": "double", "name": "a", "required": True}, {"type": "long", "name": "b", "required": False}])


def column(name, dtype="double", required=True):
    return Column(name, dtype, required=required)


def put(store, files):
    return {path: store.blobs.put(data if isinstance(data, bytes) else data.encode()) for path, data in files.items()}


def described(flavors, **more):
    return yaml.safe_dump({"flavors": flavors, "mlflow_version": "3.17.2", **more})


def describe(store, files, **more):
    return describe_foreign(store.blobs, put(store, files), origin="logged-model:m-1", **more)


def test_an_estimator_in_skops_is_described_as_such(store):
    signature = {"inputs": NUMBERS, "outputs": '[{"type": "double", "required": true}]'}
    told = described({"python_function": PYFUNC, "sklearn": SKOPS}, signature=signature)
    files = {
        "MLmodel": told,
        "model.skops": "x",
        "requirements.txt": "mlflow==3.17.2\nnumpy==2.4.6\nlocal @ file:///x\nskops[rust]==0.16 ; python_version > '3'\n",
    }
    made = describe(store, files, facts={"source": "models:/m-1"})
    assert (made.format, made.entry, made.flags) == ("skops", "model.skops", ())
    assert made.libraries == {"mlflow": "3.17.2", "numpy": "2.4.6", "skops": "0.16"}
    assert made.signature.inputs == (column("a"), column("b", "long", required=False))
    assert made.signature.outputs == (column("prediction"),)
    assert made.facts["flavors"] == ["python_function", "sklearn"]
    assert (made.facts["source"], made.origin) == ("models:/m-1", "logged-model:m-1")
    assert set(store.blobs.tree(made.files)) == set(files)


@pytest.mark.parametrize(
    ("function", "flavor"),
    [
        ({}, {"serialization_format": "cloudpickle", "pickled_model": "model.pkl"}),
        ({}, {"skops_trusted_types": ["mine.Type"]}),
        ({"code": "code"}, {}),
        ({"predict_fn": "predict_proba"}, {}),
        ({}, {"pickled_model": "../model.skops"}),
        ({}, {"pickled_model": "missing.skops"}),
        ({"loader_module": "mlflow.pyfunc.model"}, {}),
    ],
)
def test_what_may_run_code_is_flagged(store, function, flavor):
    told = described({"python_function": PYFUNC | function, "sklearn": SKOPS | flavor})
    made = describe(store, {"MLmodel": told, "model.skops": "x", "model.pkl": "x"})
    assert (made.format, made.entry, made.flags) == ("mlflow", "MLmodel", ("pickle",))


def test_a_graph_is_described_as_onnx(store):
    told = described({"python_function": {"loader_module": "mlflow.onnx"}, "onnx": {"data": "model.onnx"}})
    made = describe(store, {"MLmodel": told, "model.onnx": "x"})
    assert (made.format, made.entry, made.flags) == ("onnx", "model.onnx", ())


@pytest.mark.parametrize(
    ("kind", "flags"), [("xgboost.sklearn.XGBRegressor", ()), ("os.system", ("pickle",)), ("xgboost.core.Booster", ())]
)
def test_a_booster_needs_no_code_unless_its_class_is_another(store, kind, flags):
    flavor = {"data": "model.ubj", "model_class": kind, "model_format": "ubj"}
    told = described({"python_function": {"loader_module": "mlflow.xgboost"}, "xgboost": flavor})
    assert describe(store, {"MLmodel": told, "model.ubj": "x"}).flags == flags


def test_tensors_become_columns():
    def tensor(shape, dtype="float32", **more):
        return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, **more}])

    assert read_signature({"inputs": tensor([-1, 2])}).inputs == (column("x0"), column("x1"))
    assert read_signature({"inputs": tensor([-1]), "outputs": tensor([-1], "int64")}).outputs == (column("prediction", "long"),)
    assert [c.name for c in read_signature({"outputs": tensor([-1, 2])}).outputs] == ["prediction_0", "prediction_1"]
    assert read_signature({"inputs": tensor([-1, 28, 28])}).inputs == (Column("x0", "float", shape=(28, 28)),)
    assert read_signature({"inputs": tensor([-1, 3, 1], "uint8")}).inputs == (Column("x0", "uint8", shape=(3, 1)),)
    assert read_signature({"inputs": tensor([-1, -1], "int32")}).inputs == (Column("x0", "integer", shape=(-1,)),)
    assert read_signature({"inputs": tensor([-1, 2], name="pair")}).inputs == (Column("pair", "float", shape=(2,)),)
    assert read_signature({"inputs": tensor([4, 28, 28])}).inputs == ()  # four rows, always
    assert read_signature({"inputs": tensor([-1, 28, 0])}).inputs == ()
    assert read_signature({"inputs": tensor([-1, 2, 2], "complex64")}).inputs == ()
    assert read_signature({"outputs": tensor([-1, 5, 2])}).outputs == (Column("prediction", "float", shape=(5, 2)),)
    assert read_signature({"inputs": tensor([-1], name="text", dtype="str")}).inputs == (column("text", "string"),)


@pytest.mark.parametrize("told", [None, 5, {}, {"inputs": "not json"}, {"inputs": "[1]"}, {"inputs": '[{"type": "map", "name": "a"}]'}])
def test_what_columns_cannot_say_is_left_out(told):
    assert read_signature(told).inputs == ()


def test_an_example_is_kept_in_the_order_of_the_signature(store):
    info = {"artifact_path": "input_example.json", "type": "dataframe"}
    told = described({"python_function": PYFUNC}, signature={"inputs": NUMBERS}, saved_input_example_info=info)
    example = json.dumps({"columns": ["b", "a"], "data": [[1, 0.5]] * 9})
    assert describe(store, {"MLmodel": told, "input_example.json": example}).example == ({"a": 0.5, "b": 1},) * 5
    for bad in ('{"columns": ["c"], "data": [[1]]}', "[[1]]", "[[[1], 2]]", "nonsense", '{"columns": 5, "data": []}'):
        assert describe(store, {"MLmodel": told, "input_example.json": bad}).example == ()


@pytest.mark.parametrize("text", ["[" * 5_000, "a: [1", "!!python/object/apply:os.system ['true']", "\x00"])
def test_a_description_that_is_no_yaml_is_refused(store, text):
    with pytest.raises(InvalidInput) as caught:
        describe(store, {"MLmodel": text})
    assert caught.value.fields["field"] == "MLmodel"


@pytest.mark.parametrize("text", ["5", "[]", "flavors: 7", "flavors: {python_function: [1]}", "signature: {inputs: 5}"])
def test_a_description_of_another_shape_says_little(store, text):
    made = describe(store, {"MLmodel": text})
    assert (made.format, made.flags, made.signature.inputs) == ("mlflow", ("pickle",), ())


def test_versions_come_from_whatever_file_has_them(store):
    told = described({})
    conda = yaml.safe_dump({"dependencies": ["python=3.11", {"pip": ["numpy==2.0", "x>=1"]}]})
    assert describe(store, {"MLmodel": told, "conda.yaml": conda}).libraries == {"numpy": "2.0"}
    env = yaml.safe_dump({"python": "3.11", "dependencies": ["scipy==1.0", "-r requirements.txt"]})
    assert describe(store, {"MLmodel": told, "python_env.yaml": env}).libraries == {"scipy": "1.0"}


class _Evil:
    def __reduce__(self):
        return (pytest.fail, ("it ran",))


def test_nothing_is_unpickled_unless_asked_for(store):
    told = described({"python_function": PYFUNC, "sklearn": SKOPS | {"serialization_format": "pickle", "pickled_model": "model.pkl"}})
    made = describe(store, {"MLmodel": told, "model.pkl": pickle.dumps(_Evil())})
    register(store, "model", "evil", made, actor=ANA, blobs=[made.files])
    with pytest.raises(Forbidden) as caught:
        load_model(store, "model:evil")
    assert "allow_pickle" in str(caught.value.next_step)


def test_files_that_are_not_here_are_named_and_may_come_later(store):
    from sklearn.linear_model import Ridge
    from skops.io import dumps

    manifest = describe_foreign(store.blobs, {}, origin="run:r1/model", facts={"source": "runs:/r1/model"})
    assert manifest == ModelManifest(
        format="mlflow",
        files=None,
        entry="MLmodel",
        signature=manifest.signature,
        facts={"source": "runs:/r1/model"},
        origin="run:r1/model",
    )
    register(store, "model", "late", manifest, actor=ANA)
    with pytest.raises(LoadFailed) as caught:
        load_model(store, "model:late")
    assert (caught.value.fields["model"], caught.value.fields["source"]) == ("model:late@1", "runs:/r1/model")
    x = np.arange(6.0).reshape(3, 2)
    signature = {"inputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}])}
    told = described({"python_function": PYFUNC, "sklearn": SKOPS}, signature=signature)
    model = Ridge().fit(x, x[:, 0])
    for path, digest in put(store, {"MLmodel": told, "model.skops": dumps(model), "../x": "no"}).items():
        row = {"owner": "run:r1", "path": f"model/{path}", "digest": digest, "size_bytes": 1, "media_type": "text/plain", "at_us": 1}
        if ".." not in path:
            store.ledger.write(lambda c, row=row: c.execute(s.artifacts.insert().values(**row)))
    predictor = load_model(store, "model:late")
    np.testing.assert_allclose(predictor.predict({"x0": x[:, 0], "x1": x[:, 1]})["prediction"], model.predict(x))


def test_a_release_needs_the_environment_that_the_model_was_saved_in(store):
    told = described({"python_function": PYFUNC})
    made = describe(store, {"MLmodel": told, "requirements.txt": "mlflow==3.17.2\ntorch==2.13.0\n"})
    register(store, "model", "code", made, actor=ANA, blobs=[made.files])
    here = EnvironmentLock(python="3.11.9", platform="linux", requirements=("MLflow==3.17.2", "torch==2.13.0+cpu"))
    with pytest.raises(Forbidden) as caught:
        check_foreign(store, "model:code", here, allow_pickle=False)
    assert "--allow-pickle" in str(caught.value.next_step)
    check_foreign(store, "model:code", here, allow_pickle=True)
    for python, pins, said in (
        ("3.12.1", here.requirements, "Python 3.11.7, not 3.12.1"),
        ("3.11.9", ("mlflow==3.17.1", "torch==2.13.0"), "mlflow==3.17.2, not 3.17.1"),
        ("3.11.9", ("mlflow==3.17.2",), "torch==2.13.0, not nothing"),
    ):
        with pytest.raises(Incompatible) as other:
            check_foreign(store, "model:code", EnvironmentLock(python=python, platform="linux", requirements=pins), allow_pickle=True)
        assert said in str(other.value)
    register(store, "model", "away", describe_foreign(store.blobs, {}, origin=""), actor=ANA)
    with pytest.raises(LoadFailed):
        check_foreign(store, "model:away", here, allow_pickle=True)


@pytest.mark.parametrize("kind", ["xgboost.sklearn.XGBRegressor", "xgboost.core.Booster"])
def test_a_booster_loads_without_its_client(store, tmp_path, kind):
    xgboost = pytest.importorskip("xgboost")
    x = np.random.default_rng(0).normal(size=(40, 2))
    model = xgboost.XGBRegressor(n_estimators=3, max_depth=2).fit(x, x[:, 0])
    model.save_model(tmp_path / "model.ubj")
    signature = {"inputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}])}
    flavor = {"data": "model.ubj", "model_class": kind, "model_format": "ubj"}
    told = described({"python_function": {"loader_module": "mlflow.xgboost"}, "xgboost": flavor}, signature=signature)
    made = describe(store, {"MLmodel": told, "model.ubj": (tmp_path / "model.ubj").read_bytes()})
    register(store, "model", "boosted", made, actor=ANA, blobs=[made.files])
    answered = load_model(store, "model:boosted").predict({"x0": x[:, 0], "x1": x[:, 1]})
    np.testing.assert_allclose(answered["prediction"], model.predict(x), rtol=1e-6)
