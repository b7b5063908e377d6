"""XGBoost and LightGBM in their own formats: the same answers as the library's, and no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost

from andon.core.errors import InvalidInput, LoadFailed
from andon.models import Predictor, columns_of, load, save
from andon.models.saved import SavedModel

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4))
X[::9, 1] = np.nan
Y = 3 * X[:, 0] + np.nan_to_num(X[:, 1]) ** 2
TWO = (Y > 0.5).astype(int)
THREE = np.digitize(Y, [0, 2])
FRAME = pd.DataFrame(X, columns=["a", "b", "c", "d"])
XGB: dict[str, Any] = {"n_estimators": 12, "n_jobs": 1}
LGB: dict[str, Any] = {"n_estimators": 12, "n_jobs": 1, "verbose": -1}


def through(model: Any, example: Any, tmp_path: Path, **options: Any) -> tuple[SavedModel, Predictor]:
    saved = save(model, example, into=tmp_path / "files", **options)
    return saved, load(saved.manifest("b3:" + "0" * 64), saved.folder)


def answers(model: Any, rows: Any) -> dict[str, Any]:
    """What the library's own scikit-learn face says."""
    predicted = model.predict(rows)
    made = {"prediction": predicted} if predicted.ndim == 1 else {f"prediction_{k}": predicted[:, k] for k in range(predicted.shape[1])}
    if hasattr(model, "classes_"):
        shares = model.predict_proba(rows)
        named = {f"probability_{label}": shares[:, k] for k, label in enumerate(model.classes_)}
        made |= {"probability": shares[:, 1]} if len(model.classes_) == 2 else named
    return made


