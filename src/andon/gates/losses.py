"""Losses per example: what every metric here is a mean of, so that two models are compared example by example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from andon.core.errors import InvalidInput

Array = NDArray[Any]


def _log_loss(label: Array, prediction: Array) -> Array:
    chance = np.clip(prediction, 1e-15, 1 - 1e-15)
    result: Array = -(label * np.log(chance) + (1 - label) * np.log1p(-chance))
    return result


LOSSES: Final[dict[str, Callable[[Array, Array], Array]]] = {
    "mae": lambda label, prediction: np.abs(label - prediction),
    "mse": lambda label, prediction: (label - prediction) ** 2,
    "error-rate": lambda label, prediction: ((prediction >= 0.5) != (label >= 0.5)).astype(float),
    "brier": lambda label, prediction: (label - prediction) ** 2,
    "log-loss": _log_loss,
}
"""Name -> loss of each example, from float64 arrays ``label`` and ``prediction`` of shape (n,). All are better when smaller."""


def loss(name: str, label: Array, prediction: Array) -> Array:
    """The loss of each example, shape (n,), NaN where label or prediction is. Raises ``InvalidInput`` for an unknown name.

    >>> loss("mae", np.array([1.0, 2.0]), np.array([1.5, 0.0])).tolist()
    [0.5, 2.0]
    """
    if name not in LOSSES:
        raise InvalidInput(f"there is no loss {name!r}; there are {', '.join(LOSSES)}", field="metric")
    if label.shape != prediction.shape:
        raise InvalidInput("labels and predictions differ in number", field="prediction", got=f"{prediction.shape} for {label.shape}")
    return LOSSES[name](label.astype(float), prediction.astype(float))
