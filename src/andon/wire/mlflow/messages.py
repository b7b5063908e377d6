"""Reading messages as leniently as the protocol's own server does.

A message is a ``msgspec.Struct`` whose fields all have defaults (None: absent, as null is). Integers and doubles may come as text, integers
as whole floats, names in snake_case or camelCase; what is unknown is ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from andon.wire.mlflow.errors import WireError, invalid

T = TypeVar("T")
_HUMP = re.compile(r"(?<=[a-z0-9])([A-Z])")


def from_body(body: bytes, kind: type[T]) -> T:
    """A JSON body as ``kind``; an empty one is an empty message."""
    try:
        made: T = _decoder(cast(Hashable, kind)).decode(body or b"{}")
        return made
    except msgspec.MsgspecError:
        return _slowly(body, kind)


def from_query(query: dict[str, list[str]], kind: type[T]) -> T:
    """A query string as ``kind``: fields of list type take every value, others the first."""
    lists = _list_fields(cast(Hashable, kind))
    values: dict[str, Any] = {}
    for name, given in query.items():
        plain = _snake(name)
        values[plain] = given if plain in lists else given[0]
    return _convert(values, kind)


def _slowly(body: bytes, kind: type[T]) -> T:
    try:
        value = json.loads(body)  # takes NaN and Infinity too, as the protocol's clients send them
        if isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError):
        raise WireError("BAD_REQUEST", "The request body is not JSON") from None
    if not isinstance(value, dict):
        raise WireError("BAD_REQUEST", "The request body is not a JSON object")
    return _convert(_plain(value), kind)


def _plain(value: Any) -> Any:
    """Keys in snake_case, nulls left out, whole floats as integers."""
    if isinstance(value, dict):
        return {_snake(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _convert(values: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        where = text.rpartition("`$.")[2].rstrip("`") if "`$." in text else "body"
        raise invalid(f"Invalid value for parameter '{where}': {text.partition(' - at')[0]}") from None


def _snake(name: str) -> str:
    return _HUMP.sub(r"_\1", name).lower() if not name.islower() else name


@cache
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@cache
def _list_fields(kind: Hashable) -> frozenset[str]:
    def is_list(hint: Any) -> bool:
        return get_origin(hint) is list or any(is_list(part) for part in get_args(hint) if part is not type(None))

    return frozenset(name for name, hint in get_type_hints(kind).items() if is_list(hint))
