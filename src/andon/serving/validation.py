"""Requests against a release's signature: JSON rows to columns, and outputs back to JSON.

The common case is decoded by msgspec straight from the body into a type made of the signature (a few microseconds). What that refuses
goes through ``check_rows``, which defines what is accepted and says exactly which row and field is wrong. A property test holds the two
together.

Rules: a required field is present and not null; there are no fields but the signature's; ``double`` takes any JSON number, ``long`` whole
numbers of 64 bits (``3.0`` is one), the narrower types what fits them, ``boolean`` true and false, ``string`` text of at most 65,536
characters, ``datetime`` ISO 8601 text or whole microseconds since 1970. A boolean is never a number. JSON has no NaN and no infinities, and
text such as ``"NaN"`` is not a number. A column with a shape takes nested lists of that shape; along an axis of any length the rows of one
request agree.

As columns: ``[n, *shape]``, ``double`` float64, ``long`` int64, ``boolean`` bool, ``datetime`` datetime64[us], ``string`` object (str or
None), the others as ``NUMPY_DTYPES`` says. Null is NaN, NaT or None; a whole number or ``boolean`` that is not required is always float64,
so that its type does not depend on the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from andon.core.blocks import Block
from andon.core.clocks import to_us
from andon.core.errors import InvalidInput, ModelFailed, TooLarge
from andon.models.records import NUMPY_DTYPES, Dtype, Signature
from andon.serving.values import cast, check_value, column_dtype, fits, json_type, nulls, said_shape, shown, tensor

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

T = TypeVar("T")
MAX_ROWS = 100_000
FEW = 64
"""So many numbers are looked at faster one by one than as an array."""
_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded body: rows as tuples in the signature's order, and what the caller said of them."""

    rows: Sequence[tuple[Any, ...]]
    request_id: str | None = None
    event_us: Sequence[int] | None = None
    """One for each row, or None."""


