"""Record batches as a release's input columns, under the rules of ``serving/values.py``, but a whole column at a time.

A row that production would refuse is left out and gets the reason; a column that no row of could be right (missing, or of another type) is
an error of the whole input. Text is read as numbers only where everything is text (CSV).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.clocks import to_us
from andon.core.errors import InvalidInput
from andon.models.records import Column, Signature
from andon.serving.values import LARGEST, MAX_TEXT_CHARS, RANGES, check_value, column_dtype

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]
    Columns = dict[str, Array]

_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 to 9999
_NULL = "this field is required and is null"
_NOT_FINITE = "NaN and infinities are not values"
_WHOLE = "this field takes a whole number"


class Checked(msgspec.Struct, frozen=True):
    """The columns of the rows that may be answered, which rows those are, and why the others may not (row -> reason)."""

    columns: Columns
    good: Array
    """Indices into the batch, ascending."""
    reasons: dict[int, str]


def check_schema(schema: pa.Schema, signature: Signature, *, text: bool) -> None:
    """Raises ``InvalidInput`` naming the first column that is missing or whose type no row could fit."""
    for column in signature.inputs:
        at = schema.get_field_index(column.name)
        if at < 0:
            if column.required:
                has = ", ".join(schema.names)[:300]
                raise InvalidInput("the input lacks a column that the release needs", field=column.name, takes=column.dtype, has=has)
        elif not text and not _fits(schema.field(at).type, column):
            shape = f" of shape {list(column.shape)}" if column.shape else ""
            raise InvalidInput(
                f"this column is {schema.field(at).type}, and the release takes a {column.dtype}{shape}",
                field=column.name,
                next_step="cast the column, or release a model with that signature",
            )


def _fits(kind: pa.DataType, column: Column) -> bool:
    import pyarrow.types as t

    if t.is_dictionary(kind):
        kind = kind.value_type
    if t.is_null(kind):
        return True
    if column.shape:
        return _is_list(kind)
    number = t.is_integer(kind) or t.is_floating(kind)
    said = t.is_string(kind) or t.is_large_string(kind)
    answers = {
        "number": number or t.is_decimal(kind),
        "whole": number,
        "boolean": t.is_boolean(kind),
        "string": said,
        "datetime": t.is_timestamp(kind) or t.is_date(kind) or t.is_integer(kind) or said,
    }
    return bool(answers[_family(column)])


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow.types as t

    return bool(t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind))


def _family(column: Column) -> str:
    if column.dtype in RANGES:
        return "whole"
    return column.dtype if column.dtype in ("boolean", "string", "datetime") else "number"


def check(batch: pa.RecordBatch, signature: Signature, *, text: bool) -> Checked:
    """A batch that passed ``check_schema`` as columns of the rows that may be answered."""
    import numpy as np
    import pyarrow as pa

    n = batch.num_rows
    columns: Columns = {}
    reasons: dict[int, str] = {}
    for column in signature.inputs:
        at = batch.schema.get_field_index(column.name)
        array = pa.nulls(n) if at < 0 else batch.column(at)
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if column.shape:
            values, wrong = _tensors(array, column, text=text)
        elif text and column.dtype != "string":
            values, wrong = _read_text(array, column)
        else:
            values, wrong = _READ[_family(column)](array, column)
        columns[column.name] = values
        for row, why in wrong.items():
            reasons.setdefault(row, f"{column.name}: {why}")
    good = np.arange(n)
    if reasons:
        good = np.delete(good, sorted(reasons))
        columns = {name: values[good] for name, values in columns.items()}
    return Checked(columns, good, reasons)


def _rows(mask: Array, why: str) -> dict[int, str]:
    return dict.fromkeys(mask.nonzero()[0].tolist(), why)


_FIXED = {
    "double": "f8",
    "float": "f4",
    "halffloat": "f2",
    **{f"{sign}int{bits}": f"{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def _plain(array: pa.Array) -> Array:
    """Numbers or booleans without nulls, over the same memory. ``Array.to_numpy`` would import pandas, for 50 MB and half a second."""
    import numpy as np
    import pyarrow as pa

    truths = pa.types.is_boolean(array.type)
    if truths:
        array = array.cast(pa.uint8())
    dtype, data = _FIXED[str(array.type)], array.buffers()[1]
    if not len(array) or data is None:
        return np.empty(0, dtype="?" if truths else dtype)
    values: Array = np.frombuffer(data, dtype=dtype, count=len(array), offset=array.offset * np.dtype(dtype).itemsize)
    return values.view("?") if truths else values


def _filled(array: pa.Array, fill: float) -> Array:
    """The same where there are nulls, with ``fill`` in their places. (``fill_null`` makes a scalar, which imports pandas, too.)"""
    values = _plain(array)
    if array.null_count:
        values = values.copy()
        values[_missing(array)] = fill
    return values


def _missing(array: pa.Array) -> Array:
    import numpy as np

    return _plain(array.is_null()) if array.null_count else np.zeros(len(array), dtype=bool)


def _nulls(array: pa.Array, column: Column) -> dict[int, str]:
    return _rows(_missing(array), _NULL) if column.required and array.null_count else {}


def _number(array: pa.Array, column: Column) -> tuple[Array, dict[int, str]]:
    import numpy as np
    import pyarrow as pa

    values = _filled(array.cast(pa.float64(), safe=False), math.nan)
    wrong = _nulls(array, column)
    if not np.isfinite(values).all():
        wrong |= _rows(~np.isfinite(values) & ~_missing(array) if column.required else np.isinf(values), _NOT_FINITE)
    if column.dtype in LARGEST:
        large = np.isfinite(values) & (np.abs(values) > LARGEST[column.dtype])
        wrong |= _rows(large, f"this number is too large for a {column.dtype}")
    with np.errstate(over="ignore"):  # of rows that are left out
        return values.astype(column_dtype(column), copy=False), wrong


def _whole(array: pa.Array, column: Column) -> tuple[Array, dict[int, str]]:
    import numpy as np
    import pyarrow as pa

    low, high = RANGES[column.dtype]
    wrong = _nulls(array, column)
    missing = _missing(array)
    if pa.types.is_null(array.type):
        array = array.cast(pa.int64())
    if pa.types.is_floating(array.type):
        values = _filled(array.cast(pa.float64()), math.nan)
        missing = missing if column.required else missing | np.isnan(values)
        with np.errstate(invalid="ignore"):
            whole = values == np.floor(values)
            within = (values >= float(low)) & (values <= high if high < 2**53 else values < float(high))
    else:
        values = _filled(array, 0)
        whole, within = np.ones(len(values), dtype=bool), (values >= low) & (values <= high)
    wrong |= _rows(~whole & ~missing, _WHOLE)
    why = "a long has 64 bits" if column.dtype == "long" else f"a value of {column.dtype} is from {low} to {high}"
    wrong |= _rows(whole & ~within & ~missing, why)
    fine = whole & within & ~missing
    made = np.where(fine, values, values.dtype.type(0)).astype(column_dtype(column))
    if not column.required and missing.any():
        made[missing] = np.nan
    return made, wrong


def _boolean(array: pa.Array, column: Column) -> tuple[Array, dict[int, str]]:
    import pyarrow as pa

    array = array.cast(pa.bool_())
    if column.required:
        return _filled(array, False), _nulls(array, column)
    return _filled(array.cast(pa.int8()).cast(pa.float64()), math.nan), {}


def _string(array: pa.Array, column: Column) -> tuple[Array, dict[int, str]]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    array = array.cast(pa.string())
    longer = _filled(pc.utf8_length(array), 0) > MAX_TEXT_CHARS
    wrong = _rows(longer, f"text has at most {MAX_TEXT_CHARS} characters")
    values = np.empty(len(array), dtype=object)
    values[:] = array.to_pylist()
    return values, _nulls(array, column) | wrong


def _datetime(array: pa.Array, column: Column) -> tuple[Array, dict[int, str]]:
    import numpy as np
    import pyarrow as pa

    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _one_by_one(array, column)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        array = array.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
    whole = _filled(array.cast(pa.int64()), 0)
    outside = (whole < _FIRST_US) | (whole > _LAST_US)
    values = whole.astype("M8[us]")
    if array.null_count:
        values[_missing(array)] = np.datetime64("NaT")
    return values, _nulls(array, column) | _rows(outside, "a time lies between the years 1 and 9999")


_READ = {"number": _number, "whole": _whole, "boolean": _boolean, "string": _string, "datetime": _datetime}


def _tensors(array: pa.Array, column: Column, *, text: bool) -> tuple[Array, dict[int, str]]:
    """``[n, *shape]``: at once where every row is whole, else row by row, with zeros for the ones that are wrong."""
    import numpy as np

    fast = None if text else _flat(array, column)
    if fast is not None:
        return fast, {}
    made: list[Any] = []
    wrong: dict[int, str] = {}
    for row, given in enumerate(array.to_pylist()):
        try:
            value = msgspec.json.decode(given) if text and given is not None else given
            made.append(check_value(value, column, row, present=True))
        except msgspec.DecodeError:
            wrong[row] = "this field takes nested lists, as JSON"
            made.append(None)
        except InvalidInput as error:
            wrong[row] = f"{error.message} ({error.fields.get('field')})"
            made.append(None)
    shape = next((value.shape for value in made if value is not None), tuple(max(size, 0) for size in column.shape))
    zeros = np.zeros(shape, dtype=column_dtype(column))
    return np.stack([zeros if value is None else value for value in made]) if made else zeros[None][:0], wrong


def _flat(array: pa.Array, column: Column) -> Array | None:
    """Lists of numbers, all whole and of the right lengths, without a Python object for each; None where that is not so."""
    import numpy as np
    import pyarrow as pa

    n, flat = len(array), array
    for size in column.shape:
        if not _is_list(flat.type) or flat.null_count or size < 0:
            return None
        before, flat = len(flat), flat.flatten()
        if len(flat) != before * size or not _even(array, size):
            return None
        array = flat
    if flat.null_count or not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
        return None
    values, wrong = _READ[_family(column)](flat, column) if _family(column) in ("number", "whole") else (None, {})
    return None if values is None or wrong else np.ascontiguousarray(values).reshape(n, *column.shape)


def _even(array: pa.Array, size: int) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    return bool(pa.types.is_fixed_size_list(array.type) or pc.all(pc.equal(pc.list_value_length(array), size)).as_py() is not False)


def _read_text(array: pa.Array, column: Column) -> tuple[Array, dict[int, str]]:
    """A column of a CSV: all of it at once where Arrow can, else cell by cell to find the ones that are no numbers."""
    import pyarrow as pa

    kinds = {"number": pa.float64(), "whole": pa.int64(), "boolean": pa.bool_()}
    family = _family(column)
    if family in kinds:
        try:
            return _READ[family](array.cast(kinds[family]), column)
        except pa.ArrowInvalid:
            pass
    return _one_by_one(array, column)


def _one_by_one(array: pa.Array, column: Column) -> tuple[Array, dict[int, str]]:
    import pyarrow as pa

    family = _family(column)
    values: list[Any] = []
    wrong: dict[int, str] = {}
    for row, text in enumerate(array.to_pylist()):
        value = None
        if text is not None:
            try:
                value = _PARSE[family](text.strip())
            except (ValueError, OverflowError, InvalidInput):
                wrong[row] = f"this field takes {_SAID[family]}, not {text[:60]!r}"
        values.append(value)
    large = family == "whole" and any(value is not None and value >= 2**63 for value in values)
    kinds = {"number": pa.float64(), "whole": pa.uint64() if large else pa.int64(), "boolean": pa.bool_(), "datetime": pa.timestamp("us")}
    try:
        made = pa.array(values, type=kinds[family])
    except (OverflowError, pa.ArrowInvalid):  # negative numbers beside some of more than 63 bits
        made = pa.array([None if value is None else float(value) for value in values])
    found, empty = _READ[family](made, column)
    return found, empty | wrong


_SAID = {
    "number": "a number",
    "whole": "a whole number of at most 64 bits",
    "boolean": "true or false",
    "datetime": "ISO 8601 text or whole microseconds since 1970",
}
_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


def _integer(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        value = int(number)
    if not -(2**63) <= value < 2**64:
        raise OverflowError
    return value


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise ValueError(text)
    return _TRUTHS[text.lower()]


def _instant(text: str) -> int:
    return to_us(int(text) if text.lstrip("-").isdigit() else text, field="datetime")


_PARSE: dict[str, Any] = {"number": float, "whole": _integer, "boolean": _truth, "datetime": _instant}
