"""Saving a ready-made ONNX graph: its signature is read off the graph itself and, when there is one, the example."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput
from andon.models import graphs
from andon.models.records import Column, Signature
from andon.models.saved import SavedModel, named_like, same_alone, versions
from andon.models.signatures import column_of, columns_of, dtype_of, infer_signature, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]

FILE = "model.onnx"


def is_graph(model: Any) -> bool:
    """Whether this is an ONNX graph: a path that ends in ``.onnx``, bytes, or a ``ModelProto``."""
    if isinstance(model, str | Path):
        return str(model).endswith(".onnx")
    return isinstance(model, bytes) or type(model).__name__ == "ModelProto"


def save_graph(model: Any, example: Any, into: Path, signature: Signature | None, optional: Collection[str]) -> SavedModel:
    """See ``models.save``. Raises ``InvalidInput`` for a graph that cannot be served, and says why."""
    graph = _bytes(model)
    try:
        session = graphs.open_session(graph)
    except Exception as error:  # noqa: BLE001 - the runtime has a family of errors of its own; all mean that it cannot load this
        raise InvalidInput(f"ONNX Runtime cannot load this graph: {str(error)[:300]}", field="model") from None
    try:
        inputs, single = graphs.places(session.get_inputs()), graphs.one_by_one(graphs.places(session.get_inputs()))
        outputs = graphs.places(session.get_outputs())
        rows: tuple[dict[str, Any], ...] = ()
        if example is not None:
            columns = columns_of(example, names=_names(example, inputs))
            rows = rows_of(columns)
            signature = signature or _inferred(columns, inputs, optional)
            signature = _checked(session, signature, columns, outputs)
        elif signature is None or not signature.outputs:
            signature = Signature(signature.inputs if signature else _columns(inputs), _columns(outputs))
        graphs.feeder(inputs, [column.name for column in signature.inputs])
    except graphs.UnfitError as error:
        raise InvalidInput(f"this graph cannot be served: {error}", field="model") from None
    (into / FILE).write_bytes(graph)
    facts = {"rows": "one at a time, since the graph's first axis is fixed at 1"} if single else {}
    libraries = versions(["onnxruntime"])
    return SavedModel(folder=into, format="onnx", entry=FILE, signature=signature, example=rows, libraries=libraries, facts=facts)


def _inferred(columns: Columns, inputs: Sequence[graphs.Place], optional: Collection[str]) -> Signature:
    told = infer_signature(columns, optional=optional)
    known = {place.name: column for place in inputs if (column := _column(place)) is not None}
    return Signature(named_like(known, told.inputs), ())


def _checked(session: Any, signature: Signature, columns: Columns, outputs: Sequence[graphs.Place]) -> Signature:
    """The signature with outputs, after the graph has answered the example, whole and its first row alone."""
    names = [column.name for column in signature.inputs]
    known = {place.name: column for place in outputs if (column := _column(place)) is not None}
    asked = [column.name for column in signature.outputs] or [place.name for place in outputs]
    predict = graphs.predictor(session, names, asked, asked)
    missing = [name for name in names if name not in columns]
    if missing:
        raise InvalidInput("a column of the signature is not in the example", field=missing[0])
    given = {name: columns[name] for name in names}
    try:
        made = predict(given, len(next(iter(given.values()))))
        mixed = same_alone(predict, given)
    except ValueError as error:
        raise graphs.UnfitError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - whatever the runtime says of the example is the caller's to read
        raise InvalidInput(f"the graph refuses the example: {str(error)[:300]}", field="example") from None
    if mixed is not None:
        raise graphs.UnfitError(f"{mixed!r} of a row depends on the other rows of its batch; export it for one row (a first axis of 1)")
    if signature.outputs:
        return signature
    return Signature(signature.inputs, named_like(known, [column_of(name, values) for name, values in columns_of(made).items()]))


def _columns(places: Sequence[graphs.Place]) -> tuple[Column, ...]:
    columns = []
    for place in places:
        column = _column(place)
        if column is None:
            raise InvalidInput("the shape of this cannot be told from the graph; pass an example or a signature", field=place.name)
        columns.append(column)
    return tuple(columns)


def _column(place: graphs.Place) -> Column | None:
    """The column that an input or output is; None when its axes are not known."""
    import numpy as np

    if not place.axes or 0 in place.axes[1:]:
        return None
    shape = () if place.axes[1:] == (1,) else place.axes[1:]
    return Column(place.name, dtype_of(np.empty(0, place.dtype), place.name), shape=shape)


def _names(example: Any, inputs: Sequence[graphs.Place]) -> list[str] | None:
    """An array of more than two dimensions is the one input, and is called as that is."""
    return [inputs[0].name] if len(getattr(example, "shape", ())) > 2 and len(inputs) == 1 else None


def _bytes(model: Any) -> bytes:
    if isinstance(model, bytes):
        return model
    if not isinstance(model, str | Path):
        return bytes(model.SerializeToString())
    path = Path(model)
    if not path.is_file():
        raise InvalidInput("there is no such file", field="model", got=path)
    if not path.with_name(f"{path.name}.data").is_file():
        return path.read_bytes()
    try:
        import onnx
    except ModuleNotFoundError:
        raise InvalidInput("this graph's weights lie in a file beside it; joining them needs onnx", field="model") from None
    return bytes(onnx.load(str(path)).SerializeToString())
