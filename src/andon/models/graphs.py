"""ONNX graphs on columns: what goes in and comes out, and the function that runs one.

This file imports nothing of Andon: the runner program loads it by its path, in a Python that need not have Andon.

A graph takes either one tensor for each column, by name and of any rank, or one tensor ``[n, k]`` for k columns of one value each. The
first axis of every tensor is the rows. Where it is fixed at 1 the rows are run one by one; fixed at any other number the graph is refused,
since a request has as many rows as it likes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Columns = dict[str, Any]
Predict = Callable[[Mapping[str, Any], int], Columns]

DTYPES = {
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint64)": "uint64",
    "tensor(uint32)": "uint32",
    "tensor(uint16)": "uint16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


class Place(NamedTuple):
    """One input or output: its name, NumPy dtype, and axes (the first is the rows; -1 is any length)."""

    name: str
    dtype: str
    axes: tuple[int, ...]


class UnfitError(ValueError):
    """A graph or program that has no columns; the message says why and what to do."""


def open_session(model: bytes | str) -> Any:
    """An ONNX Runtime session on this machine's CPU, one thread (serving has its own threads)."""
    # Else its wheels send events to their maker, which nobody here asked for, and which takes a thread and 2 MB.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come back as exceptions; the runtime would print them too
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def places(values: Sequence[Any]) -> list[Place]:
    """A session's inputs or outputs. Raises ``UnfitError`` naming the one that columns cannot say."""
    found = []
    for value in values:
        dtype = DTYPES.get(value.type)
        if dtype is None:
            hint = "; convert it with zipmap off" if value.type.startswith("seq(map") else ""
            raise UnfitError(f"{value.name!r} is a {value.type}, which is not a tensor of numbers, booleans or text{hint}")
        axes = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in value.shape or ())
        found.append(Place(value.name, dtype, axes))
    return found


def one_by_one(inputs: Sequence[Place]) -> bool:
    """Whether rows are run one at a time. Raises ``UnfitError`` for a tensor without rows, or with a fixed number of them."""
    for place in inputs:
        if not place.axes:
            raise UnfitError(f"the input {place.name!r} has no axis for the rows; export it with one, of any length")
        if place.axes[0] > 1:
            raise UnfitError(f"the input {place.name!r} takes exactly {place.axes[0]} rows; export it with a first axis of any length")
    return any(place.axes[0] == 1 for place in inputs)


def predictor(session: Any, names: Sequence[str], outputs: Sequence[str], tensors: Sequence[str] = ()) -> Predict:
    """A function from columns and their length to the ``outputs``.

    ``names`` are the signature's inputs in order, ``tensors`` the outputs that have a shape: ``[n, 1]`` stays as it is for those, and is
    ``[n]`` for the others. Raises ``UnfitError`` when graph and signature do not go together.
    """
    wanted = places(session.get_inputs())
    single = one_by_one(wanted)
    made = [item.name for item in session.get_outputs()]
    asked = list(outputs) if set(outputs) <= set(made) else made[: len(outputs)]
    feed = feeder(wanted, names)
    keep = frozenset(tensors)

    def predict(columns: Mapping[str, Any], n: int) -> Columns:
        given = feed(columns, n)
        results = session.run(asked, given) if not single else each_row(lambda part: session.run(asked, part), given, n)
        return {name: value if name in keep else flat(value, n) for name, value in zip(outputs, results, strict=False)}

    return predict


def feeder(wanted: Sequence[Place], names: Sequence[str]) -> Callable[[Mapping[str, Any], int], Columns]:
    """What makes the inputs of columns. Raises ``UnfitError`` when there is no way from these columns to those inputs."""
    known = {place.name for place in wanted}
    if len(wanted) == 1 and len(names) == 1:
        (place,), (name,) = wanted, names
        return lambda columns, n: {place.name: _shaped(columns[name], place, n)}
    if len(wanted) > 1 and known <= set(names):
        return lambda columns, n: {place.name: _shaped(columns[place.name], place, n) for place in wanted}
    if len(wanted) != 1 or len(wanted[0].axes) != 2:
        raise UnfitError(f"the inputs {sorted(known)} are not the signature's columns {list(names)}")
    (place,) = wanted
    names = tuple(names)
    if place.axes[1] not in (-1, len(names)):
        raise UnfitError(f"the input {place.name!r} has {place.axes[1]} columns and the signature {len(names)}")
    return lambda columns, n: {place.name: matrix(columns, names, n, place.dtype)}


def _shaped(values: Any, place: Place, n: int) -> Any:
    array = values.astype(place.dtype, copy=False)
    return array.reshape(n, 1) if array.ndim == 1 and len(place.axes) == 2 else array


def matrix(columns: Mapping[str, Any], names: Sequence[str], n: int, dtype: str) -> Any:
    """Columns side by side, ``[n, len(names)]``, in the order of ``names``. Columns that are so already (a ``Block``) are not copied."""
    import numpy as np

    together = getattr(columns, "together", None)
    if together is not None and getattr(columns, "names", None) == names:
        return together.astype(dtype, copy=False)
    out = np.empty((n, len(names)), dtype=dtype)
    for position, name in enumerate(names):
        out[:, position] = columns[name]
    return out


def flat(value: Any, n: int) -> Any:
    """``[n, 1]`` as ``[n]``; anything else as it is."""
    import numpy as np

    array = np.asarray(value)
    return array.reshape(n) if array.ndim == 2 and array.shape[1] == 1 else array


def each_row(run: Callable[[Columns], Sequence[Any]], given: Columns, n: int) -> list[Any]:
    """``run`` on the rows one after another, its outputs put together again."""
    import numpy as np

    rows = [run({name: values[row : row + 1] for name, values in given.items()}) for row in range(n)]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def load(spec: Mapping[str, Any]) -> Predict:
    """The function of a saved graph; ``spec`` is that of the runner program's ``load_model``."""
    import pathlib

    session = open_session(str(pathlib.Path(spec["path"], spec["entry"])))
    names, outputs = ([name for name, _ in spec[key]] for key in ("inputs", "outputs"))
    return predictor(session, names, outputs, spec.get("tensors", ()))
