"""Models through save and load: the same answers, in a format that needs no trust."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from andon.core.errors import Forbidden, Incompatible, InvalidInput, LoadFailed
from andon.models import columns_of, load, save
from andon.models.conversion import compare, open_session, to_onnx
from andon.models.estimators import answer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 4))
HOLES = np.where(RNG.random(X.shape) < 0.1, np.nan, X)
Y = 3 * X[:, 0] + X[:, 1] ** 2
THREE = np.array(["low", "mid", "high"])[np.digitize(Y, [0, 2])]


def through(model, example, tmp_path, **options):
    saved = save(model, example, into=tmp_path / "files", **options)
    return saved, load(saved.manifest("b3:" + "0" * 64), saved.folder, allow_pickle=True)


CONVERTS = [
    (HistGradientBoostingRegressor(max_iter=10), HOLES, Y),
    (HistGradientBoostingRegressor(max_iter=10, loss="poisson"), HOLES, np.abs(Y)),
    (HistGradientBoostingClassifier(max_iter=5), HOLES, Y > 1),
    (HistGradientBoostingClassifier(max_iter=5), HOLES, THREE),
    (GradientBoostingRegressor(n_estimators=5), X, Y),
    (GradientBoostingClassifier(n_estimators=5), X, THREE),
    (GradientBoostingClassifier(n_estimators=5), X, Y > 0),
    (RandomForestRegressor(5), X, Y),
    (RandomForestClassifier(5), HOLES, (Y > 1).astype(int)),
    (ExtraTreesClassifier(5, max_depth=4), X, THREE),
    (DecisionTreeRegressor(), X, Y),
    (VotingRegressor([("a", Ridge()), ("b", HistGradientBoostingRegressor(max_iter=3))]), X, Y),
    (make_pipeline(SimpleImputer(), StandardScaler(), HistGradientBoostingRegressor(max_iter=3)), HOLES, Y),
    (make_pipeline(StandardScaler(), LogisticRegression()), X, THREE),
    (LinearRegression(), X, np.column_stack([Y, -Y])),
]


@pytest.mark.parametrize(("model", "given", "target"), CONVERTS, ids=lambda value: type(value).__name__)
def test_estimators_become_graphs_that_agree_to_1e_9(model, given, target, tmp_path):
    model.fit(given, target)
    saved, predictor = through(model, given[:5], tmp_path)
    assert saved.format == "onnx", saved.facts
    assert saved.flags == ()
    columns = columns_of(given)
    expected = columns_of(answer(model, columns))
    found = predictor.predict(columns)
    assert [column.name for column in saved.signature.outputs] == list(expected)
    for name, wanted in expected.items():
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found[name], wanted, rtol=1e-9, atol=1e-12)
        else:
            assert found[name].tolist() == wanted.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_categorical_splits_agree_also_for_categories_never_seen(seed):
    rng = np.random.default_rng(seed)
    given = np.column_stack([rng.integers(0, 40, 400), rng.normal(size=400), rng.choice([-3.5, 0, 2.25, 1e6], 400)]).astype(float)
    if seed % 2:
        given[rng.random(given.shape) < 0.1] = np.nan
    model = HistGradientBoostingRegressor(max_iter=10, categorical_features=[0, 2]).fit(given, np.nan_to_num(np.sin(given[:, 0])))
    graph, _ = to_onnx(model, columns_of(given[:100]))
    unseen = given.copy()
    unseen[:50, 0] = rng.integers(-5, 90, 50)
    unseen[50:99, 2] = rng.normal(size=49)
    assert compare(graph, columns_of(unseen), {"prediction": model.predict(unseen)}) < 1e-9


def test_thresholds_keep_double_precision(tmp_path):
    """Two values that float32 cannot tell apart, on two sides of a threshold."""
    low, high = 1.0, 1.0 + 1e-12
    given = np.repeat([[low], [high]], 50, axis=0)
    model = HistGradientBoostingRegressor(max_iter=1, min_samples_leaf=1, learning_rate=1.0).fit(given, np.repeat([0.0, 1.0], 50))
    assert model.predict([[low]])[0] != model.predict([[high]])[0]
    _, predictor = through(model, given, tmp_path)
    found = predictor.predict({"x0": np.array([low, high])})["prediction"]
    assert found.tolist() == model.predict([[low], [high]]).tolist()


def test_text_columns_become_one_input_each(tmp_path):
    words = np.array([["a", "u"], ["b", "v"], ["a", "v"]] * 5, dtype=object)
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(words, np.array(["x", "y", "x"] * 5))
    saved, predictor = through(model, words[:3], tmp_path)
    assert saved.format == "onnx"
    assert [source.name for source in open_session((saved.folder / "model.onnx").read_bytes()).get_inputs()] == ["x0", "x1"]
    assert predictor.predict(columns_of(words[:3]))["prediction"].tolist() == ["x", "y", "x"]


@pytest.mark.parametrize(
    "model",
    [
        CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=2), cv=2),
        TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_convert_goes_to_skops_with_the_reason(model, tmp_path):
    model.fit(X, Y > 0 if hasattr(model, "predict_proba") else np.abs(Y))
    saved, predictor = through(model, X[:5], tmp_path)
    assert saved.format == "skops"
    assert saved.facts["not_onnx"]
    found = predictor.predict(columns_of(X))
    for name, wanted in answer(model, columns_of(X)).items():
        np.testing.assert_allclose(found[name].astype(float), wanted.astype(float))


def test_asking_for_onnx_by_name_does_not_fall_back(tmp_path):
    model = TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1).fit(X, np.abs(Y))
    with pytest.raises(InvalidInput) as caught:
        save(model, X[:5], into=tmp_path / "files", format="onnx")
    assert caught.value.fields["field"] == "format"


def _own_function(values):
    return values


def test_an_estimator_with_foreign_code_is_refused_unless_pickled_by_name(tmp_path):
    model = make_pipeline(FunctionTransformer(_own_function), Ridge()).fit(X, Y)
    with pytest.raises(InvalidInput) as caught:
        save(model, X[:5], into=tmp_path / "a")
    assert "pickle" in str(caught.value)
    saved = save(model, X[:5], into=tmp_path / "b", format="pickle")
    assert saved.flags == ("pickle",)
    manifest = saved.manifest("b3:" + "0" * 64)
    with pytest.raises(Forbidden):
        load(manifest, saved.folder)
    np.testing.assert_allclose(load(manifest, saved.folder, allow_pickle=True).predict(columns_of(X))["prediction"], model.predict(X))


def test_a_skops_file_that_names_other_types_is_refused(tmp_path):
    import skops.io

    file = tmp_path / "model.skops"
    skops.io.dump(make_pipeline(FunctionTransformer(_own_function), Ridge()).fit(X, Y), file)
    from andon.models import ModelManifest, Signature

    manifest = ModelManifest(format="skops", files="b3:" + "0" * 64, entry="model.skops", signature=Signature((), ()))
    with pytest.raises(Forbidden):
        load(manifest, tmp_path)


@pytest.mark.parametrize("name", ["os.system", "numpy.load", "numpy.memmap", "builtins.eval", "sklearn.utils._testing.ignore_warnings"])
def test_functions_and_file_openers_are_not_let_in(name):
    from andon.models.loading import _is_known_class

    assert not _is_known_class(name)


def test_tensors_are_weights_and_do_not_predict(tmp_path):
    saved, weights = through({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3)}, None, tmp_path)
    assert saved.format == "safetensors"
    assert weights.tensors["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(Incompatible):
        weights.predict({})


CODE = """
from pathlib import Path
from scale import FACTOR

