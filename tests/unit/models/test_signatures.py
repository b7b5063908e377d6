"""What a signature makes of an example."""

from __future__ import annotations

import datetime as dt

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.core.digests import digest_json
from andon.core.errors import InvalidInput
from andon.models import Column, Signature, columns_from_rows, columns_of, infer_signature, rows_of


def test_each_kind_of_column_has_its_type():
    example = {
        "double": [1.5, 2.0],
        "long": [1, 2],
        "mixed": [1, 2.5],
        "flag": [True, False],
        "text": ["a", "b"],
        "when": [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 2, tzinfo=dt.UTC)],
    }
    signature = infer_signature(example)
    assert [(column.name, column.dtype) for column in signature.inputs] == [
        ("double", "double"),
        ("long", "long"),
        ("mixed", "double"),
        ("flag", "boolean"),
        ("text", "string"),
        ("when", "datetime"),
    ]
    assert all(column.required for column in signature.inputs)


@pytest.mark.parametrize("null", [None, float("nan")])
def test_a_column_with_a_null_is_not_required(null):
    assert infer_signature({"a": [1.0, null]}).inputs == (Column("a", "double", required=False),)


def test_optional_columns_are_named_and_must_exist():
    assert not infer_signature({"a": [1]}, optional=["a"]).inputs[0].required
    with pytest.raises(InvalidInput) as caught:
        infer_signature({"a": [1]}, optional=["b"])
    assert caught.value.fields["field"] == "b"


@pytest.mark.parametrize(
    "example",
    [
        {"x0": [1.0, 2.0], "x1": [3.0, 4.0]},
        [{"x0": 1.0, "x1": 3.0}, {"x0": 2.0, "x1": 4.0}],
        np.array([[1.0, 3.0], [2.0, 4.0]]),
        [[1.0, 3.0], [2.0, 4.0]],
        pa.table({"x0": [1.0, 2.0], "x1": [3.0, 4.0]}),
    ],
    ids=["columns", "rows", "array", "lists", "arrow"],
)
def test_every_form_of_example_means_the_same(example):
    columns = columns_of(example)
    assert {name: values.tolist() for name, values in columns.items()} == {"x0": [1.0, 2.0], "x1": [3.0, 4.0]}


def test_arrow_types_without_a_numpy_kind():
    table = pa.table(
        {
            "nullable": pa.array([1, None]),
            "category": pa.array(["u", "v"]).dictionary_encode(),
            "zoned": pa.array([0, 1], type=pa.timestamp("ms", tz="UTC")),
            "date": pa.array([dt.date(2024, 1, 1), None]),
        }
    )
    columns = columns_of(table)
    assert columns["nullable"].dtype == np.float64
    assert np.isnan(columns["nullable"][1])
    assert columns["category"].tolist() == ["u", "v"]
    assert columns["zoned"].dtype == columns["date"].dtype == np.dtype("datetime64[us]")


@pytest.mark.parametrize(
    ("example", "field"),
    [
        ({"a": [1, "x"]}, "a"),
        ({"a": [None, None]}, "a"),
        ({"a": [1, 2], "b": [1]}, "b"),
        ({"a": [[1, 2], [3]]}, "a"),
        ({"a": [[[1], [2, 3]], [[4], [5, 6]]]}, "a"),
        ({"a": [[1, 2], None]}, "a"),
        ({"a": [[1, None], [3, 4]]}, "a"),
        ({"a": [[1, "x"], [3, 4]]}, "a"),
        ({"a": [np.zeros(2), np.zeros(3)]}, "a"),
        ({"a": np.array([["2020-01-01"]], dtype="M8[D]").repeat(2, axis=1)}, "a"),
        ({"a": np.zeros((2, 0, 2))}, "a"),
        ({}, "example"),
        ({"a": []}, "a"),
        (3, "example"),
        (np.zeros(()), "example"),
        (np.zeros((0, 2)), "example"),
    ],
)
def test_bad_examples_name_what_is_wrong(example, field):
    with pytest.raises(InvalidInput) as caught:
        infer_signature(example)
    assert caught.value.fields["field"] == field


def test_rows_are_json_and_come_back_as_columns():
    columns = columns_of({"a": [1.5, None], "n": [1, 2], "t": ["x", None], "b": [True, False], "w": [dt.datetime(2024, 1, 1)] * 2})  # noqa: DTZ001
    rows = rows_of(columns)
    assert rows == (
        {"a": 1.5, "n": 1, "t": "x", "b": True, "w": "2024-01-01T00:00:00Z"},
        {"a": None, "n": 2, "t": None, "b": False, "w": "2024-01-01T00:00:00Z"},
    )
    again = columns_from_rows(rows, infer_signature(columns))
    assert rows_of(again) == rows
    assert {name: values.dtype for name, values in again.items()} == {name: values.dtype for name, values in columns.items()}


