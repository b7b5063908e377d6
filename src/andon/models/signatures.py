"""Signatures: which columns go into a model and come out, read off an example.

An example is anything with columns: a pandas or polars frame, a pyarrow table, a mapping of column -> values, a list of rows (mappings),
or a NumPy array (the columns of one of two dimensions are called ``x0``, ``x1``, … unless names are given; one of more dimensions is a
single column ``x0``). A column whose values are arrays or nested lists of one shape is a tensor column, ``[n, *shape]``. pandas is never
imported here: a frame can only be handed in by a program that has imported it.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from andon.core.clocks import to_iso, to_us
from andon.core.errors import InvalidInput
from andon.models.records import NUMPY_DTYPES, Column, Dtype, Signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]

EXAMPLE_ROWS = 5
EXAMPLE_VALUES = 16_384
"""An example is part of a manifest; rows with more numbers than that in all are left out of it."""
_FLOATS: dict[int, Dtype] = {8: "double", 4: "float", 2: "half"}
_WHOLE: dict[str, Dtype] = {
    NUMPY_DTYPES[name]: name for name in ("long", "integer", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
}
MAX_COLUMNS = 10_000


def infer_signature(example: Any, outputs: Any = None, *, optional: Collection[str] = (), names: Sequence[str] | None = None) -> Signature:
    """The signature that fits ``example`` (inputs) and ``outputs`` (what the model answered for it; None leaves outputs empty).

    A column is required unless it holds a null in the example or is named in ``optional``; a tensor column always is.
    Raises ``InvalidInput`` naming the column whose type cannot be told.

    >>> import numpy as np
    >>> infer_signature({"hr": [8, 9], "temp": [0.5, None]}).inputs
    (Column(name='hr', dtype='long', required=True, shape=()), Column(name='temp', dtype='double', required=False, shape=()))
    >>> infer_signature({"image": np.zeros((2, 3, 8, 8), np.float32)}).inputs
    (Column(name='image', dtype='float', required=True, shape=(3, 8, 8)),)
    """
    columns = columns_of(example, names=names)
    for name in optional:
        if name not in columns:
            raise InvalidInput("a column named in `optional` is not in the example", field=name)
    inputs = tuple(column_of(name, values, required=name not in optional and not has_nulls(values)) for name, values in columns.items())
    if outputs is None:
        return Signature(inputs, ())
    made = columns_of(outputs)
    return Signature(inputs, tuple(column_of(name, values) for name, values in made.items()))


def column_of(name: str, values: NDArray[Any], *, required: bool = True) -> Column:
    """A normalised column's place in a signature. Raises ``InvalidInput`` naming it, also for a tensor with an axis of no length."""
    return Column(name, dtype_of(values, name), required, tuple(values.shape[1:]))


