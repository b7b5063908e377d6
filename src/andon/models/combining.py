"""How several models answer as one: ensembles (all answer, and are combined) and cascades (the next answers what the last was unsure of).

A composition is a plain mapping, ``composition.json`` in the composed model's files (``andon.models.composing`` writes it). This file
imports nothing of Andon, and NumPy inside functions only: the runner program loads it by its path, in a Python that need not have Andon.

Rules. *mean*: outputs that are floats are averaged with the members' weights; of others (labels) the value with the largest sum of weights
is taken, and of equals the one that an earlier member gave. *vote*: every output is decided that way. *stacked*: the final member's inputs
are request columns and the members' outputs, called ``MEMBER_OUTPUT``. *cascade*: a row goes on to the next member while its confidence is
below the step's threshold, or is NaN; the last member answers whatever is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Columns = dict[str, Any]
Predict = Callable[[Columns, int], Columns]
LoadModel = Callable[[dict[str, Any]], Predict]
ANSWERED_BY = "answered_by"
FILE = "composition.json"


def load(folder: Path, load_model: LoadModel) -> Predict:
    """The composed model in ``folder`` as one function; ``load_model`` makes each member's of its spec (format, path, entry, …)."""
    composition = json.loads(Path(folder, FILE).read_bytes())
    members = [_member(member, folder, load_model) for member in composition["members"]]
    if composition["kind"] == "cascade":
        return cascade(members, composition)
    final = None if composition.get("final") is None else _member(composition["final"], folder, load_model)
    return ensemble(members, composition, final)


def _member(member: Mapping[str, Any], folder: Path, load_model: LoadModel) -> Predict:
    spec = {key: member[key] for key in ("format", "entry", "inputs", "outputs", "flags")}
    predict = load_model({**spec, "path": str(Path(folder, member["folder"]))})
    names = [name for name, _ in member["inputs"]]

    def run(columns: Columns, n: int) -> Columns:
        made = predict({name: columns[name] for name in names}, n)
        missing = [name for name, _ in member["outputs"] if name not in made]
        if missing:
            raise ValueError(f"the member {member['name']!r} did not give the output {missing[0]!r}; it gave {', '.join(made)}")
        return {name: made[name] for name, _ in member["outputs"]}

    return run


def ensemble(members: Sequence[Predict], composition: Mapping[str, Any], final: Predict | None = None) -> Predict:
    """Every member answers every row; see the rules above."""
    import numpy as np

    described = composition["members"]
    names = [member["name"] for member in described]
    weights = np.array([member.get("weight", 1.0) for member in described], dtype="f8")
    outputs = [name for name, _ in described[0]["outputs"]]

    def predict(columns: Columns, n: int) -> Columns:
        answers = [member(columns, n) for member in members]
        apart = {f"{name}_{output}": values for name, made in zip(names, answers, strict=True) for output, values in made.items()}
        if final is not None:
            combined = final({**columns, **apart}, n)
        else:
            combined = {output: _combine([made[output] for made in answers], weights, composition["how"]) for output in outputs}
        return {**combined, **apart} if composition.get("show_members") else combined

    return predict


def _combine(given: Sequence[Any], weights: Any, how: str) -> Any:
    import numpy as np

    columns = [np.asarray(values) for values in given]
    if how == "mean" and all(column.dtype.kind == "f" for column in columns):
        return np.tensordot(weights / weights.sum(), np.stack([column.astype("f8") for column in columns]), axes=1)
    return vote(columns, weights)


def vote(columns: Sequence[Any], weights: Any) -> Any:
    """For each row the value with the largest sum of weights; of equals, the one that an earlier member gave.

    >>> import numpy as np
    >>> vote([np.array([1, 0]), np.array([0, 0]), np.array([0, 1])], np.array([1.0, 1.0, 1.0])).tolist()
    [0, 0]
    >>> vote([np.array(["a"], dtype=object), np.array(["b"], dtype=object)], np.array([1.0, 1.0])).tolist()
    ['a']
    """
    import numpy as np

    totals = np.stack(
        [sum(weight * (column == mine) for weight, column in zip(weights, columns, strict=True)) for mine in columns]
    )  # [members, n]: the weight of whoever agrees with each member
    winner = np.argmax(totals, axis=0)  # the first of equals
    return np.stack(columns)[winner, np.arange(len(columns[0]))] if columns[0].dtype.kind != "O" else _pick(columns, winner)


def _pick(columns: Sequence[Any], winner: Any) -> Any:
    import numpy as np

    picked = np.empty(len(winner), dtype=object)
    picked[:] = [columns[member][row] for row, member in enumerate(winner)]
    return picked


def cascade(members: Sequence[Predict], composition: Mapping[str, Any]) -> Predict:
    """Each member answers the rows that none before it was sure of; ``answered_by`` names the member whose answer a row has."""
    import numpy as np

    described = composition["members"]
    confidence = composition["confidence"]
    outputs = [name for name, _ in described[0]["outputs"]]

    def predict(columns: Columns, n: int) -> Columns:
        rows = np.arange(n)
        made: Columns = {}
        by = np.empty(n, dtype=object)
        for at, member in enumerate(members):
            given = member({name: values[rows] for name, values in columns.items()} if at else columns, len(rows))
            for name in outputs:
                values = np.asarray(given[name])
                if at == 0:
                    made[name] = values.copy()
                else:
                    made[name] = _scatter(made[name], rows, values)
            by[rows] = described[at]["name"]
            if at < len(members) - 1:
                rows = rows[~sure(given, confidence["column"], confidence["rule"], confidence["thresholds"][at])]
                if not len(rows):
                    break
        return {**made, ANSWERED_BY: by}

    return predict


def _scatter(into: Any, rows: Any, values: Any) -> Any:
    import numpy as np

    wide = into.astype(np.result_type(into, values), copy=False) if "O" not in (into.dtype.kind, values.dtype.kind) else into.astype(object)
    wide[rows] = values
    return wide


def sure(outputs: Mapping[str, Any], column: str, rule: str, threshold: float) -> Any:
    """Which rows a member is sure of, bool (n,); NaN is unsure.

    Rules: ``margin``: ``|p - 0.5| >= threshold`` of the probability in ``column``; ``max``: the largest of the outputs whose names begin
    with ``column``; ``output``: ``column`` itself.

    >>> import numpy as np
    >>> sure({"p": np.array([0.5, 0.95, float("nan")])}, "p", "margin", 0.3).tolist()
    [False, True, False]
    """
    import numpy as np

    if rule == "max":
        value = np.max([np.asarray(values, dtype="f8") for name, values in outputs.items() if name.startswith(column)], axis=0)
    else:
        value = np.asarray(outputs[column], dtype="f8")
        value = np.abs(value - 0.5) if rule == "margin" else value
    return value >= threshold
