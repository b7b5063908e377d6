"""Arrow arrays from NumPy arrays and lists, made of buffers.

``pyarrow.array`` looks whether what it gets is a pandas object, and imports pandas to know: 50 MB and most of a second, in the first
answer of a replica that has pandas installed and no other use for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def numbers(
    values: Sequence[float] | np.ndarray[Any, Any], kind: pa.DataType, dtype: str, nulls: np.ndarray[Any, Any] | None = None
) -> pa.Array:
    """Values of one dimension as the fixed-width Arrow type ``kind``, whose NumPy dtype is ``dtype``; ``nulls`` marks what is not there."""
    import numpy as np
    import pyarrow as pa

    data = np.ascontiguousarray(values, dtype=dtype)
    if nulls is None:
        return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)], 0)
    return pa.Array.from_buffers(kind, len(data), [_bits(~nulls), pa.py_buffer(data)], int(nulls.sum()))


def doubles(values: np.ndarray[Any, Any]) -> pa.Array:
    """Floats of one dimension as float64; NaN is null."""
    import numpy as np
    import pyarrow as pa

    data = np.ascontiguousarray(values, dtype="f8")
    nulls = np.isnan(data)
    return numbers(data, pa.float64(), "f8", nulls if bool(nulls.any()) else None)


def instants(values: Sequence[int] | np.ndarray[Any, Any], nulls: np.ndarray[Any, Any] | None = None) -> pa.Array:
    """Microseconds since 1970, UTC."""
    import pyarrow as pa

    return numbers(values, pa.timestamp("us", tz="UTC"), "i8", nulls)


def booleans(values: np.ndarray[Any, Any]) -> pa.Array:
    """Booleans of one dimension."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)], 0)


def texts(values: Sequence[str | None]) -> pa.Array:
    """Strings; None is null."""
    import numpy as np
    import pyarrow as pa

    validity, nulls = None, 0
    if None in values:
        there = np.fromiter((value is not None for value in values), dtype=bool, count=len(values))
        validity, nulls = _bits(there), int(len(there) - there.sum())
        values = [value or "" for value in values]
    joined = "".join(values)  # type: ignore[arg-type]  # the nulls are gone
    parts: Sequence[Any] = values
    if not joined.isascii():
        parts = [value.encode(errors="replace") for value in values if value is not None]
    offsets = np.zeros(len(parts) + 1, dtype="i8")
    np.cumsum(np.fromiter(map(len, parts), dtype="i8", count=len(parts)), out=offsets[1:])
    if offsets[-1] > 2**31 - 1:
        raise OverflowError("these texts are over 2 GiB together")
    data = joined.encode() if parts is values else b"".join(parts)
    return pa.Array.from_buffers(pa.string(), len(parts), [validity, pa.py_buffer(offsets.astype("i4")), pa.py_buffer(data)], nulls)


def same(value: str, n: int) -> pa.Array:
    """One string, ``n`` times."""
    import numpy as np
    import pyarrow as pa

    encoded = value.encode()
    offsets = np.arange(n + 1, dtype="i4") * len(encoded)
    return pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(offsets.astype("i4")), pa.py_buffer(encoded * n)], 0)


def lists(values: np.ndarray[Any, Any]) -> pa.Array:
    """An array ``[n, …]`` as one flat list a row: of strings for objects, else of float64."""
    import numpy as np
    import pyarrow as pa

    n = len(values)
    flat = values.reshape(n, -1) if n else values.reshape(0, 0)
    if flat.dtype.kind in "OU":
        items = texts([None if value is None else str(value) for value in flat.ravel()])
    else:
        items = numbers(flat.ravel(), pa.float64(), "f8")
    return pa.ListArray.from_arrays(numbers(np.arange(n + 1) * flat.shape[1], pa.int32(), "i4"), items)


def _bits(values: np.ndarray[Any, Any]) -> pa.Buffer:
    import numpy as np
    import pyarrow as pa

    return pa.py_buffer(np.packbits(values.astype(bool), bitorder="little"))
