"""How much a release leans on each input: permutation importance on the gate's rows (Breiman 2001; Fisher, Rudin & Dominici 2019)."""

from __future__ import annotations

import numpy as np

from andon.monitoring.records import Frame, Loss, Predict, losses


def permutation_importance(gate: Frame, predict: Predict, *, seed: int, loss: Loss = "absolute", repeats: int = 3) -> dict[str, float]:
    """Loss with the feature shuffled over loss as it is, less 1, for every input; 0 where there is nothing to measure.

    ``predict`` takes columns and returns float64 (n,); it is called ``1 + repeats * features`` times.

    >>> from andon.monitoring.records import frame
    >>> rows = frame(range(50), {"x": range(50), "y": [0] * 50}, label=[2.5 * i for i in range(50)])
    >>> found = permutation_importance(rows, lambda columns: 2 * columns["x"], seed=1)
    >>> found["x"] > 1, found["y"]
    (True, 0.0)
    """
    rng = np.random.default_rng(seed)
    base = _mean(losses(predict(gate.inputs), gate.label, loss)) if len(gate) else 0.0
    found = {}
    for name, column in gate.inputs.items():
        total = [
            _mean(losses(predict({**gate.inputs, name: rng.permutation(column)}), gate.label, loss))
            for _ in range(repeats if base > 0 else 0)
        ]
        found[name] = float(np.mean(total)) / base - 1 if total else 0.0
    return found


def _mean(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0