class Doubler:
    def __init__(self, folder):
        self.offset = float((Path(folder) / "offset.txt").read_text())
    def predict(self, columns):
        return {"y": columns["a"] * FACTOR + self.offset}
"""


def _folder(path: Path, factor: int) -> Path:
    path.mkdir()
    (path / "model.py").write_text(CODE)
    (path / "scale.py").write_text(f"FACTOR = {factor}\n")
    (path / "offset.txt").write_text("0.5")
    return path


def test_two_versions_of_a_folder_of_code_do_not_meet(tmp_path):
    predictors = []
    for factor in (2, 3):
        folder = _folder(tmp_path / f"code{factor}", factor)
        saved = save(folder, {"a": [1.0]}, into=tmp_path / f"files{factor}", entry="model:Doubler")
        assert [column.name for column in saved.signature.outputs] == ["y"]
        predictors.append(load(saved.manifest("b3:" + "0" * 64), saved.folder))
    assert [p.predict({"a": np.array([10.0])})["y"].tolist() for p in predictors] == [[20.5], [30.5]]
    assert not list((tmp_path / "files2").rglob("__pycache__"))


@pytest.mark.parametrize("entry", ["model", "model:", "../model:Doubler", "model:Doub-ler"])
def test_an_entry_is_a_module_and_a_class(entry, tmp_path):
    folder = _folder(tmp_path / "code", 2)
    with pytest.raises(InvalidInput):
        save(folder, {"a": [1.0]}, into=tmp_path / "files", entry=entry)


def test_a_ready_graph_is_kept_as_it_is(tmp_path):
    model = Ridge().fit(X, Y)
    first, _ = through(model, X[:5], tmp_path)
    graph = first.folder / "model.onnx"
    saved = save(graph, X[:5], into=tmp_path / "again")
    assert (saved.folder / "model.onnx").read_bytes() == graph.read_bytes()
    assert [column.name for column in saved.signature.outputs] == ["prediction"]


@pytest.mark.parametrize(
    ("model", "example", "field"),
    [
        (object(), None, "model"),
        (lambda columns: columns, None, "model"),
        (Ridge(), None, "example"),
        (Ridge(), {"a": [1.0]}, "example"),  # not fitted
        (b"not a graph", None, "model"),
    ],
)
def test_what_cannot_be_saved_says_why(model, example, field, tmp_path):
    with pytest.raises(InvalidInput) as caught:
        save(model, example, into=tmp_path / "files")
    assert caught.value.fields["field"] == field


def test_a_missing_column_is_named_before_the_model_runs(tmp_path):
    for form in ("onnx", "skops"):
        _, predictor = through(Ridge().fit(X, Y), X[:5], tmp_path / form, format=form)
        with pytest.raises(InvalidInput) as caught:
            predictor.predict({"x0": np.zeros(1)})
        assert caught.value.fields["field"] == "x1"


def test_damaged_files_fail_to_load_with_what_they_were_made_with(tmp_path):
    saved, _ = through(Ridge().fit(X, Y), X[:5], tmp_path)
    (saved.folder / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(LoadFailed) as caught:
        load(saved.manifest("b3:" + "0" * 64), saved.folder)
    assert "scikit-learn" in caught.value.fields["made_with"]


def test_pickles_round_trip_models_of_no_library(tmp_path):
    saved, predictor = through(_Plain(), {"a": [1.0, 2.0]}, tmp_path, format="pickle")
    assert predictor.predict({"a": np.array([4.0])})["prediction"].tolist() == [5.0]
    assert pickle.loads((saved.folder / "model.pkl").read_bytes())


class _Plain:
    def predict(self, columns):
        return columns["a"] + 1


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
def test_frames_give_their_names_and_types(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"a": X[:, 0], "n": np.arange(400) % 5, "flag": Y > 0})
    model = HistGradientBoostingRegressor(max_iter=3).fit(frame, Y)
    saved, predictor = through(model, frame[:5], tmp_path)
    assert [(column.name, column.dtype) for column in saved.signature.inputs] == [("a", "double"), ("n", "long"), ("flag", "boolean")]
    np.testing.assert_allclose(predictor.predict(columns_of(frame))["prediction"], model.predict(frame))


def test_scikit_learn_takes_no_tensors(tmp_path):
    with pytest.raises(InvalidInput, match="one value a column"):
        save(Ridge().fit(X, Y), {"a": X[:3], "b": X[:3, 0]}, into=tmp_path / "files")


def test_the_manifest_says_how_near_a_conversion_is_or_why_there_is_none(tmp_path):
    converted, _ = through(Ridge().fit(X, Y), X[:9], tmp_path / "a")
    assert converted.manifest("b3:x").facts["parity"]["rows"] == 265
    assert converted.facts["parity"]["largest_difference"] <= 1e-6
    native, _ = through(make_pipeline(FunctionTransformer(np.log1p), Ridge()).fit(np.abs(X), Y), np.abs(X[:9]), tmp_path / "b")
    assert native.format == "skops"
    assert native.manifest("b3:x").facts["not_onnx"]