def columns_of(example: Any, *, names: Sequence[str] | None = None) -> Columns:
    """Columns of equal length: float64 (null is NaN), int64, bool, datetime64[us] or object (text; null is None).

    A column of tensors is ``[n, *shape]`` and keeps its own width (``float32``, ``uint8``, …).
    Raises ``InvalidInput`` naming the column that is empty of type, ragged or mixed.
    """
    import numpy as np

    raw = _raw_columns(example, names)
    if not raw:
        raise InvalidInput("an example needs at least one column", field="example")
    if len(raw) > MAX_COLUMNS:
        raise InvalidInput(f"an example has at most {MAX_COLUMNS} columns", field="example", got=len(raw))
    columns = {name: normalise(np.asarray(values) if _is_array(values) else values, name) for name, values in raw.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    first = next(iter(lengths.values()))
    for name, length in lengths.items():
        if length != first:
            raise InvalidInput(f"all columns have the same length; this one has {length} values, the first {first}", field=name)
    if first == 0:
        raise InvalidInput("an example needs at least one row", field="example")
    return columns


def dtype_of(values: NDArray[Any], name: str) -> Dtype:
    """The signature's type of a normalised column. Raises ``InvalidInput`` naming the column."""
    kind = values.dtype.kind
    if kind == "f" and values.dtype.itemsize in _FLOATS:
        return _FLOATS[values.dtype.itemsize]
    if kind in "iu":
        return _WHOLE[f"{kind}{values.dtype.itemsize}"]
    if kind == "b":
        return "boolean"
    if kind == "M":
        return "datetime"
    if kind == "O":
        return "string"
    raise InvalidInput(f"a column of {values.dtype} has no type in a signature", field=name)


def has_nulls(values: NDArray[Any]) -> bool:
    """Whether a normalised column holds NaN, None or NaT."""
    import numpy as np

    if values.dtype.kind == "f":
        return bool(np.isnan(values).any())
    if values.dtype.kind == "M":
        return bool(np.isnat(values).any())
    return values.dtype.kind == "O" and any(value is None for value in values.ravel())


def rows_of(columns: Mapping[str, NDArray[Any]], limit: int = EXAMPLE_ROWS) -> tuple[dict[str, Any], ...]:
    """The first rows of normalised columns as JSON values: null for NaN, ISO 8601 text for instants, nested lists for tensors.

    As many of them as hold ``EXAMPLE_VALUES`` numbers; none when one row is larger.
    >>> rows_of(columns_of({"a": [1.5, float("nan")]}))
    ({'a': 1.5}, {'a': None})
    """
    width = sum(values[:1].size for values in columns.values())
    limit = min(limit, EXAMPLE_VALUES // max(width, 1))
    listed = {name: [_json(value) for value in values[:limit].tolist()] for name, values in columns.items()}
    length = len(next(iter(listed.values()), []))
    return tuple({name: values[row] for name, values in listed.items()} for row in range(length))


def columns_from_rows(rows: Sequence[Mapping[str, Any]], signature: Signature) -> Columns:
    """JSON rows as the columns a predictor takes, typed by the signature's inputs (long with nulls becomes float64 with NaN).

    Raises ``InvalidInput`` naming the column. This is lenient (1.0 is a long, 1 is a double); strict request checks belong to serving.
    """
    columns: Columns = {}
    for column in signature.inputs:
        values = [row.get(column.name) for row in rows]
        if column.required and any(value is None for value in values):
            raise InvalidInput("a required column has no value", field=column.name)
        try:
            columns[column.name] = _tensors(values, column) if column.shape else _typed(values, column.dtype)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"this is not a {column.dtype}: {error}", field=column.name) from None
    return columns


def _tensors(values: list[Any], column: Column) -> NDArray[Any]:
    import numpy as np

    if column.dtype == "datetime":
        raise ValueError("instants are single values")
    array = np.array(values, dtype=NUMPY_DTYPES[column.dtype])
    if array.ndim != 1 + len(column.shape) or any(size not in (-1, got) for size, got in zip(column.shape, array.shape[1:], strict=True)):
        raise ValueError(f"the shape of a row is {list(column.shape)}, not {list(array.shape[1:])}")
    return array


def _typed(values: list[Any], dtype: Dtype) -> NDArray[Any]:
    import numpy as np

    nulls = any(value is None for value in values)
    if dtype == "string":
        return _objects([None if value is None else str(value) for value in values])
    if dtype == "datetime":
        return np.array([None if value is None else to_us(value) for value in values], dtype="datetime64[us]")
    kind = np.dtype(NUMPY_DTYPES[dtype])
    if nulls and kind.kind != "f":
        kind = np.dtype(np.float64)
    return np.array([np.nan if value is None else value for value in values] if nulls else values, dtype=kind)


def normalise(given: Any, name: str) -> NDArray[Any]:
    """One column in the form ``columns_of`` promises. Raises ``InvalidInput`` naming it."""
    import numpy as np

    values: NDArray[Any] = given if isinstance(given, np.ndarray) else _from_list(list(given), name)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 0:
        raise InvalidInput("a column has one value a row; this is a single value", field=name)
    if values.ndim > 1:
        return _normal_tensor(values, name)
    kind = values.dtype.kind
    if kind == "f":
        return values.astype(np.float64, copy=False)
    if kind in "iu":
        return values.astype(np.int64, copy=False)
    if kind == "b":
        return values
    if kind == "M":
        return values.astype("datetime64[us]", copy=False)
    if kind in "OUST":
        return _from_list(values.tolist(), name)
    raise InvalidInput(f"a column of {values.dtype} cannot go into a model", field=name)


def _normal_tensor(values: NDArray[Any], name: str) -> NDArray[Any]:
    if values.dtype.kind in "fiub" and values.dtype.itemsize <= 8:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind in "OUST":
        flat = _from_list(values.ravel().tolist(), name)
        if not has_nulls(flat):
            return flat.reshape(values.shape)
    raise InvalidInput(
        "the values of a tensor column are numbers, booleans or text, without nulls", field=name, got=f"{values.dtype} {values.shape}"
    )


def _from_list(values: list[Any], name: str) -> NDArray[Any]:
    """A column of Python values; what is null is told by pandas' and Python's own marks."""
    import numpy as np

    if any(isinstance(value, list | tuple | np.ndarray) for value in values):
        # As objects, for NumPy would make text of the numbers in a list that holds both.
        arrays = all(isinstance(value, np.ndarray) and value.dtype != object for value in values)
        try:
            array = np.array(values) if arrays else np.array(values, dtype=object)
        except ValueError:
            array = np.empty(0)
        if array.ndim < 2:
            raise InvalidInput("the values of a column are all of one shape", field=name)
        return _normal_tensor(array, name)
    values = [None if _is_null(value) else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        raise InvalidInput("this column holds no value, so its type cannot be told; give an example row that has one", field=name)
    nulls = any(value is None for value in values)
    if all(issubclass(kind, bool | np.bool_) for kind in kinds):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64 if nulls else np.bool_)
    if all(issubclass(kind, int | np.integer) and not issubclass(kind, bool) for kind in kinds):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64 if nulls else np.int64)
    if all(issubclass(kind, int | float | np.integer | np.floating) and not issubclass(kind, bool) for kind in kinds):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if all(issubclass(kind, str) for kind in kinds):
        return _objects(values)
    if all(issubclass(kind, dt.datetime | np.datetime64) for kind in kinds):
        moments = [to_us(value) if isinstance(value, dt.datetime) else value for value in values]
        return np.array([np.datetime64("NaT") if moment is None else np.datetime64(moment, "us") for moment in moments])
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise InvalidInput(f"a column holds numbers, booleans, text or datetimes, all of one kind; this one holds {found}", field=name)


