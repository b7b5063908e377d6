"""Reading messages as leniently as the protocol's own server does.

A message is a ``msgspec.Struct`` whose fields all have defaults (None: absent, as null is). Integers and doubles may come as text, integers
as whole floats, names in snake_case or camelCase; what is unknown is ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from andon.wire.mlflow.errors import WireError, invalid

T = TypeVar("T")
SEE_DOCS = " See the API docs for more information about request parameters."
SEARCHED_WHOLE_BYTES = 16_384
_HUMP = re.compile(r"_([a-z0-9])")


def from_body(body: bytes, kind: type[T]) -> T:
    """A JSON body as ``kind``; an empty one is an empty message."""
    try:
        made: T = _decoder(cast(Hashable, kind)).decode(body or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _slowly(body, kind)
    top, inner = _humped(cast(Hashable, kind))
    if len(body) < SEARCHED_WHOLE_BYTES:
        foreign = any(spelled in body for spelled in inner) or any(spelled in body for _, spelled in top)
    else:  # who spells names so does it everywhere: what is missing at the top is enough of a sign
        foreign = any(not getattr(made, name) and spelled in body for name, spelled in top)
    if foreign:
        return _slowly(body, kind)
    return made


def from_query(query: dict[str, list[str]], kind: type[T]) -> T:
    """A query string as ``kind``: fields of list type take every value, others the first."""
    names, lists = _names(cast(Hashable, kind)), _list_fields(cast(Hashable, kind))
    values: dict[str, Any] = {}
    for name, given in query.items():
        plain = names.get(name)
        if plain is not None:
            values[plain[0]] = given if plain[0] in lists else given[0]
    return _convert(values, kind)


def required(message: Any, *names: str) -> None:
    """Raise ``WireError`` for the first of these fields that is absent or empty text."""
    for name in names:
        value = getattr(message, name)
        if value is None or value == "":
            raise missing_field(name)


def missing_field(name: str) -> WireError:
    """What is said of a field that had to be there."""
    return invalid(f"Missing value for required parameter '{name}'.{SEE_DOCS}")


def wrong_field(name: str, value: Any) -> WireError:
    """What is said of a field whose value has the wrong type."""
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)[:200]
    return invalid(f"Invalid value {shown} for parameter '{name}' supplied:  Hint: Value was of type '{type(value).__name__}'.{SEE_DOCS}")


def wrong_value(name: str, value: Any, why: str = "") -> WireError:
    """What is said of a field whose value is of the right type and wrong."""
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"))[:600]
    return invalid(f"Invalid value {shown} for parameter '{name}' supplied{f': {why}' if why else '.'}")


def _slowly(body: bytes, kind: type[T]) -> T:
    try:
        value = json.loads(body) if body.strip() else {}  # takes NaN and Infinity too, as some clients send them
        if isinstance(value, str):  # older clients encode twice
            value = json.loads(value)
    except (ValueError, RecursionError):
        raise WireError("BAD_REQUEST", "The request body is not JSON") from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise WireError("BAD_REQUEST", "The request body is not a JSON object")
    return _convert(_spelled(value, kind), kind)


def _spelled(value: Any, hint: Any) -> Any:
    """``value`` with its fields in snake_case and its nulls left out, as far down as the type goes: the keys of maps are the caller's."""
    hint, inner = _shape(hint)
    if isinstance(value, list) and hint is list:
        return [_spelled(item, inner) for item in value]
    if isinstance(value, dict) and hint is dict:
        return {key: _spelled(item, inner) for key, item in value.items()}
    if not isinstance(value, dict) or not isinstance(hint, type) or not issubclass(hint, msgspec.Struct):
        return value
    names, made = _names(hint), {}
    for key, item in value.items():
        known = names.get(key)
        if known is None or item is None:
            continue
        name, below = known
        if name in made:
            other = next(given for given in value if given != key and names.get(given, ("",))[0] == name)
            raise invalid(f"Request specifies both '{name}' and '{other if key == name else key}'; provide only one of them.")
        made[name] = _spelled(item, below)
    return made


def _convert(values: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        where = text.rpartition("`$.")[2].rstrip("`") if "`$." in text else ""
        if where in values:
            raise wrong_field(where, values[where]) from None
        raise invalid(f"Invalid value for parameter '{where or 'body'}': {text.partition(' - at')[0]}.{SEE_DOCS}") from None


@cache
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@cache
def _names(kind: Hashable) -> Mapping[str, tuple[str, Any]]:
    """Every way to spell a field -> its name and type."""
    made: dict[str, tuple[str, Any]] = {}
    for name, hint in get_type_hints(kind).items():
        made[_camel(name)] = made[name] = (name, hint)
    return made


@cache
def _humped(kind: Hashable) -> tuple[tuple[tuple[str, bytes], ...], tuple[bytes, ...]]:
    """The camelCase spellings to look for in a body: of the message's own fields, with their names, and of its parts' fields."""
    top = tuple((name, _quoted(name)) for name in get_type_hints(kind) if "_" in name)
    seen: set[type] = set()
    inner: set[bytes] = set()
    waiting = list(get_type_hints(kind).values())
    while waiting:
        hint = waiting.pop()
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            if hint not in seen:
                seen.add(hint)
                inner |= {_quoted(name) for name in get_type_hints(hint) if "_" in name}
                waiting += get_type_hints(hint).values()
        else:
            waiting += get_args(hint)
    return top, tuple(sorted(inner))


def _quoted(name: str) -> bytes:
    return b'"%s"' % _camel(name).encode()


def _camel(name: str) -> str:
    return _HUMP.sub(lambda found: found[1].upper(), name)


@cache
def _shape(hint: Any) -> tuple[Any, Any]:
    """The part of a type that has fields of its own: a struct, ``list`` or ``dict``, with the type of what the latter two hold."""
    origin = get_origin(hint)
    if origin is list or origin is dict:
        return origin, get_args(hint)[-1]
    if origin is not None:  # a union
        for part in get_args(hint):
            found = _shape(part)
            if found[0] is not None:
                return found
        return None, None
    return (hint, None) if isinstance(hint, type) and issubclass(hint, msgspec.Struct) else (None, None)


@cache
def _list_fields(kind: Hashable) -> frozenset[str]:
    def is_list(hint: Any) -> bool:
        return get_origin(hint) is list or any(is_list(part) for part in get_args(hint) if part is not type(None))

    return frozenset(name for name, hint in get_type_hints(kind).items() if is_list(hint))
