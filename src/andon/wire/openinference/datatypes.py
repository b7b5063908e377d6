"""The protocol's datatypes, and which one each kind of column is. A new kind of column is one line in ``COLUMNS``."""

from __future__ import annotations

import msgspec

from andon.core.errors import InvalidInput
from andon.models.records import Dtype


class Datatype(msgspec.Struct, frozen=True):
    """One datatype of the protocol."""

    name: str
    numpy: str
    """The NumPy dtype of a tensor in memory; ``O`` holds text or bytes."""
    size: int
    """Bytes of one item on the wire; 0 when each item says its own length."""
    items: frozenset[type]
    """What a JSON item may be."""
    contents: str | None
    """The field of ``InferTensorContents``; None when a gRPC tensor of it is always raw."""
    config: int
    """Its number in ``ModelConfig``."""
    config_name: str


def _datatype(name: str, numpy: str, size: int, items: tuple[type, ...], contents: str | None, config: int) -> Datatype:
    return Datatype(name, numpy, size, frozenset(items), contents, config, "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}")


_FLOATS = (int, float, type(None))
"""Null is a missing number, which columns that are not required take."""
DATATYPES: dict[str, Datatype] = {
    kind.name: kind
    for kind in (
        _datatype("BOOL", "?", 1, (bool,), "bool_contents", 1),
        _datatype("UINT8", "u1", 1, (int,), "uint_contents", 2),
        _datatype("UINT16", "<u2", 2, (int,), "uint_contents", 3),
        _datatype("UINT32", "<u4", 4, (int,), "uint_contents", 4),
        _datatype("UINT64", "<u8", 8, (int,), "uint64_contents", 5),
        _datatype("INT8", "i1", 1, (int,), "int_contents", 6),
        _datatype("INT16", "<i2", 2, (int,), "int_contents", 7),
        _datatype("INT32", "<i4", 4, (int,), "int_contents", 8),
        _datatype("INT64", "<i8", 8, (int,), "int64_contents", 9),
        _datatype("FP16", "<f2", 2, _FLOATS, None, 10),
        _datatype("FP32", "<f4", 4, _FLOATS, "fp32_contents", 11),
        _datatype("FP64", "<f8", 8, _FLOATS, "fp64_contents", 12),
        _datatype("BYTES", "O", 0, (str, type(None)), "bytes_contents", 13),
        _datatype("BF16", "<f4", 2, _FLOATS, None, 14),  # NumPy has none: the upper half of a float32 on the wire, float32 in memory
    )
}

COLUMNS: dict[Dtype, str] = {
    "double": "FP64",
    "float": "FP32",
    "half": "FP16",
    "long": "INT64",
    "integer": "INT32",
    "int16": "INT16",
    "int8": "INT8",
    "uint64": "UINT64",
    "uint32": "UINT32",
    "uint16": "UINT16",
    "uint8": "UINT8",
    "boolean": "BOOL",
    "string": "BYTES",
    "datetime": "INT64",  # microseconds since 1970 UTC; as an input, BYTES with ISO 8601 text will do too
}
"""A column's dtype -> the datatype its tensor has."""


def datatype(name: str, *, field: str) -> Datatype:
    """The datatype of that name. Raises ``InvalidInput`` about ``field``."""
    found = DATATYPES.get(name)
    if found is None:
        raise InvalidInput("there is no such datatype", field=field, got=name[:40], known=", ".join(DATATYPES))
    return found


def of_column(dtype: Dtype) -> Datatype:
    """The datatype of a column's tensor."""
    return DATATYPES[COLUMNS[dtype]]