def test_a_required_value_must_be_there():
    signature = Signature((Column("a", "long"),), ())
    with pytest.raises(InvalidInput) as caught:
        columns_from_rows([{"a": 1}, {}], signature)
    assert caught.value.fields["field"] == "a"


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.one_of(
            st.lists(st.floats(allow_infinity=False), min_size=3, max_size=3),
            st.lists(st.integers(-(2**53), 2**53), min_size=3, max_size=3),
            st.lists(st.booleans(), min_size=3, max_size=3),
            st.lists(st.text(max_size=4), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_property_rows_and_columns_are_two_views_of_one_thing(example):
    try:
        columns = columns_of(example)
    except InvalidInput:  # a column of nothing but NaN
        assert any(all(value != value for value in values) for values in example.values())
        return
    rows = rows_of(columns)
    assert rows_of(columns_from_rows(rows, infer_signature(example))) == rows


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), "float", (3, 8, 8)),
        (np.zeros((2, 4)), "double", (4,)),
        (np.zeros((2, 4), np.float16), "half", (4,)),
        (np.zeros((2, 4), np.uint8), "uint8", (4,)),
        (np.zeros((2, 4), np.int32), "integer", (4,)),
        (np.zeros((2, 4), ">u8"), "uint64", (4,)),
        (np.zeros((2, 4), np.bool_), "boolean", (4,)),
        (np.array([["a", "b"], ["c", "d"]]), "string", (2,)),
        ([[1, 2], [3, 4]], "long", (2,)),
        ([[[1.5], [2]], [[3], [4]]], "double", (2, 1)),
        ([["a", "b"]], "string", (2,)),
        ([np.zeros((2, 2), np.float32)] * 3, "float", (2, 2)),
    ],
)
def test_values_of_one_shape_are_a_tensor_column_of_their_own_width(values, dtype, shape):
    assert infer_signature({"t": values}).inputs == (Column("t", dtype, True, shape),)
    again = columns_from_rows(rows_of(columns_of({"t": values})), Signature((Column("t", dtype, True, shape),), ()))
    np.testing.assert_array_equal(again["t"], np.asarray(values)[:5])
    assert again["t"].dtype == columns_of({"t": values})["t"].dtype


def test_an_array_of_more_than_two_dimensions_is_one_column():
    assert infer_signature(np.zeros((2, 3, 4))).inputs == (Column("x0", "double", True, (3, 4)),)
    assert infer_signature(np.zeros((2, 3, 4)), names=["image"]).inputs[0].name == "image"
    with pytest.raises(InvalidInput, match="takes one name"):
        columns_of(np.zeros((2, 3, 4)), names=["a", "b"])


def test_a_column_without_a_shape_is_written_as_it_always_was():
    """Registry digests are over this JSON: a field that old manifests do not have must not appear in them."""
    assert msgspec.to_builtins(Column("a", "double")) == {"name": "a", "dtype": "double", "required": True}
    assert msgspec.to_builtins(Column("a", "double", True, (2,))) == {"name": "a", "dtype": "double", "required": True, "shape": (2,)}
    assert msgspec.json.decode(b'{"name":"a","dtype":"long"}', type=Column) == Column("a", "long")
    before = "b3:313d67c1fc98819a34aef476b628cb51e754936473ee64f20ecf61ad6638a25d"
    signature = Signature((Column("temp", "double"), Column("hr", "long", required=False)), (Column("y", "double"),))
    assert digest_json(signature) == before


@pytest.mark.parametrize("shape", [(0,), (-2,), (2,) * 9])
def test_a_shape_has_axes_of_some_length(shape):
    with pytest.raises(InvalidInput) as caught:
        Column("a", "double", True, shape)
    assert caught.value.fields["field"] == "a"


def test_a_tensor_column_is_required():
    with pytest.raises(InvalidInput, match="always required"):
        infer_signature({"a": [[1, 2]]}, optional=["a"])
    with pytest.raises(InvalidInput, match="always required"):
        infer_signature({"a": [[1.0, float("nan")]] * 2} | {"a": np.array([[1.0, np.nan]])})


def test_a_row_of_another_shape_is_no_column_of_the_signature():
    signature = Signature((Column("a", "float", True, (2, -1)),), ())
    assert columns_from_rows([{"a": [[1, 2, 3], [4, 5, 6]]}], signature)["a"].shape == (1, 2, 3)
    for bad in ([[1, 2, 3]], [1, 2], [[1], [2, 3]], None):
        with pytest.raises(InvalidInput) as caught:
            columns_from_rows([{"a": bad}], signature)
        assert caught.value.fields["field"] == "a"


def test_an_example_too_large_for_a_manifest_is_left_out():
    assert rows_of(columns_of({"image": np.zeros((2, 3, 224, 224), np.float32)})) == ()
    assert len(rows_of(columns_of({"image": np.zeros((8, 100, 100), np.float32)}))) == 1
