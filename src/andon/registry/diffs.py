"""What changed between two versions, said so that a person can read it."""

from __future__ import annotations

from typing import Any

import msgspec

from andon.core.addresses import Address
from andon.registry.finding import get
from andon.store import Store


class Change(msgspec.Struct, frozen=True):
    """One difference. ``path`` is dotted; ``before`` None means added, ``after`` None means removed."""

    path: str
    before: Any
    after: Any


def diff(store: Store, a: str | Address, b: str | Address) -> list[Change]:
    """The differences between the manifests of two versions, by path."""
    return diff_values(get(store, a).manifest, get(store, b).manifest)


def diff_values(before: Any, after: Any) -> list[Change]:
    """The differences between two JSON-like values; values differ when their JSON does, so ``1``, ``1.0`` and ``true`` do.

    Lists of records that carry a ``name``, ``address`` or ``path`` are compared by it, lists of ``name==version`` by name and lists of
    different texts by themselves; a changed order is one change, ``path[order]``. Other lists are compared by position.

    >>> diff_values({"a": 1, "b": ["x==1"]}, {"a": 1, "b": ["x==2"]})
    [Change(path='b[x]', before='x==1', after='x==2')]
    """
    found: list[Change] = []
    _compare(before, after, "", found)
    return found


def _compare(before: Any, after: Any, path: str, found: list[Change]) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            _compare(before.get(key), after.get(key), f"{path}.{key}" if path else str(key), found)
    elif isinstance(before, list) and isinstance(after, list):
        _compare_lists(before, after, path, found)
    elif type(before) is not type(after) or before != after:
        found.append(Change(path, before, after))


def _compare_lists(before: list[Any], after: list[Any], path: str, found: list[Change]) -> None:
    left, right = _keyed(before), _keyed(after)
    if left is None or right is None:
        left, right = dict(enumerate(before)), dict(enumerate(after))
    for key in [*left, *(key for key in right if key not in left)]:
        _compare(left.get(key), right.get(key), f"{path}[{key}]", found)
    order, new_order = [key for key in left if key in right], [key for key in right if key in left]
    if order != new_order:
        found.append(Change(f"{path}[order]", order, new_order))


def _keyed(items: list[Any]) -> dict[Any, Any] | None:
    """The items by what names them, or None unless each has a name of its own."""
    keys = [_key(item) for item in items]
    return dict(zip(keys, items, strict=True)) if None not in keys and len(set(keys)) == len(keys) else None


def _key(item: Any) -> str | None:
    if isinstance(item, dict):
        if isinstance(item.get("address"), str):
            return str(item["address"]).partition("@")[0]
        return next((str(item[key]) for key in ("name", "path") if isinstance(item.get(key), str)), None)
    return item.partition("==")[0] if isinstance(item, str) else None