class RowCodec:
    """Decodes and checks the rows of one signature. Make it once per release; it is immutable and safe in any thread."""

    def __init__(self, signature: Signature, *, max_rows: int = MAX_ROWS) -> None:
        self.signature = signature
        self._columns = signature.inputs
        self._max_rows = max_rows
        self._names = [column.name for column in signature.inputs]
        self._dtypes = [column_dtype(column) for column in signature.inputs]
        self._later = [
            (at, column) for at, column in enumerate(signature.inputs) if column.shape or column.dtype in ("datetime", "uint64")
        ]  # what msgspec cannot check or make by itself
        self._tensors = any(column.shape for column in signature.inputs)
        self._block_names = tuple(self._names)
        self._block_of = block_dtype(signature)
        self._any_length = [(at, column) for at, column in enumerate(signature.inputs) if -1 in column.shape]
        row = _row_type(signature)
        envelope = msgspec.defstruct(
            "Envelope",
            [("rows", list[row]), ("request_id", str | None, None), ("event_time", Any, None)],  # type: ignore[valid-type]
            forbid_unknown_fields=True,
            gc=False,
        )
        self._envelope: msgspec.json.Decoder[Any] = msgspec.json.Decoder(envelope)
        self._list: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]
        self._tuple: Callable[[Any], tuple[Any, ...]] = msgspec.structs.astuple

    def decode(self, body: bytes | bytearray) -> Request:
        """A JSON body: ``{"rows": [{…}], "request_id"?, "event_time"?}``, a bare list of rows, or one bare row.

        ``event_time`` is ISO 8601 text or microseconds, for all rows or a list with one for each. Raises ``InvalidInput`` naming
        the row and the field, or ``TooLarge``.
        """
        try:
            if body[:1] == b"[":
                rows = list(map(self._tuple, self._list.decode(body)))
                request_id = event_time = None
            else:
                envelope = self._envelope.decode(body)
                rows = list(map(self._tuple, envelope.rows))
                request_id, event_time = envelope.request_id, envelope.event_time
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._decode_slowly(body)
        self._check_count(len(rows))
        if self._later:
            rows = [self._finished(row, at) for at, row in enumerate(rows)]
            self._check_lengths(rows)
        return self._request(rows, request_id, event_time)

    def check_rows(self, rows: Any) -> list[tuple[Any, ...]]:
        """Rows as mappings, checked: tuples in the signature's order. Raises ``InvalidInput`` or ``TooLarge``."""
        if not isinstance(rows, list | tuple):
            raise InvalidInput("`rows` is a list of objects, one for each row", field="rows", got=shown(rows))
        self._check_count(len(rows))
        checked = [self._check_row(row, at) for at, row in enumerate(rows)]
        self._check_lengths(checked)
        return checked

    def to_columns(self, rows: Sequence[tuple[Any, ...]]) -> Columns:
        """Checked rows as columns."""
        import numpy as np

        if self._block_of is not None:
            return Block(self._block_names, np.array(rows, dtype=self._block_of), rows if self._block_of == "f8" else None)
        if self._tensors:  # whose values are arrays already
            return {
                column.name: np.stack(values) if column.shape else np.array(values, dtype=dtype)
                for column, dtype, values in zip(self._columns, self._dtypes, zip(*rows, strict=True), strict=True)
            }
        return {
            name: np.array(values, dtype=dtype)
            for name, dtype, values in zip(self._names, self._dtypes, zip(*rows, strict=True), strict=True)
        }

    def from_columns(self, given: Mapping[str, Any], n: int) -> Columns:
        """Columns that came as arrays (of numbers, booleans or text, with ``n`` rows each) in the form ``to_columns`` gives.

        Raises ``InvalidInput`` naming the column.
        """
        self._check_count(n)
        unknown = given.keys() - set(self._names)
        if unknown:
            raise InvalidInput("the signature has no such input", field=min(unknown), inputs=", ".join(self._names))
        columns: Columns = {}
        for column, dtype in zip(self._columns, self._dtypes, strict=True):
            if column.name not in given:
                if column.required:
                    raise InvalidInput("this input is required", field=column.name)
                columns[column.name] = nulls(dtype, n)
            else:
                columns[column.name] = cast(given[column.name], column, dtype, n)
        return columns

    def _decode_slowly(self, body: bytes | bytearray) -> Request:
        value = parse_json(body, _anything)
        request_id = event_time = None
        if isinstance(value, dict) and isinstance(value.get("rows"), list):
            extra = value.keys() - {"rows", "request_id", "event_time"}
            if extra:
                raise InvalidInput("a request holds rows, request_id and event_time only", field=min(extra))
            request_id, event_time, value = value.get("request_id"), value.get("event_time"), value["rows"]
        elif isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            raise InvalidInput('the body is {"rows": [{…}]}, a list of rows, or one row', field="body", got=shown(value))
        return self._request(self.check_rows(value), request_id, event_time)

    def _request(self, rows: list[tuple[Any, ...]], request_id: Any, event_time: Any) -> Request:
        if request_id is not None:
            check_request_id(request_id)
        return Request(rows=rows, request_id=request_id, event_us=None if event_time is None else event_times(event_time, len(rows)))

    def _check_count(self, n: int) -> None:
        if n == 0:
            raise InvalidInput("there are no rows", field="rows")
        if n > self._max_rows:
            raise TooLarge(f"a request has at most {self._max_rows} rows", field="rows", got=n, next_step="send them in several requests")

    def _check_row(self, row: Any, at: int) -> tuple[Any, ...]:
        if not isinstance(row, Mapping):
            raise InvalidInput("a row is an object of field -> value", field=f"rows[{at}]", row=at, got=shown(row))
        values = tuple(check_value(row.get(column.name), column, at, column.name in row) for column in self._columns)
        if len(row) > len(self._columns) or any(name not in self._names for name in row):
            extra = next(str(name) for name in row if name not in self._names)
            raise InvalidInput(
                "the signature has no such field", field=f"rows[{at}].{extra[:100]}", row=at, fields=", ".join(self._names)[:500]
            )
        return values

    def _finished(self, row: tuple[Any, ...], at: int) -> tuple[Any, ...]:
        values = list(row)
        for position, column in self._later:
            given = values[position]
            values[position] = tensor(given, column, at, typed=True) if column.shape else check_value(given, column, at, present=True)
        return tuple(values)

    def _check_lengths(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows that are answered as one array have one shape."""
        for position, column in self._any_length:
            first = rows[0][position].shape
            for at, row in enumerate(rows):
                if row[position].shape != first:
                    raise InvalidInput(
                        "the rows of one request have equal shapes",
                        field=f"rows[{at}].{column.name}",
                        row=at,
                        first=said_shape(first),
                        got=said_shape(row[position].shape),
                        next_step="send rows of other lengths in requests of their own",
                    )


def block_dtype(signature: Signature) -> str | None:
    """The one dtype of all inputs, where they are required scalars of one kind of float; else None."""
    kinds = {column.dtype if column.required and not column.shape else None for column in signature.inputs}
    kind = kinds.pop() if len(kinds) == 1 else None
    return NUMPY_DTYPES[kind] if kind in ("double", "float", "half") else None


def _row_type(signature: Signature) -> type:
    """A struct whose attributes are ``c0``, ``c1``, …: column names need not be Python names."""
    fields: list[Any] = []
    for at, column in enumerate(signature.inputs):
        kind = json_type(column.dtype, column.shape)
        fields.append((f"c{at}", kind) if column.required else (f"c{at}", kind | None, None))
    rename = {f"c{at}": column.name for at, column in enumerate(signature.inputs)}
    return msgspec.defstruct("Row", fields, rename=rename, forbid_unknown_fields=True, kw_only=True, gc=False)


def parse_json(body: bytes | bytearray, decoder: msgspec.json.Decoder[T]) -> T:
    """A body as what ``decoder`` reads. Raises ``InvalidInput`` saying where it is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:  # it is JSON, of another shape
        raise InvalidInput(f"the body is not what this takes: {error}", field="body") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not JSON: {error}", field="body") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply", field="body") from None


