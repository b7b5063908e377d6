"""A column at a time or a row at a time: what is accepted is the same, and so are the values. And how large a batch gets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.errors import AndonError, InvalidInput
from andon.models import Column, Signature
from andon.serving.offline.columns import check, check_schema
from andon.serving.offline.sizing import Cost, Limits, choose
from andon.serving.validation import RowCodec

NUMBERS = st.one_of(st.none(), st.floats(width=64), st.floats(-1e5, 1e5).map(float.__round__).map(float))
WHOLE = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-300, 300))
CASES: list[tuple[str, Any, pa.DataType]] = [
    *((name, NUMBERS, pa.float64()) for name in ("double", "float", "half", "long", "integer", "int8", "uint64", "uint8")),
    *((name, WHOLE, pa.int64()) for name in ("double", "long", "integer", "int16", "uint64", "uint32", "datetime")),
    ("uint64", st.one_of(st.none(), st.integers(0, 2**64 - 1)), pa.uint64()),
    ("long", st.one_of(st.none(), st.integers(0, 2**64 - 1)), pa.uint64()),
    ("boolean", st.one_of(st.none(), st.booleans()), pa.bool_()),
    ("string", st.one_of(st.none(), st.text(max_size=5), st.just("a" * 65_537)), pa.string()),
    ("datetime", st.one_of(st.none(), st.sampled_from(["2011-08-01", "2011-08-01T00:00:00Z", "soon", "0000-01-01"])), pa.string()),
]


def by_rows(column: Column, values: list[Any]) -> tuple[list[int], Any]:
    """Which rows production's own codec takes, and as what."""
    codec = RowCodec(Signature((column,), ()))
    good, rows = [], []
    for at, value in enumerate(values):
        # JSON has no NaN, and a table's NaN is how it says null where null is allowed
        missing = isinstance(value, float) and math.isnan(value) and not column.required
        try:
            rows += codec.check_rows([{column.name: None if missing else value}])
            good.append(at)
        except AndonError:
            pass
    return good, codec.to_columns(rows)[column.name] if rows else None


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(("dtype", "values", "kind"), CASES, ids=[f"{name}-{kind}" for name, _, kind in CASES])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_columns_and_rows_agree(dtype: Any, values: Any, kind: pa.DataType, required: bool, data: st.DataObject) -> None:
    given_values = data.draw(st.lists(values, min_size=1, max_size=8))
    column = Column("v", dtype, required)
    batch = pa.record_batch({"v": pa.array(given_values, type=kind)})
    check_schema(batch.schema, Signature((column,), ()), text=False)
    checked = check(batch, Signature((column,), ()), text=False)
    good, wanted = by_rows(column, given_values)
    assert checked.good.tolist() == good
    assert sorted([*checked.reasons, *good]) == list(range(len(given_values)))
    if wanted is not None:
        found = checked.columns["v"]
        assert found.dtype == wanted.dtype
        assert found.tolist() == wanted.tolist() or np.array_equal(found, wanted, equal_nan=found.dtype.kind in "fM")


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.one_of(st.none(), st.lists(st.floats(width=32), max_size=3)), min_size=1, max_size=5))
def test_vectors_agree_too(rows: list[Any]) -> None:
    column = Column("v", "float", True, (2,))
    checked = check(pa.record_batch({"v": pa.array(rows, pa.list_(pa.float64()))}), Signature((column,), ()), text=False)
    good, wanted = by_rows(column, rows)
    assert checked.good.tolist() == good
    if wanted is not None:
        assert np.array_equal(checked.columns["v"], wanted)


def test_text_becomes_numbers_only_where_everything_is_text() -> None:
    signature = Signature((Column("a", "double"), Column("b", "long", False), Column("c", "boolean"), Column("d", "datetime")), ())
    batch = pa.record_batch(
        {
            "a": ["1", " 2.5 ", "1e3", "x", "1"],
            "b": ["7", None, "3.0", "4", "9999999999999999999999"],
            "c": ["true", "False", "1", "0", "no"],
            "d": ["2011-08-01", "1312156800000000", "2011-08-01T02:00:00+02:00", "2011-08-01", "then"],
        }
    )
    checked = check(batch, signature, text=True)
    assert checked.good.tolist() == [0, 1, 2]
    assert checked.columns["a"].tolist() == [1.0, 2.5, 1000.0]
    assert np.array_equal(checked.columns["b"], [7.0, np.nan, 3.0], equal_nan=True)
    assert checked.columns["c"].tolist() == [True, False, True]
    assert len(set(checked.columns["d"].tolist())) == 1
    with pytest.raises(InvalidInput):
        check_schema(batch.schema, signature, text=False)


def test_a_batch_grows_to_where_its_fixed_cost_no_longer_counts() -> None:
    for a, b, row_bytes, wanted in (
        (0.01, 1e-6, 100, 65_536),
        (1e-5, 1e-6, 100, 1024),
        (0.05, 1e-3, 100, 4950),
        (0.01, 1e-6, 4096, 16_384),
    ):
        cost, size = Cost(), 0
        limits = Limits(row_bytes=row_bytes, memory_bytes=64 << 20)
        for _ in range(12):
            size = choose(cost.fit(), size, limits)
            cost.learn(size, a + b * size)
        assert size == pytest.approx(wanted, rel=0.01)
        assert size * row_bytes <= 64 << 20
        assert a + b * size <= limits.batch_s
