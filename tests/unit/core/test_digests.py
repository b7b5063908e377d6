"""Canonical JSON: one value, one text, one digest; and nothing that would come back as something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.core.digests import canonical_json, check_digest, digest_bytes, digest_file, digest_json
from andon.core.errors import InvalidInput

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8")),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shuffled(item) for key, item in reversed(value.items())}
    return [_shuffled(item) for item in value] if isinstance(value, list) else value


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return (type(value).__name__, repr(value))


@given(values)
def test_it_reads_back_as_it_was(value: Any) -> None:
    text = canonical_json(value)
    assert _typed(msgspec.json.decode(text)) == _typed(value)
    assert _typed(json.loads(text)) == _typed(value)


@given(values)
def test_the_order_of_keys_is_nothing_and_it_is_canonical_for_good(value: Any) -> None:
    assert canonical_json(_shuffled(value)) == canonical_json(value)
    assert canonical_json(msgspec.json.decode(canonical_json(value))) == canonical_json(value)


@given(values, values)
def test_equal_digests_mean_equal_values(a: Any, b: Any) -> None:
    assert (digest_json(a) == digest_json(b)) == (_typed(a) == _typed(b))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [1, float("nan")]}, "NaN"),
        (float("inf"), "NaN and infinities"),
        (2**64, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ({1: "a"}, "keys"),
        ({"a": 1, 2: "b"}, "form"),
        ("\ud800", "Unicode"),
        ({"\ud800": 1}, "Unicode"),
        (object(), "no JSON form"),
    ],
)
def test_what_json_cannot_hold_is_refused(value: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        canonical_json(value)


def test_where_it_is_refused_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        canonical_json({"params": [{"rate": float("nan")}]})
    assert caught.value.fields["field"] == "$.params[0].rate"


def test_a_value_nested_too_deeply_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidInput, match="nested too deeply"):
        canonical_json(value)


def test_structs_are_their_fields() -> None:
    class Pin(msgspec.Struct):
        b: int
        a: str

    assert canonical_json(Pin(1, "x")) == b'{"a":"x","b":1}'


@given(st.binary(max_size=5000))
def test_a_files_digest_is_its_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = Path(tmp_path_factory.getbasetemp(), "digested")
    file.write_bytes(data)
    assert digest_file(file) == digest_bytes(data) == check_digest(digest_bytes(data))


def test_a_digest_has_one_form() -> None:
    for text in ("", "b3:", "b3:" + "A" * 64, "b3:" + "0" * 63, "sha256:" + "0" * 64, "b3:" + "0" * 64 + "\n"):
        with pytest.raises(InvalidInput):
            check_digest(text)
