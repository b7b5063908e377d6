"""One value against one column: what is accepted, how it is refused, and arrays in the column's own type.

A column with a shape takes nested lists of exactly that shape, -1 being any length; the error names the element: ``rows[3].image[2][0]``.
Depth is bounded by the shape, never by the input.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Annotated, Any

import msgspec

from andon.core.clocks import to_us
from andon.core.errors import InvalidInput
from andon.models.records import NUMPY_DTYPES, Column, Dtype

MAX_TEXT_CHARS = 65_536
_STOPPED_AT = re.compile(r"at `\$((?:\[\d+\])*)`$")
_PLACES = re.compile(r"\d+")
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
RANGES: dict[Dtype, tuple[int, int]] = {
    "long": (LONG_MIN, LONG_MAX),
    "integer": (-(2**31), 2**31 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int8": (-(2**7), 2**7 - 1),
    "uint64": (0, 2**64 - 1),
    "uint32": (0, 2**32 - 1),
    "uint16": (0, 2**16 - 1),
    "uint8": (0, 2**8 - 1),
}
LARGEST: dict[Dtype, float] = {"float": (2 - 2**-23) * 2.0**127, "half": 65504.0}
_SAID: dict[Dtype, str] = {
    "double": "a number",
    "float": "a number",
    "half": "a number",
    "boolean": "true or false",
    "string": "text",
    "datetime": "ISO 8601 text or whole microseconds since 1970",
}
_KINDS: dict[Dtype, str] = {
    "double": "fiu",
    "float": "fiu",
    "half": "fiu",
    "boolean": "b",
    "string": "OU",
    "datetime": "Mi",
}


def column_dtype(column: Column) -> str:
    """The NumPy dtype of a column's values; whole numbers and booleans that may be null are float64, with NaN for null."""
    if not column.required and (column.dtype in RANGES or column.dtype == "boolean"):
        return "f8"
    return NUMPY_DTYPES[column.dtype]


@functools.cache
def json_type(dtype: Dtype, shape: tuple[int, ...] = ()) -> Any:
    """What msgspec decodes one value as. For ``uint64`` and ``datetime`` it lets in more than the column takes."""
    if shape:
        inner = json_type(dtype, shape[1:])
        nested = list[inner]  # type: ignore[valid-type]  # a type made here
        return nested if shape[0] < 0 else Annotated[nested, msgspec.Meta(min_length=shape[0], max_length=shape[0])]
    if dtype in RANGES:
        low, high = RANGES[dtype]
        return Annotated[int, msgspec.Meta(ge=low) if high > LONG_MAX else msgspec.Meta(ge=low, le=high)]
    if dtype in LARGEST:
        return Annotated[float, msgspec.Meta(ge=-LARGEST[dtype], le=LARGEST[dtype])]
    types: dict[Dtype, Any] = {
        "double": float,
        "boolean": bool,
        "string": Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)],
        "datetime": str | int,
    }
    return types[dtype]


def check_value(value: Any, column: Column, row: int, present: bool) -> Any:
    """The value as the codec keeps it: a Python scalar (microseconds for an instant), or an array of the column's dtype and shape.

    Raises ``InvalidInput`` naming the row, the field and the element.
    """
    if value is None:
        if column.required:
            why = "this field is required and is null" if present else "this field is required"
            raise InvalidInput(why, field=f"rows[{row}].{column.name}", row=row)
        return None
    if column.shape:
        return tensor(value, column, row)
    return _scalar(value, column.dtype, f"rows[{row}].{column.name}", row)


def tensor(value: Any, column: Column, row: int, *, typed: bool = False) -> Any:
    """Nested lists as an array. ``typed`` says that ``json_type`` has let them in already."""
    import numpy as np

    dtype = NUMPY_DTYPES[column.dtype]
    if column.dtype not in ("datetime", "uint64"):
        try:
            given = value if typed else msgspec.convert(value, json_type(column.dtype, column.shape))
            array = np.array(given, dtype=dtype)
        except msgspec.ValidationError as error:
            _refuse_there(error, value, column, row)
        except (ValueError, RecursionError):
            pass  # said exactly below
        else:
            if fits(array.shape, column.shape) and (array.dtype.kind != "f" or bool(np.isfinite(array).all())):
                return array
    field = f"rows[{row}].{column.name}"
    checked = _nested(value, column, column.shape, field, row)
    try:
        array = np.array(checked, dtype=dtype)
    except ValueError:
        array = np.empty(0)
    if not fits(array.shape, column.shape):
        if array.size or not _is_empty(checked):
            raise InvalidInput("the lists along one axis have equal lengths", field=field, row=row, shape=said_shape(column.shape))
        array = np.empty([max(size, 0) for size in column.shape], dtype=dtype)
    return array


def _refuse_there(error: msgspec.ValidationError, value: Any, column: Column, row: int) -> None:
    """Check the one element that msgspec stopped at: the others of a large tensor need not be looked at again to say what is wrong.

    What msgspec refuses and these rules accept (3.0 for a whole number) passes here, and all of the tensor is checked after.
    """
    found = _STOPPED_AT.search(str(error))
    places = [int(place) for place in _PLACES.findall(found[1])] if found else []
    if len(places) > len(column.shape):
        return
    for place in places:
        value = value[place]
    field = f"rows[{row}].{column.name}" + "".join(f"[{place}]" for place in places)
    _nested(value, column, column.shape[len(places) :], field, row)


def _is_empty(value: Any) -> bool:
    return isinstance(value, list) and all(_is_empty(item) for item in value)


def fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether an array of the shape ``found`` is of the shape ``wanted``, in which -1 is any length."""
    return len(found) == len(wanted) and all(size in (-1, there) for there, size in zip(found, wanted, strict=True))


def said_shape(shape: tuple[int, ...]) -> str:
    """
    >>> said_shape((3, -1))
    '[3, any]'
    """
    return f"[{', '.join('any' if size < 0 else str(size) for size in shape)}]"


def _nested(value: Any, column: Column, shape: tuple[int, ...], field: str, row: int) -> Any:
    if not shape:
        if value is None:
            raise InvalidInput("a tensor holds no nulls", field=field, row=row)
        return _scalar(value, column.dtype, field, row)
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"this is a list of the shape {said_shape(shape)}", field=field, row=row, takes=column.dtype, got=shown(value))
    if shape[0] >= 0 and len(value) != shape[0]:
        raise InvalidInput(
            f"this list has {shape[0]} items",
            field=field,
            row=row,
            shape=said_shape(column.shape),
            got=len(value),
        )
    return [_nested(item, column, shape[1:], f"{field}[{at}]", row) for at, item in enumerate(value)]


def _scalar(value: Any, dtype: Dtype, field: str, row: int) -> Any:
    kind = type(value)
    if dtype == "double" or dtype in LARGEST:
        if kind is int:
            try:
                value = float(value)
            except OverflowError:
                raise _wrong(value, dtype, field, row, "this number is too large") from None
            kind = float
        if kind is float and math.isfinite(value):
            if abs(value) <= LARGEST.get(dtype, value if value > 0 else -value):
                return value
            raise _wrong(value, dtype, field, row, f"this number is too large for a {dtype}")
    elif dtype in RANGES:
        if kind is float and value.is_integer():
            value = int(value)
            kind = int
        if kind is int:
            low, high = RANGES[dtype]
            if low <= value <= high:
                return value
            why = "a long has 64 bits" if dtype == "long" else f"a value of {dtype} is from {low} to {high}"
            raise _wrong(value, dtype, field, row, why)
    elif dtype == "boolean":
        if kind is bool:
            return value
    elif dtype == "string":
        if kind is str:
            if len(value) <= MAX_TEXT_CHARS:
                return value
            raise _wrong(value, dtype, field, row, f"text has at most {MAX_TEXT_CHARS} characters")
    elif kind is str or kind is int:
        return to_us(value, field=field)
    raise _wrong(value, dtype, field, row, f"this field takes {_said(dtype)}")


def _said(dtype: Dtype) -> str:
    return _SAID.get(dtype, "a whole number")


def _wrong(value: Any, dtype: Dtype, field: str, row: int, why: str) -> InvalidInput:
    return InvalidInput(why, field=field, row=row, takes=dtype, got=shown(value))


def shown(value: Any) -> str:
    """A value for an error, short."""
    text = repr(value) if not isinstance(value, dict | list) else f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= 80 else text[:77] + "…"


def nulls(dtype: str, n: int) -> Any:
    """A column of ``n`` nulls."""
    import numpy as np

    if dtype == "O":
        return np.full(n, None, dtype=object)
    return np.full(n, "NaT" if dtype.startswith("M8") else np.nan, dtype=dtype)


def cast(values: Any, column: Column, dtype: str, n: int) -> Any:
    """An array ``[n, *shape]`` (for a scalar also ``[n, 1]``) in the column's own dtype. Raises ``InvalidInput`` naming the column.

    Nothing is rounded away: a whole number stays one, and what does not fit the type is refused. A column with a shape may share the
    memory of what was given.
    """
    import numpy as np

    array = np.asarray(values)
    if column.shape:
        if array.ndim == 0 or len(array) != n or not fits(array.shape[1:], column.shape):
            wanted = said_shape((n, *column.shape))
            raise InvalidInput(f"this input has the shape {wanted}", field=column.name, got=str(list(array.shape))[:80])
    else:
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.shape != (n,):
            raise InvalidInput(f"an input has one value for each of {n} rows", field=column.name, got=str(list(array.shape))[:80])
    kind = array.dtype.kind
    whole = column.dtype in RANGES
    if whole and kind == "f" and bool((array == np.floor(array)).all()) and bool((np.abs(array, dtype="f8") < 2.0**64).all()):
        kind = "i"
    if kind not in ("iu" if whole else _KINDS[column.dtype]):
        raise InvalidInput(f"this input takes {_said(column.dtype)}", field=column.name, got=str(array.dtype))
    if array.dtype.kind == "f":
        _refuse_rows(np.isfinite(array) if column.required else ~np.isinf(array), "NaN and infinities are not values", column)
    if whole and array.size:
        low, high = RANGES[column.dtype]
        if int(array.min()) < low or int(array.max()) > high:
            why = "a long has 64 bits" if column.dtype == "long" else f"a value of {column.dtype} is from {low} to {high}"
            raise InvalidInput(why, field=column.name)
    with np.errstate(over="ignore"):
        made = array.astype(dtype, copy=not column.shape)
    if column.dtype in LARGEST and made.dtype != array.dtype:
        _refuse_rows(~np.isinf(made), f"this number is too large for a {column.dtype}", column)
    return made


def _refuse_rows(fine: Any, why: str, column: Column) -> None:
    import numpy as np

    if not bool(fine.all()):
        at = np.unravel_index(int(np.argmin(fine)), fine.shape)
        raise InvalidInput(why, field=column.name + "".join(f"[{int(place)}]" for place in at[1:]), row=int(at[0]))