def check_request_id(value: Any) -> str:
    """A request id: 1 to 200 printable ASCII characters without spaces, since it goes into a header. Raises ``InvalidInput``."""
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidInput("a request id is 1 to 200 printable ASCII characters without spaces", field="request_id", got=shown(value))
    return value


def event_times(value: Any, n: int) -> list[int]:
    """One instant in microseconds for each of ``n`` rows, from one time or a list of ``n``. Raises ``InvalidInput``."""
    if not isinstance(value, list):
        return [to_us(value, field="event_time")] * n
    if len(value) != n:
        raise InvalidInput(f"there are {len(value)} event times for {n} rows", field="event_time")
    return [to_us(item, field=f"event_time[{at}]") for at, item in enumerate(value)]


def output_lists(outputs: Mapping[str, Any], signature: Signature) -> dict[str, list[Any]]:
    """Output columns as lists of JSON values, in the signature's order.

    Raises ``ModelFailed`` naming an output that is missing, of another type, NaN or infinite: those are failures of the model, no answers.
    """
    import numpy as np

    lists: dict[str, list[Any]] = {}
    for column in signature.outputs:
        values = outputs.get(column.name)
        if values is None:
            raise ModelFailed("the release did not give this output", field=column.name, gave=", ".join(outputs))
        if column.shape and not fits(values.shape[1:], column.shape):
            raise ModelFailed(
                f"this output has the shape {said_shape(column.shape)} a row", field=column.name, gave=said_shape(values.shape[1:])
            )
        if not _is_of(values, column.dtype):
            raise ModelFailed("the release answered with values of another type", field=column.name, type=column.dtype, gave=_gave(values))
        if values.dtype.kind == "M":
            values = values.astype("M8[us]").astype("i8")
        plain = lists[column.name] = values.tolist()
        if values.dtype.kind != "f":
            continue
        if not (all(map(math.isfinite, plain)) if values.size <= FEW and values.ndim == 1 else bool(np.isfinite(values).all())):
            row = int(np.argmin(np.isfinite(values.reshape(len(values), -1)).all(axis=1)))
            raise ModelFailed("the release answered with NaN or an infinity", field=column.name, row=row)
    return lists


def _is_of(values: Any, dtype: Dtype) -> bool:
    """Whether an output's values can be of a type: numbers of any width for numbers, text for text."""
    kind = values.dtype.kind
    if kind not in {"string": "OU", "datetime": "Mi", "boolean": "biu"}.get(dtype, "fiub"):
        return False
    return kind != "O" or all(value is None or isinstance(value, str) for value in values.reshape(-1))


def _gave(values: Any) -> str:
    return str(values.dtype) if values.dtype.kind != "O" else ", ".join(sorted({type(value).__name__ for value in values.reshape(-1)}))
