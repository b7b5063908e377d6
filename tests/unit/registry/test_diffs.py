"""Diffs: what a person wants to read, and nothing when nothing differs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from andon.core.digests import canonical_json
from andon.registry import Change, diff, diff_values
from andon.store import Store
from tests.unit.core.test_digests import values
from tests.unit.registry.conftest import Add


def test_a_release_against_the_one_before(add: Add, store: Store) -> None:
    before = {
        "model": {"address": "model:bikes@3", "digest": "b3:1"},
        "requirements": ["numpy==2.1", "skops==0.11"],
        "features": [{"address": "features:weather@1"}, {"address": "features:calendar@2"}],
        "guardrails": [{"name": "pii", "level": 1}],
        "columns": ["hour", "temp"],
        "thresholds": [0.1, 0.2],
    }
    after = {
        "model": {"address": "model:bikes@4", "digest": "b3:2"},
        "requirements": ["skops==0.12", "numpy==2.1"],
        "features": [{"address": "features:weather@1"}, {"address": "features:calendar@3"}],
        "guardrails": [{"name": "injection", "level": 1}, {"name": "pii", "level": 2}],
        "columns": ["hour", "humidity", "temp"],
        "thresholds": [0.1, 0.3],
        "prompt": "prompt:answer@1",
    }
    add("release", "bikes", before)
    add("release", "bikes", after)
    assert diff(store, "release:bikes@1", "release:bikes@2") == [
        Change("columns[humidity]", None, "humidity"),
        Change("features[features:calendar].address", "features:calendar@2", "features:calendar@3"),
        Change("guardrails[pii].level", 1, 2),
        Change("guardrails[injection]", None, {"name": "injection", "level": 1}),
        Change("model.address", "model:bikes@3", "model:bikes@4"),
        Change("model.digest", "b3:1", "b3:2"),
        Change("prompt", None, "prompt:answer@1"),
        Change("requirements[skops]", "skops==0.11", "skops==0.12"),
        Change("requirements[order]", ["numpy", "skops"], ["skops", "numpy"]),
        Change("thresholds[1]", 0.2, 0.3),
    ]


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (1, 2, [Change("", 1, 2)]),
        ({"a": True}, {"a": 1}, [Change("a", True, 1)]),
        ({"a": 1}, {"a": 1.0}, [Change("a", 1, 1.0)]),
        (["a", "a"], ["a"], [Change("[1]", "a", None)]),
        (["a", "b"], ["b", "a"], [Change("[order]", ["a", "b"], ["b", "a"])]),
        ({"a": {"b": 1}}, {"a": [1]}, [Change("a", {"b": 1}, [1])]),
        ([], {}, [Change("", [], {})]),
    ],
)
def test_small_ones(before: Any, after: Any, changes: list[Change]) -> None:
    assert diff_values(before, after) == changes


def _has_none(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(_has_none(item) for item in items)


@given(values, values)
def test_nothing_differs_exactly_when_the_json_is_the_same(a: Any, b: Any) -> None:
    assert diff_values(a, a) == []
    if not (_has_none(a) or _has_none(b)):  # null and "not there" read the same
        same = canonical_json(a) == canonical_json(b)
        assert (diff_values(a, b) == []) == same or canonical_json(a).replace(b"-0.0", b"0.0") == canonical_json(b).replace(b"-0.0", b"0.0")


@given(values, values)
def test_the_way_back_has_the_same_paths(a: Any, b: Any) -> None:
    there, back = diff_values(a, b), diff_values(b, a)
    assert sorted(change.path for change in there) == sorted(change.path for change in back)
    assert len({change.path for change in there}) <= len(there)