def _raw_columns(example: Any, names: Sequence[str] | None) -> dict[str, Any]:
    import numpy as np

    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(example, pandas.DataFrame):
        return {str(name): _plain_series(example.iloc[:, position]) for position, name in enumerate(example.columns)}
    if pandas is not None and isinstance(example, pandas.Series):
        return {str(example.name if example.name is not None else "x0"): _plain_series(example)}
    if isinstance(example, Mapping):
        return {str(name): values for name, values in example.items()}
    if hasattr(example, "__arrow_c_stream__") or hasattr(example, "to_pydict"):
        return _arrow_columns(example)
    if isinstance(example, np.ndarray):
        return _array_columns(example, names)
    if isinstance(example, Sequence) and not isinstance(example, str | bytes):
        if example and all(isinstance(row, Mapping) for row in example):
            keys = dict.fromkeys(str(key) for row in example for key in row)
            return {key: [row.get(key) for row in example] for key in keys}
        return _array_columns(np.asarray(example), names)
    raise InvalidInput(
        "an example is a frame, a table, a mapping of columns, a list of rows or a 2-D array", field="example", got=type(example).__name__
    )


def _array_columns(array: NDArray[Any], names: Sequence[str] | None) -> dict[str, Any]:
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim == 0:
        raise InvalidInput("an array example has rows; this is a single value", field="example")
    if array.ndim > 2:
        if names is not None and len(names) != 1:
            raise InvalidInput("an array of more than two dimensions is one column, which takes one name", field="names")
        return {str(names[0]) if names is not None else "x0": array}
    if names is not None and len(names) != array.shape[1]:
        raise InvalidInput(f"there are {len(names)} column names for {array.shape[1]} columns", field="names")
    return {str(names[k]) if names is not None else f"x{k}": array[:, k] for k in range(array.shape[1])}


def _arrow_columns(example: Any) -> dict[str, Any]:
    import pyarrow as pa

    table = example if isinstance(example, pa.Table) else pa.table(example)
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            columns[name] = column.cast(pa.timestamp("us")).to_numpy()
        elif pa.types.is_decimal(column.type):
            columns[name] = column.cast(pa.float64()).to_numpy()
        else:
            columns[name] = column.to_numpy()
    return columns


def _plain_series(series: Any) -> Any:
    """A pandas column as an array or list: extension types (nullable, categorical, with time zone) have none of NumPy's kinds."""
    if getattr(series.dtype, "kind", "O") in "fiub" and type(series.dtype).__module__.startswith("numpy"):
        return series.to_numpy()
    return series.tolist()


def _is_array(values: Any) -> bool:
    return hasattr(values, "__array__") and hasattr(values, "dtype")


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")


def _objects(values: list[Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _json(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return to_iso(to_us(value))
    if isinstance(value, float) and value - value != 0:  # NaN and infinities have no JSON
        return None
    return value
