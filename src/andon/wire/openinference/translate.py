"""The translation: tensors are columns.

A request has one tensor for each column of the release's inputs, of shape ``[n]`` or ``[n, 1]``; or, when all columns are numbers, one
tensor ``[n, k]`` with the k columns in the signature's order. An answer has one tensor of shape ``[n]`` for each output. The model's
name is the service's; a model's version is the release's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.errors import AndonError, InvalidInput
from andon.models.records import Dtype, Signature
from andon.serving.validation import RowCodec, check_request_id, parse_json

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

DATATYPES: dict[Dtype, str] = {"double": "FP64", "long": "INT64", "boolean": "BOOL", "string": "BYTES", "datetime": "BYTES"}
_NUMPY = {
    "BOOL": "?",
    "INT8": "i1",
    "INT16": "i2",
    "INT32": "i4",
    "INT64": "i8",
    "UINT8": "u1",
    "UINT16": "u2",
    "UINT32": "u4",
    "UINT64": "u8",
    "FP16": "f2",
    "FP32": "f4",
    "FP64": "f8",
    "BYTES": "O",
}
_ITEMS: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float, type(None)), "O": (str, type(None))}


class Tensor(msgspec.Struct):
    """One input as it is sent; ``data`` may be nested lists or flat."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] | None = None


class _Wanted(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Wanted] | None = None


class Infer(msgspec.Struct, frozen=True, kw_only=True):
    """A request, translated: checked columns of ``n`` rows, the caller's id, and which outputs are wanted (None: all)."""

    columns: dict[str, Any]
    n: int
    id: str | None
    outputs: tuple[str, ...] | None


_decoder = msgspec.json.Decoder(_Body)


def parse_infer(body: bytes, codec: RowCodec) -> Infer:
    """Read an ``infer`` body against a release's signature. Raises ``InvalidInput`` naming the tensor, or ``TooLarge``."""
    request = parse_json(body, _decoder)
    if request.id is not None:
        check_request_id(request.id)
    arrays = {tensor.name: _array(tensor) for tensor in request.inputs}
    if len(arrays) != len(request.inputs) or not arrays:
        raise InvalidInput("each input is sent once", field="inputs")
    arrays = _spread(arrays, codec.signature)
    n = len(next(iter(arrays.values())))
    wanted = None
    if request.outputs is not None:
        wanted = tuple(output.name for output in request.outputs)
        unknown = set(wanted) - {column.name for column in codec.signature.outputs}
        if unknown:
            raise InvalidInput("there is no such output", field=min(unknown))
    return Infer(columns=codec.from_columns(arrays, n), n=n, id=request.id, outputs=wanted)


def _array(tensor: Tensor) -> Any:
    import numpy as np

    dtype = _NUMPY.get(tensor.datatype)
    if dtype is None:
        raise InvalidInput("there is no such datatype", field=tensor.name, got=tensor.datatype[:40], known=", ".join(_NUMPY))
    if not 1 <= len(tensor.shape) <= 2 or min(tensor.shape) < 0:
        raise InvalidInput("a tensor has the shape [n], [n, 1] or [n, k]", field=tensor.name, got=str(tensor.shape)[:80])
    if tensor.data is None and tensor.parameters and "binary_data_size" in tensor.parameters:
        raise InvalidInput("the binary tensor extension is not spoken here yet", field=tensor.name, next_step="send `data` as JSON")
    data = _flat(tensor.data, tensor.name)
    if len(data) != math.prod(tensor.shape):
        raise InvalidInput(f"the shape {tensor.shape} does not hold {len(data)} values", field=tensor.name)
    kind = np.dtype(dtype).kind
    wrong = next((at for at, value in enumerate(data) if type(value) not in _ITEMS[kind]), None)
    if wrong is not None:
        raise InvalidInput(f"this value is not {tensor.datatype}", field=f"{tensor.name}[{wrong}]", got=repr(data[wrong])[:80])
    try:
        return np.array(data, dtype=dtype).reshape(tensor.shape)
    except (OverflowError, ValueError):
        raise InvalidInput(f"a value is out of the range of {tensor.datatype}", field=tensor.name) from None


def _flat(data: Any, name: str) -> Sequence[Any]:
    if not isinstance(data, list):
        raise InvalidInput("`data` is a list of values", field=name)
    if data and isinstance(data[0], list):
        if not all(isinstance(row, list) for row in data):
            raise InvalidInput("`data` is flat, or a list of rows", field=name)
        return [value for row in data for value in row]
    return data


def _spread(arrays: dict[str, Any], signature: Signature) -> dict[str, Any]:
    """One tensor ``[n, k]`` as the k columns it holds; anything else as it is."""
    names = [column.name for column in signature.inputs]
    if len(arrays) != 1:
        return arrays
    ((name, array),) = arrays.items()
    if array.ndim != 2 or array.shape[1] != len(names) or (name in names and len(names) == 1):
        return arrays
    if array.dtype.kind not in "fiu" or any(column.dtype not in ("double", "long") for column in signature.inputs):
        raise InvalidInput("one tensor for all columns needs them all to be numbers; send one tensor for each column", field=name)
    return {column: array[:, at] for at, column in enumerate(names)}


def infer_response(
    name: str, version: str, request_id: str, lists: Mapping[str, list[Any]], signature: Signature, infer: Infer, parameters: dict[str, Any]
) -> dict[str, Any]:
    """The answer's body; ``lists`` holds each output column's values."""
    outputs = []
    for column in signature.outputs:
        if infer.outputs is not None and column.name not in infer.outputs:
            continue
        values = lists[column.name]
        shape = [infer.n]
        if values and isinstance(values[0], list):
            shape.append(len(values[0]))
            values = [value for row in values for value in row]
        datatype = "INT64" if column.dtype == "datetime" else DATATYPES[column.dtype]
        outputs.append({"name": column.name, "datatype": datatype, "shape": shape, "data": values})
    return {"model_name": name, "model_version": version, "id": request_id, "parameters": parameters, "outputs": outputs}


def server_metadata(version: str) -> dict[str, Any]:
    """``GET /v2``."""
    return {"name": "andon", "version": version, "extensions": []}


def model_metadata(name: str, versions: Sequence[str], signature: Signature) -> dict[str, Any]:
    """``GET /v2/models/NAME``: one tensor for each column, of any length."""
    inputs = [{"name": column.name, "datatype": DATATYPES[column.dtype], "shape": [-1]} for column in signature.inputs]
    outputs = [{"name": column.name, "datatype": DATATYPES[column.dtype], "shape": [-1]} for column in signature.outputs]
    return {"name": name, "versions": list(versions), "platform": "andon_release", "inputs": inputs, "outputs": outputs}


def error_body(error: AndonError) -> dict[str, Any]:
    """The protocol's error: one string. The fields are said in it, since there is no other place for them."""
    return {"error": str(error).replace("\n  next: ", "; next: ")}