MODELS: dict[str, tuple[Any, Any]] = {
    "xgboost": (lambda: xgboost.XGBRegressor(**XGB).fit(X, Y), X),
    "xgboost on a frame": (lambda: xgboost.XGBRegressor(**XGB).fit(FRAME, Y), FRAME),
    "xgboost of two classes": (lambda: xgboost.XGBClassifier(**XGB).fit(FRAME, TWO), FRAME),
    "xgboost of three classes": (lambda: xgboost.XGBClassifier(**XGB).fit(X, THREE), X),
    "xgboost of two targets": (lambda: xgboost.XGBRegressor(**XGB).fit(X, np.c_[Y, -Y]), X),
    "xgboost dart": (lambda: xgboost.XGBRegressor(booster="dart", rate_drop=0.3, **XGB).fit(FRAME, Y), FRAME),
    "xgboost linear": (lambda: xgboost.XGBRegressor(booster="gblinear", **XGB).fit(np.nan_to_num(X), Y), np.nan_to_num(X)),
    "xgboost stopped early": (
        lambda: xgboost.XGBRegressor(n_estimators=200, n_jobs=1, learning_rate=0.9, early_stopping_rounds=2).fit(
            X[:100], Y[:100], eval_set=[(X[100:], Y[100:])], verbose=False
        ),
        X,
    ),
    "lightgbm": (lambda: lightgbm.LGBMRegressor(**LGB).fit(FRAME, Y), FRAME),
    "lightgbm of words": (lambda: lightgbm.LGBMClassifier(**LGB).fit(FRAME, np.where(TWO, "yes", "no")), FRAME),
    "lightgbm of three numbers": (lambda: lightgbm.LGBMClassifier(**LGB).fit(FRAME, THREE * 10), FRAME),
    "lightgbm stopped early": (
        lambda: lightgbm.LGBMRegressor(**(LGB | {"n_estimators": 300, "learning_rate": 0.9})).fit(
            FRAME[:100], Y[:100], eval_X=(FRAME[100:],), eval_y=(Y[100:],), callbacks=[lightgbm.early_stopping(2, verbose=False)]
        ),
        FRAME,
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_it_answers_as_its_library_does(tmp_path: Path, case: str) -> None:
    """Tolerance 1e-6 (1 + |value|): scores are sums of float32. Labels are equal."""
    fit, rows = MODELS[case]
    model = fit()
    saved, loaded = through(model, rows[:20], tmp_path)
    assert saved.format == case.split()[0]
    assert saved.facts["parity"]["rows"] == 276
    assert saved.facts["parity"]["largest_difference"] < 1e-5
    names = [column.name for column in saved.signature.inputs]
    made = loaded.predict(columns_of(rows, names=names if isinstance(rows, np.ndarray) else None))
    expected = answers(model, rows)
    assert [column.name for column in saved.signature.outputs] == list(expected)
    for name, wanted in expected.items():
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(made[name], wanted, rtol=1e-6, atol=1e-6)
        else:
            assert made[name].tolist() == wanted.tolist()


def test_a_booster_without_a_face_answers_its_raw_scores(tmp_path: Path) -> None:
    model = xgboost.train({"objective": "multi:softprob", "num_class": 3, "nthread": 1}, xgboost.DMatrix(FRAME, THREE), 5)
    _, loaded = through(model, FRAME[:9], tmp_path / "x")
    made = np.column_stack(list(loaded.predict(columns_of(FRAME)).values()))
    np.testing.assert_allclose(made, model.predict(xgboost.DMatrix(FRAME)), rtol=1e-6, atol=1e-6)
    other = lightgbm.train({"objective": "binary", "num_threads": 1, "verbose": -1}, lightgbm.Dataset(FRAME, TWO), 5)
    _, loaded = through(other, FRAME[:9], tmp_path / "l")
    np.testing.assert_allclose(loaded.predict(columns_of(FRAME))["prediction"], other.predict(FRAME), rtol=1e-12)


def test_columns_go_in_the_order_of_training(tmp_path: Path) -> None:
    model = xgboost.XGBRegressor(**XGB).fit(FRAME, Y)
    saved, loaded = through(model, FRAME[["d", "b", "a", "c"]][:20], tmp_path)
    assert [column.name for column in saved.signature.inputs] == ["a", "b", "c", "d"]
    np.testing.assert_allclose(loaded.predict(columns_of(FRAME))["prediction"], model.predict(FRAME), rtol=1e-6)


def test_what_is_missing_may_be_null(tmp_path: Path) -> None:
    saved, _ = through(lightgbm.LGBMRegressor(**LGB).fit(FRAME, Y), FRAME[:20], tmp_path)
    assert [column.required for column in saved.signature.inputs] == [True, False, True, True]


@pytest.mark.parametrize(
    ("model", "example", "options", "why"),
    [
        (lambda: xgboost.XGBRegressor(), X[:5], {}, "not fitted"),
        (lambda: lightgbm.LGBMRegressor(), X[:5], {}, "not fitted"),
        (lambda: xgboost.XGBRegressor(**XGB).fit(X, Y), None, {}, "needs an example"),
        (lambda: xgboost.XGBRegressor(**XGB).fit(X, Y), X[:5], {"format": "onnx"}, "its own format, xgboost"),
        (lambda: xgboost.XGBRegressor(**XGB).fit(FRAME, Y), FRAME.rename(columns={"a": "z"})[:5], {}, "not those that"),
        (lambda: xgboost.XGBRegressor(**XGB).fit(X, Y), {"a": ["u", "v"], "b": [1, 2]}, {}, "columns of numbers"),
        (lambda: lightgbm.LGBMRegressor(**LGB).fit(X, Y), X[:5, :3], {}, "expecting 4 features"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, model: Any, example: Any, options: Any, why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        save(model(), example, into=tmp_path / "files", **options)
    assert why in str(caught.value)
    assert not list((tmp_path / "files").iterdir())


@pytest.mark.parametrize("model", [xgboost.XGBRegressor(**XGB), lightgbm.LGBMRegressor(**LGB)], ids=["xgboost", "lightgbm"])
def test_a_damaged_file_is_refused(tmp_path: Path, model: Any) -> None:
    saved, _ = through(model.fit(X, Y), X[:5], tmp_path)
    file = saved.folder / saved.entry
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x00" * len(whole)):
        file.write_bytes(damaged)
        with pytest.raises(LoadFailed):
            load(saved.manifest("b3:" + "0" * 64), saved.folder)
