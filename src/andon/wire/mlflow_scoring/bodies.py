"""Bodies of ``/invocations`` as rows: a JSON object with one of four fields, or CSV with a header.

- ``dataframe_split``: ``{"columns": […], "data": [[…]], "index"?: […]}``; without ``columns``, by position.
- ``dataframe_records``: ``[{column: value}, …]``.
- ``instances``: a list of rows, each an object, a list (by position) or, for one column, a value.
- ``inputs``: ``{column: [values]}``, one row as ``{column: value}``, or what ``instances`` takes.

As there, columns that the signature does not name are left out. What a row may hold is for the release's signature to say.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from andon.core.errors import InvalidInput
from andon.models.records import Column, Signature
from andon.serving.validation import parse_json
from andon.serving.values import RANGES

Rows = list[dict[str, Any]]
FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def from_json(body: bytes, signature: Signature) -> Rows:
    """The rows of a JSON body. Raises ``InvalidInput``."""
    value = parse_json(body, _anything)
    takes = f"the body is an object with one of {', '.join(FORMATS)}"
    if not isinstance(value, dict):
        raise InvalidInput(takes, field="body", got=type(value).__name__)
    given = [name for name in FORMATS if name in value]
    if len(given) != 1:
        raise InvalidInput(takes, field="body", got=", ".join(given or list(value))[:200] or "nothing")
    if value.get("params"):
        raise InvalidInput("releases take no parameters beside their inputs", field="params", next_step="leave `params` out")
    if "signature_name" in value:
        raise InvalidInput("a release has one signature", field="signature_name", next_step="leave it out")
    return _FORMS[given[0]](value[given[0]], signature)


def _split(value: Any, signature: Signature) -> Rows:
    if not isinstance(value, dict) or "data" not in value or value.keys() - {"columns", "index", "data"}:
        got = ", ".join(value)[:200] if isinstance(value, dict) else type(value).__name__
        raise InvalidInput("this is an object with data, and perhaps columns and index", field="dataframe_split", got=got)
    columns = value.get("columns")
    if columns is None:
        return _by_position(value["data"], "dataframe_split.data", signature)
    if not isinstance(columns, list) or not all(isinstance(name, str | int) for name in columns):
        raise InvalidInput("columns is a list of names", field="dataframe_split.columns")
    rows = _lists(value["data"], "dataframe_split.data", len(columns))
    if [*range(len(columns))] == columns:  # a frame that was never given names
        return _by_position(rows, "dataframe_split.data", signature)
    places = _places([str(name) for name in columns], signature, "dataframe_split.columns")
    return [{name: row[at] for name, at in places} for row in rows]


def _records(value: Any, signature: Signature) -> Rows:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise InvalidInput("this is a list of objects", field="dataframe_records", got=type(value).__name__)
    return _known(value, signature)


def _instances(value: Any, signature: Signature, field: str = "instances") -> Rows:
    if not isinstance(value, list):
        raise InvalidInput("this is a list with one item for each row", field=field, got=type(value).__name__)
    if all(isinstance(row, dict) for row in value):
        return _known(value, signature)
    if len(signature.inputs) == 1:
        return [{signature.inputs[0].name: item} for item in _without_a_unit_axis(value, signature.inputs[0])]
    return _by_position(value, field, signature)


def _inputs(value: Any, signature: Signature) -> Rows:
    if not isinstance(value, dict):
        return _instances(value, signature, "inputs")
    known = [column.name for column in signature.inputs if column.name in value]
    shapes = {column.name: column.shape for column in signature.inputs}
    alone = [name for name in known if not isinstance(value[name], list)]
    if alone and len(alone) == len(known) and not any(shapes.values()):
        return [{name: value[name] for name in known}]
    if alone:
        raise InvalidInput("each input is a list with one value for each row", field=f"inputs.{alone[0]}"[:200])
    lengths = {name: len(value[name]) for name in known}
    if len(set(lengths.values())) > 1:
        raise InvalidInput("all inputs have one value for each row", field="inputs", got=str(lengths)[:200])
    rows = next(iter(lengths.values()), 0)
    return [{name: value[name][at] for name in known} for at in range(rows)]


_FORMS: dict[str, Callable[[Any, Signature], Rows]] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _instances,
    "inputs": _inputs,
}


def _known(rows: Rows, signature: Signature) -> Rows:
    names = {column.name for column in signature.inputs}
    return [row if row.keys() <= names else {name: value for name, value in row.items() if name in names} for row in rows]


def _by_position(value: Any, field: str, signature: Signature) -> Rows:
    names = [column.name for column in signature.inputs]
    return [dict(zip(names, row, strict=True)) for row in _lists(value, field, len(names))]


def _lists(value: Any, field: str, width: int) -> list[list[Any]]:
    if not isinstance(value, list):
        raise InvalidInput("this is a list with one list for each row", field=field, got=type(value).__name__)
    for at, row in enumerate(value):
        if not isinstance(row, list) or len(row) != width:
            got = len(row) if isinstance(row, list) else type(row).__name__
            raise InvalidInput(f"a row is a list of {width} values", field=f"{field}[{at}]", got=got)
    return value


def _without_a_unit_axis(items: list[Any], column: Column) -> list[Any]:
    """A matrix ``[n, 1]`` for a column of scalars is its column."""
    if not column.shape and all(isinstance(item, list) and len(item) == 1 for item in items):
        return [item[0] for item in items]
    return items


def from_csv(body: bytes, signature: Signature) -> Rows:
    """The rows of a CSV body with a header, as ``DataFrame.to_csv`` writes it; an empty field is null. Raises ``InvalidInput``."""
    try:
        lines = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        header = next(lines, [])
        places = _places(header, signature, "header")
        readers = {column.name: _reader(column) for column in signature.inputs}
        rows: Rows = []
        for cells in lines:
            if not cells:
                continue  # an empty line, as pandas has it
            if len(cells) != len(header):
                raise InvalidInput(f"a line has {len(header)} fields", field=f"line {lines.line_num}", got=len(cells))
            rows.append({name: readers[name](cells[at], f"line {lines.line_num}, {name}") for name, at in places})
    except UnicodeDecodeError:
        raise InvalidInput("the body is not UTF-8", field="body") from None
    except csv.Error as error:
        raise InvalidInput(f"the body is not CSV: {error}", field="body") from None
    return rows


def _places(names: Sequence[str], signature: Signature, field: str) -> list[tuple[str, int]]:
    """Where the signature's columns are among ``names``."""
    places = [(column.name, names.index(column.name)) for column in signature.inputs if column.name in names]
    if len(names) != len(set(names)) and any(list(names).count(name) > 1 for name, _ in places):
        raise InvalidInput("a column is named once", field=field)
    return places


def _reader(column: Column) -> Callable[[str, str], Any]:
    def wrong(cell: str, field: str) -> InvalidInput:
        return InvalidInput(f"this is no {column.dtype}", field=field, got=cell[:80])

    def number(cell: str, field: str) -> Any:
        if cell == "":
            return None
        try:
            return int(cell) if column.dtype in RANGES else float(cell)
        except ValueError:
            pass
        try:
            return float(cell)  # 3.0 is a whole number
        except ValueError:
            raise wrong(cell, field) from None

    def boolean(cell: str, field: str) -> Any:
        if cell == "":
            return None
        if cell.lower() not in ("true", "false"):
            raise wrong(cell, field)
        return cell.lower() == "true"

    def text(cell: str, field: str) -> Any:  # noqa: ARG001
        return cell or None

    def instant(cell: str, field: str) -> Any:  # noqa: ARG001
        return int(cell) if cell.lstrip("-").isdecimal() else cell or None

    if column.shape:
        raise InvalidInput("CSV holds no columns with a shape", field=column.name, next_step="send JSON")
    return {"boolean": boolean, "string": text, "datetime": instant}.get(column.dtype, number)
