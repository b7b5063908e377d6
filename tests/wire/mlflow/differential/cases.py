"""A case: a named sequence of requests. ``<<name>>`` in a path, query, header or JSON string stands for what an earlier answer bound."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import msgspec

PLACE = re.compile(r"<<([a-z0-9_.-]+)>>")
API2, API3 = "/api/2.0/mlflow/", "/api/3.0/mlflow/"


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request. At most one of ``json``, ``text`` (as it is), ``base64`` and ``size`` (that many bytes, the same each time) is its body.

    ``bind`` maps names to places in the answer, such as ``{"run": "run.info.run_id"}``.
    """

    method: str
    path: str
    query: list[tuple[str, str]] = []
    json: Any = msgspec.UNSET
    text: str | None = None
    base64: str | None = None
    size: int | None = None
    headers: dict[str, str] = {}
    bind: dict[str, str] = {}

    def body(self, bound: Mapping[str, str]) -> tuple[bytes | None, str | None]:
        """The bytes and their content type; None and None when there are none."""
        if self.json is not msgspec.UNSET:
            return json.dumps(filled(self.json, bound)).encode(), "application/json"
        if self.text is not None:
            return self.text.encode("utf-8", "surrogateescape"), "application/json"
        if self.base64 is not None:
            return b64decode(self.base64), "application/octet-stream"
        if self.size is not None:
            return made_bytes(self.size), "application/octet-stream"
        return None, None


class Case(msgspec.Struct, frozen=True):
    """``<<case>>`` is bound to the name, so that names made from it are a case's own."""

    name: str
    steps: list[Step]


def filled(value: Any, bound: Mapping[str, str]) -> Any:
    """``value`` with its placeholders replaced, in keys too. What was never bound stands as ``unbound-NAME``."""
    if isinstance(value, str):
        return PLACE.sub(lambda found: bound.get(found[1], f"unbound-{found[1]}"), value) if "<<" in value else value
    if isinstance(value, dict):
        return {filled(key, bound): filled(item, bound) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, bound) for item in value]
    return value


def found_at(value: Any, place: str) -> str | None:
    """What is at ``place``, such as ``runs.0.info.run_id``, as text; None when nothing is."""
    for part in place.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return str(value) if isinstance(value, (str, int, float)) else None


def made_bytes(size: int) -> bytes:
    """``size`` bytes that are not all alike."""
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def post(path: str, json: Any = msgspec.UNSET, /, **bind: str) -> Step:
    """A POST of JSON; a path without a leading slash is under ``/api/2.0/mlflow/``."""
    return Step("POST", _under(path), json={} if json is msgspec.UNSET else json, bind=bind)


def patch(path: str, json: Any = msgspec.UNSET, /, **bind: str) -> Step:
    """A PATCH of JSON."""
    return Step("PATCH", _under(path), json={} if json is msgspec.UNSET else json, bind=bind)


def delete(path: str, json: Any = msgspec.UNSET) -> Step:
    """A DELETE, with JSON if given."""
    return Step("DELETE", _under(path), json=json)


def get(path: str, bind: dict[str, str] | None = None, /, **query: Any) -> Step:
    """A GET; lists in ``query`` are sent as repeated names."""
    pairs = [(name, str(one)) for name, given in query.items() for one in (given if isinstance(given, list) else [given])]
    return Step("GET", _under(path), query=pairs, bind=bind or {})


def put(path: str, size: int) -> Step:
    """An upload of that many bytes to the artifact proxy."""
    return Step("PUT", "/api/2.0/mlflow-artifacts/artifacts/" + path, size=size)


def _under(path: str) -> str:
    return path if path.startswith("/") else API3 + path[2:] if path.startswith("3:") else API2 + path
