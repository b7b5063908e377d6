"""Scikit-learn estimators as functions from columns to columns: the meaning that every saved format of them must keep.

A regressor answers ``prediction`` (several targets: ``prediction_0``, …), a classifier ``prediction`` (its label) and, when it has
probabilities, ``probability`` (of the second class, when there are two) or ``probability_CLASS`` for each.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]


def is_estimator(model: Any) -> bool:
    """Whether ``model`` is a fitted or unfitted scikit-learn estimator (no import of scikit-learn happens)."""
    return any(base.__module__.startswith("sklearn.") for base in type(model).__mro__)


def answer(estimator: Any, columns: Mapping[str, NDArray[Any]]) -> Columns:
    """What the estimator predicts for columns, by output name. Raises ``InvalidInput`` when it has no ``predict``."""
    import numpy as np

    if not hasattr(estimator, "predict"):
        raise InvalidInput("only estimators with a predict method can be saved", field="model", got=type(estimator).__name__)
    given = features(estimator, columns)
    with warnings.catch_warnings():
        # Columns come in the order of the signature, which is the order of training; without pandas they cannot carry their names.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        predicted = np.asarray(estimator.predict(given))
        shares = np.asarray(estimator.predict_proba(given)) if hasattr(estimator, "predict_proba") else None
    made = dict(zip(prediction_names(predicted), _split(predicted), strict=True))
    if shares is not None and shares.ndim == 2:
        names = probability_names(estimator.classes_)
        made |= zip(names, _split(shares[:, 1:] if len(names) == 1 else shares), strict=True)
    return made


def features(estimator: Any, columns: Mapping[str, NDArray[Any]]) -> Any:
    """What to hand to the estimator: a frame when it was fitted on one (and pandas is here), else an array ``[n, k]``."""
    import numpy as np

    if hasattr(estimator, "feature_names_in_") and importlib.util.find_spec("pandas") is not None:
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]

        return pd.DataFrame({name: columns[name] for name in columns})
    tensor = matrix(columns)
    if tensor is not None:
        return tensor
    return np.column_stack([values.astype(object) for values in columns.values()])


def matrix(columns: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """Columns side by side as float64 ``[n, k]``; None when one holds text or instants."""
    import numpy as np

    if any(values.dtype.kind not in "fib" for values in columns.values()):
        return None
    return np.column_stack([values.astype(np.float64, copy=False) for values in columns.values()])


def prediction_names(predicted: NDArray[Any]) -> list[str]:
    """``prediction``, or one name a target."""
    if predicted.ndim == 1 or predicted.shape[1] == 1:
        return ["prediction"]
    return [f"prediction_{target}" for target in range(predicted.shape[1])]


def probability_names(classes: Any) -> list[str]:
    """``probability`` for two classes, else one name a class.

    >>> probability_names([0, 1]), probability_names(["a", "b", "c"])
    (['probability'], ['probability_a', 'probability_b', 'probability_c'])
    """
    return ["probability"] if len(classes) == 2 else [f"probability_{value}" for value in classes]


def _split(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values] if values.ndim == 1 else [values[:, column] for column in range(values.shape[1])]
