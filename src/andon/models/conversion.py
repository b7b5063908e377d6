"""Scikit-learn to ONNX, kept only when its predictions agree with the estimator's own.

The graph's contract, which serving relies on: either ONE input, a double tensor ``[n, k]`` called ``X`` whose columns are the signature's
inputs in order (numbers and booleans; null is NaN), or one input ``[n, 1]`` for each column, by name (double, int64, bool or string).
There is one output of shape ``[n]`` for each output column of the signature, by name. ``feeds`` builds the inputs from columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput
from andon.models import graphs, trees
from andon.models.estimators import answer, matrix, prediction_names, probability_names
from andon.models.graphs import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]

OPSET = 21
IR_VERSION = 10
TENSOR_INPUT = "X"
RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9
"""Parity: ``|onnx - estimator| <= 1e-9 + 1e-6 |estimator|`` for each number, and equal labels, on the probe rows."""
PROBE_ROWS = 256
MAX_EXAMPLE_ROWS = 2_000


class NotConvertibleError(Exception):
    """No ONNX graph that agrees with the estimator; the message says why."""


def to_onnx(estimator: Any, columns: Columns) -> tuple[bytes, dict[str, Any]]:
    """An ONNX graph that agrees with ``estimator``, and facts about the comparison. Raises ``NotConvertibleError`` with the reason."""
    try:
        import skl2onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise NotConvertibleError(f"{error.name} is not installed") from None
    probes = probe_rows(columns)
    expected = answer(estimator, probes)
    reasons = []
    for shape in (_tensor_input, _column_inputs):
        initial = shape(columns)
        if initial is None:
            continue
        try:
            graph = _convert(estimator, initial, expected)
            worst = compare(graph, probes, expected)
        except NotConvertibleError as error:
            reasons.append(str(error))
            continue
        facts = {
            "rows": len(next(iter(probes.values()))),
            "largest_difference": worst,
            "rtol": RELATIVE_TOLERANCE,
            "atol": ABSOLUTE_TOLERANCE,
        }
        return graph, {"parity": facts}
    raise NotConvertibleError("; ".join(dict.fromkeys(reasons)) or "the example has columns of a type that ONNX graphs do not take")


def compare(graph: bytes, columns: Columns, expected: Columns) -> float:
    """The largest relative difference between the graph and ``expected``; raises ``NotConvertibleError`` when one is out of tolerance."""
    return differences(run_session(open_session(graph), columns), expected)


def differences(
    found: Mapping[str, NDArray[Any]], expected: Columns, *, rtol: float = RELATIVE_TOLERANCE, atol: float = ABSOLUTE_TOLERANCE
) -> float:
    """The largest relative difference, as ``compare`` judges it."""
    import numpy as np

    worst = 0.0
    for name, wanted in expected.items():
        got = found[name]
        if wanted.dtype.kind != "f":
            differing = int((got.astype(wanted.dtype) != wanted).sum())
            if differing:
                raise NotConvertibleError(f"{name} differs in {differing} of {len(wanted)} rows")
            continue
        excess = np.abs(got - wanted)
        if not np.allclose(got, wanted, rtol=rtol, atol=atol, equal_nan=True):
            raise NotConvertibleError(f"{name} differs by up to {float(np.nanmax(excess)):.3g}")
        with np.errstate(invalid="ignore", divide="ignore"):
            worst = max(worst, float(np.nan_to_num(excess / np.maximum(np.abs(wanted), atol)).max()))
    return worst


def probe_rows(columns: Columns) -> Columns:
    """The example's rows and ``PROBE_ROWS`` recombinations of its columns, so that a few rows still reach many branches of a tree."""
    import numpy as np

    columns = {name: values[:MAX_EXAMPLE_ROWS] for name, values in columns.items()}
    generator = np.random.default_rng(0)
    probes: Columns = {}
    for name, values in columns.items():
        drawn = values[generator.integers(0, len(values), PROBE_ROWS)]
        if values.dtype.kind == "f" and len(values) > 1:  # and points between the values seen: that is where thresholds lie
            other = values[generator.integers(0, len(values), PROBE_ROWS)]
            drawn = drawn + (other - drawn) * generator.random(PROBE_ROWS)
        probes[name] = np.concatenate([values, drawn])
    return probes


def run_session(session: Any, columns: Mapping[str, NDArray[Any]], *, order: list[str] | None = None) -> Columns:
    """Run a graph on columns; each output comes back flat, by name."""
    names = [output.name for output in session.get_outputs()]
    given = feeds(session, columns, order=order)
    n = len(next(iter(columns.values())))
    if graphs.one_by_one(graphs.places(session.get_inputs())):
        made = graphs.each_row(lambda part: session.run(names, part), given, n)
    else:
        made = session.run(names, given)
    return {
        name: values.reshape(len(values)) if values.ndim == 2 and values.shape[1] == 1 else values
        for name, values in zip(names, made, strict=True)
    }


