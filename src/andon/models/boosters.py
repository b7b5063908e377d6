"""XGBoost and LightGBM boosters in their libraries' own formats: loaded, and run on columns.

This file imports nothing of Andon: the runner program loads it by its path, in a Python that need not have Andon.

Beside the booster's file lies ``booster.json``, which says what its scikit-learn face knew and the file does not: ``classes`` (the labels
of a classifier, or null), ``iterations`` (how many rounds of boosting answer, after early stopping; 0 is all), and the file's ``sha256``,
since LightGBM's reader ends the whole process over some damaged files. Outputs are named as those of scikit-learn estimators:
``prediction`` (or ``prediction_0``, …), and ``probability`` or ``probability_CLASS``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Columns = dict[str, Any]
Predict = Callable[[Mapping[str, Any], int], Columns]

FILES = {"xgboost": "model.ubj", "lightgbm": "model.txt"}
ABOUT = "booster.json"


def load(spec: Mapping[str, Any]) -> Predict:
    """The function of a saved booster; ``spec`` is that of the runner program's ``load_model``.

    Raises ``ValueError`` for a file that is not the one that was saved, or takes another number of columns; what the library raises else.
    """
    folder = Path(spec["path"])
    about = json.loads((folder / ABOUT).read_bytes())
    if hashlib.sha256((folder / spec["entry"]).read_bytes()).hexdigest() != about["sha256"]:
        raise ValueError("the booster's file is damaged: it is not the one that was saved")
    names = [name for name, _ in spec["inputs"]]
    make = _xgboost if spec["format"] == "xgboost" else _lightgbm
    raw, features = make(folder / spec["entry"], int(about["iterations"]))
    if features != len(names):
        raise ValueError(f"the booster takes {features} columns and the signature has {len(names)}")
    classes = about["classes"]

    def predict(columns: Mapping[str, Any], n: int) -> Columns:
        return named(raw(_matrix(columns, names, n)), classes)

    return predict


def named(scores: Any, classes: Sequence[Any] | None) -> Columns:
    """What a booster gave, ``[n]`` or ``[n, k]``, by output name."""
    import numpy as np

    scores = np.asarray(scores)
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if classes is None:
        return {"prediction": scores} if scores.ndim == 1 else {f"prediction_{at}": scores[:, at] for at in range(scores.shape[1])}
    labels = np.array(classes, dtype=object) if any(isinstance(label, str) for label in classes) else np.array(classes)
    if scores.ndim == 1:
        return {"prediction": labels[(scores > 0.5).astype(int)], "probability": scores}
    shares = {f"probability_{label}": scores[:, at] for at, label in enumerate(classes)}
    return {"prediction": labels[scores.argmax(axis=1)]} | shares


def _matrix(columns: Mapping[str, Any], names: Sequence[str], n: int) -> Any:
    import numpy as np

    together = getattr(columns, "together", None)
    if together is not None and columns.names == tuple(names):  # type: ignore[attr-defined]
        return together.astype("f8", copy=False)
    out = np.empty((n, len(names)))
    for position, name in enumerate(names):
        out[:, position] = columns[name]
    return out


def _xgboost(file: Path, iterations: int) -> tuple[Callable[[Any], Any], int]:
    import xgboost  # type: ignore[import-not-found,import-untyped,unused-ignore]

    booster: Any = xgboost.Booster({"nthread": 1})
    booster.load_model(str(file))
    booster.set_param({"nthread": 1})
    rounds = (0, iterations)
    kind = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"]
    names = booster.feature_names
    if kind == "gbtree":  # the others have no prediction in place
        return lambda rows: booster.inplace_predict(rows, iteration_range=rounds, validate_features=False), int(booster.num_features())

    def predict(rows: Any) -> Any:
        given = xgboost.DMatrix(rows, feature_names=names, nthread=1)
        return booster.predict(given, iteration_range=rounds)

    return predict, int(booster.num_features())


def _lightgbm(file: Path, iterations: int) -> tuple[Callable[[Any], Any], int]:
    import lightgbm  # type: ignore[import-not-found,import-untyped,unused-ignore]

    booster: Any = lightgbm.Booster(model_file=str(file))
    return lambda rows: booster.predict(rows, num_iteration=iterations or None, num_threads=1), int(booster.num_feature())
