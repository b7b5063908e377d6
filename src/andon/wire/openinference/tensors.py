"""Tensors from and to the wire: JSON lists, and the bytes of the binary tensor data extension (which gRPC's raw contents share).

Numbers are little-endian and row-major. An item of ``BYTES`` is its length in 4 bytes, little-endian, and then so many bytes. ``BF16`` is
the upper half of a float32. Nothing is trusted: sizes are computed from the shape with Python's integers and compared with what came.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput
from andon.wire.openinference.datatypes import Datatype, datatype

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MAX_DIMENSIONS = 9
_LENGTH = struct.Struct("<I")


def check_shape(shape: Sequence[int], name: str) -> int:
    """How many items a tensor of this shape holds. Raises ``InvalidInput`` for a shape that no tensor has."""
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 0:
        raise InvalidInput(f"a shape has 1 to {MAX_DIMENSIONS} sizes, none negative", field=name, got=str(list(shape[:9]))[:80])
    return math.prod(shape)


def from_bytes(data: bytes | memoryview, kind: str, shape: Sequence[int], name: str) -> Array:
    """A tensor of its bytes; numbers share ``data``'s memory. Raises ``InvalidInput`` when the two do not fit."""
    import numpy as np

    form = datatype(kind, field=name)
    count = check_shape(shape, name)
    if not form.size:
        return _texts(bytes(data), count, name).reshape(shape)
    if len(data) != count * form.size:
        needs = count * form.size
        raise InvalidInput(f"a {kind} tensor of this shape has {needs} bytes, not {len(data)}", field=name, shape=str(list(shape))[:80])
    if kind == "BF16":
        array = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    elif kind == "BOOL":
        array = np.frombuffer(data, "u1") != 0  # any other byte would be a bool that is neither
    else:
        array = np.frombuffer(data, form.numpy)
    return array.reshape(shape)


def _texts(data: bytes, count: int, name: str) -> Array:
    import numpy as np

    if count * 4 > len(data):
        raise InvalidInput(f"{count} BYTES items have at least {count * 4} bytes, not {len(data)}", field=name)
    items: list[str] = []
    at = 0
    for number in range(count):
        end = at + 4
        if end > len(data):
            raise InvalidInput("the bytes end before the length of an item", field=f"{name}[{number}]")
        size = _LENGTH.unpack_from(data, at)[0]
        at = end + size
        if at > len(data):
            raise InvalidInput(f"an item says it has {size} bytes, and {len(data) - end} are left", field=f"{name}[{number}]")
        items.append(text(data[end:at], f"{name}[{number}]"))
    if at != len(data):
        raise InvalidInput(f"{len(data) - at} bytes are left over after {count} items", field=name)
    return as_objects(items, np)


def text(data: bytes, field: str) -> str:
    """Bytes as text. Raises ``InvalidInput`` when they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInput("text columns take UTF-8, and this is not", field=field) from None


def as_objects(items: Sequence[Any], np: Any) -> Array:
    """A one-dimensional array of objects, whatever they are."""
    array: Array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def to_bytes(array: Array, form: Datatype) -> bytes:
    """A tensor's bytes; it has the datatype's dtype already. None among texts is written as an empty item."""
    if form.size:
        return array.tobytes()
    parts: list[bytes] = []
    for item in array.reshape(-1).tolist():
        data = b"" if item is None else item if isinstance(item, bytes) else str(item).encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def from_json(data: Any, kind: str, shape: Sequence[int], name: str) -> Array:
    """A tensor of a JSON list, flat or nested. Raises ``InvalidInput`` naming the item."""
    import numpy as np

    form = datatype(kind, field=name)
    count = check_shape(shape, name)
    fits = type(data) is list and form.items.issuperset(map(type, data))  # then it is flat: no list is a value
    items = data if fits else _flat(data, shape, name)
    if len(items) != count:
        raise InvalidInput(f"the shape {list(shape)} does not hold {len(items)} values", field=name)
    if not fits and not form.items.issuperset(map(type, items)):
        wrong = next(at for at, value in enumerate(items) if type(value) not in form.items)
        raise InvalidInput(f"this value is not {kind}", field=f"{name}[{wrong}]", got=repr(items[wrong])[:80])
    if not form.size:
        return as_objects(items, np).reshape(shape)
    try:
        if kind == "FP64":  # of Python's own floats: nothing overflows
            return np.array(items, dtype=form.numpy).reshape(shape)
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
            return np.array(items, dtype=form.numpy).reshape(shape)
    except (OverflowError, ValueError):
        raise InvalidInput(f"a value is out of the range of {kind}", field=name) from None


def _flat(data: Any, shape: Sequence[int], name: str) -> list[Any]:
    if not isinstance(data, list):
        raise InvalidInput("`data` is a list of values", field=name)
    items: list[Any] = data
    for size in shape[1:]:
        if not items or not isinstance(items[0], list):
            break
        if not all(isinstance(row, list) and len(row) == size for row in items):
            raise InvalidInput(f"`data` is flat, or nested as the shape {list(shape)} says", field=name)
        items = [value for row in items for value in row]
    if any(isinstance(value, list) for value in items):
        raise InvalidInput(f"`data` is flat, or nested as the shape {list(shape)} says", field=name)
    return items