def feeds(session: Any, columns: Mapping[str, NDArray[Any]], *, order: list[str] | None = None) -> Columns:
    """The graph's inputs from columns; ``order`` is the order of the signature (default: that of ``columns``).

    Raises ``InvalidInput`` naming a column that is missing or cannot be cast.
    """
    inputs = session.get_inputs()
    order = order or list(columns)
    if len(inputs) == 1 and len(order) == 1:
        return {inputs[0].name: _cast(_column(columns, order[0]), inputs[0])}
    if len(inputs) == 1 and (inputs[0].name not in columns or len(order) > 1):
        source = inputs[0]
        tensor = matrix({name: _column(columns, name) for name in order})
        if tensor is None:
            raise InvalidInput("this model takes numbers only", field=source.name)
        return {source.name: tensor.astype(graphs.DTYPES[source.type], copy=False)}
    return {source.name: _cast(_column(columns, source.name), source) for source in inputs}


def _cast(values: NDArray[Any], source: Any) -> NDArray[Any]:
    try:
        cast = values.astype(graphs.DTYPES[source.type], copy=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"this column is not {source.type}: {error}", field=source.name) from None
    return cast.reshape(-1, 1) if len(source.shape) == 2 and cast.ndim == 1 else cast


def _column(columns: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    try:
        return columns[name]
    except KeyError:
        raise InvalidInput("a column that the model takes is missing", field=name) from None


def _tensor_input(columns: Columns) -> list[tuple[str, Any]] | None:
    from skl2onnx.common.data_types import DoubleTensorType

    if matrix({name: values[:1] for name, values in columns.items()}) is None:
        return None
    return [(TENSOR_INPUT, DoubleTensorType([None, len(columns)]))]


def _column_inputs(columns: Columns) -> list[tuple[str, Any]] | None:
    from skl2onnx.common.data_types import BooleanTensorType, DoubleTensorType, Int64TensorType, StringTensorType

    kinds: dict[str, Callable[[list[int | None]], Any]] = {
        "f": DoubleTensorType,
        "i": Int64TensorType,
        "b": BooleanTensorType,
        "O": StringTensorType,
    }
    if any(values.dtype.kind not in kinds for values in columns.values()):
        return None
    return [(name, kinds[values.dtype.kind]([None, 1])) for name, values in columns.items()]


def _convert(estimator: Any, initial: list[tuple[str, Any]], expected: Columns) -> bytes:
    import skl2onnx

    functions, shapes = trees.converters()
    options = {"zipmap": False} if hasattr(estimator, "predict_proba") else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of its own use of onnx and scikit-learn are not our caller's concern
            model = skl2onnx.convert_sklearn(
                estimator,
                name=type(estimator).__name__,  # its own default is random, and equal models are to have equal bytes
                initial_types=initial,
                target_opset={"": OPSET, "ai.onnx.ml": 3},
                options=options,
                custom_conversion_functions=functions,
                custom_shape_calculators=shapes,
            )
        model.ir_version = min(model.ir_version, IR_VERSION)
        trees.use_opset(model)
        _name_outputs(model, expected)
        graph = bytes(model.SerializeToString())
        open_session(graph)
    except Exception as error:  # noqa: BLE001 - a converter may fail in any way; skops is next, and the reason is kept
        message = str(error).strip().splitlines()
        raise NotConvertibleError(f"{type(error).__name__}: {message[0][:200] if message else ''}") from None
    return graph


def _name_outputs(model: Any, expected: Columns) -> None:
    """End the graph in one output of shape ``[n]`` for each output column, called as the column is."""
    from onnx import TensorProto, helper

    graph = model.graph
    made = [output.name for output in graph.output]
    predictions = [name for name in expected if name.startswith("prediction")]
    probabilities = [name for name in expected if name.startswith("probability")]
    nodes, outputs = [], []
    graph.initializer.append(helper.make_tensor("andon_flat", TensorProto.INT64, [1], [-1]))
    types = {"f": TensorProto.DOUBLE, "i": TensorProto.INT64, "u": TensorProto.INT64, "b": TensorProto.BOOL}

    def finish(source: str, column: int | None, name: str) -> None:
        flat = source
        if column is not None:
            index = f"andon_column_{name}"
            graph.initializer.append(helper.make_tensor(index, TensorProto.INT64, [1], [column]))
            nodes.append(helper.make_node("Gather", [source, index], [f"andon_gathered_{name}"], axis=1))
            flat = f"andon_gathered_{name}"
        nodes.append(helper.make_node("Reshape", [flat, "andon_flat"], [f"andon_flat_{name}"]))
        kind = types.get(expected[name].dtype.kind, TensorProto.STRING)
        if kind == TensorProto.STRING:
            nodes.append(helper.make_node("Identity", [f"andon_flat_{name}"], [name]))
        else:
            nodes.append(helper.make_node("Cast", [f"andon_flat_{name}"], [name], to=kind))
        outputs.append(helper.make_tensor_value_info(name, kind, [None]))

    for position, name in enumerate(predictions):
        finish(made[0], position if len(predictions) > 1 else None, name)
    for position, name in enumerate(probabilities):
        finish(made[1], 1 if len(probabilities) == 1 else position, name)
    for index, output in enumerate(made):  # a graph must not use one of our names for a value of its own
        if output in expected:
            _rename(graph, output, f"andon_inner_{index}")
            for node in nodes:
                node.input[:] = [f"andon_inner_{index}" if value == output else value for value in node.input]
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.extend(outputs)


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if value == old else value for value in node.input]
        node.output[:] = [new if value == old else value for value in node.output]


__all__ = [
    "NotConvertibleError",
    "compare",
    "feeds",
    "open_session",
    "prediction_names",
    "probability_names",
    "probe_rows",
    "run_session",
    "to_onnx",
]
