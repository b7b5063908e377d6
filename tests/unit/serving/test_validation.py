"""Rows against a signature: what is accepted, what is refused and how it is said, and that the fast path and the careful one agree."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.blocks import Block
from andon.core.errors import InvalidInput, ModelFailed, TooLarge
from andon.models import Column, Signature, graphs
from andon.serving.validation import RowCodec, event_times, output_lists
from andon.serving.values import MAX_TEXT_CHARS

SIGNATURE = Signature(
    (
        Column("temp", "double"),
        Column("hr", "long"),
        Column("holiday", "boolean"),
        Column("city", "string"),
        Column("at", "datetime"),
        Column("hum", "double", required=False),
        Column("n", "long", required=False),
        Column("flag", "boolean", required=False),
        Column("note", "string", required=False),
        Column("was", "datetime", required=False),
    ),
    (Column("y", "double"),),
)
GOOD: dict[str, Any] = {"temp": 0.5, "hr": 3, "holiday": False, "city": "Washington", "at": "2011-08-01T13:00:00Z"}


@pytest.fixture
def codec() -> RowCodec:
    return RowCodec(SIGNATURE, max_rows=1000)


def body(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"rows": list(rows), **more}).encode()


def test_a_good_row_becomes_typed_columns(codec: RowCodec) -> None:
    columns = codec.to_columns(codec.decode(body(GOOD, GOOD | {"hum": 1, "n": 4, "flag": True, "note": "é", "was": 0})).rows)
    assert {name: str(values.dtype) for name, values in columns.items()} == {
        "temp": "float64",
        "hr": "int64",
        "holiday": "bool",
        "city": "object",
        "at": "datetime64[us]",
        "hum": "float64",
        "n": "float64",
        "flag": "float64",
        "note": "object",
        "was": "datetime64[us]",
    }
    assert columns["at"][0] == np.datetime64("2011-08-01T13:00:00", "us")
    assert math.isnan(columns["hum"][0])
    assert columns["hum"][1] == 1.0
    assert math.isnan(columns["n"][0])
    assert columns["note"].tolist() == [None, "é"]
    assert np.isnat(columns["was"][0])
    assert columns["was"][1] == np.datetime64(0, "us")


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"temp": None}, "rows[1].temp", "required and is null"),
        ({"temp": "0.5"}, "rows[1].temp", "takes a number"),
        ({"temp": "NaN"}, "rows[1].temp", "takes a number"),
        ({"temp": True}, "rows[1].temp", "takes a number"),
        ({"temp": 10**400}, "rows[1].temp", "too large"),
        ({"temp": [1.0]}, "rows[1].temp", "takes a number"),
        ({"hr": 3.5}, "rows[1].hr", "takes a whole number"),
        ({"hr": True}, "rows[1].hr", "takes a whole number"),
        ({"hr": 2**63}, "rows[1].hr", "64 bits"),
        ({"hr": -(2**63) - 1}, "rows[1].hr", "64 bits"),
        ({"holiday": 0}, "rows[1].holiday", "takes true or false"),
        ({"city": 7}, "rows[1].city", "takes text"),
        ({"city": "x" * (MAX_TEXT_CHARS + 1)}, "rows[1].city", "characters"),
        ({"at": "yesterday"}, "rows[1].at", "ISO 8601"),
        ({"at": 1.5}, "rows[1].at", "ISO 8601"),
        ({"at": 10**18}, "rows[1].at", "between the years"),
        ({"wind": 1}, "rows[1].wind", "no such field"),
        ({"hum": "wet"}, "rows[1].hum", "takes a number"),
    ],
)
def test_what_is_wrong_is_named(codec: RowCodec, change: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.decode(body(GOOD, GOOD | change))
    assert caught.value.fields["field"] == field
    assert said in caught.value.message


def test_a_missing_field_is_named(codec: RowCodec) -> None:
    row = {name: value for name, value in GOOD.items() if name != "city"}
    with pytest.raises(InvalidInput, match=r"required .*rows\[0\]\.city"):
        codec.decode(body(row))


@pytest.mark.parametrize("value", [3.0, -2.0, 0.0])
def test_a_whole_float_is_a_long(codec: RowCodec, value: float) -> None:
    assert codec.decode(body(GOOD | {"hr": value})).rows[0][1] == int(value)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "not JSON"),
        (b'{"rows": [{"temp": NaN}]}', "byte 19"),
        (b'{"rows": [{"temp": 1e999}]}', "out of range"),
        (b'{"rows": [', "not JSON"),
        (b'{"rows": []}', "no rows"),
        (b"[]", "no rows"),
        (b"7", "the body is"),
        (b'"x"', "the body is"),
        (b'{"rows": 3}', "required"),
        (b'{"rows": [1]}', "a row is an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"rows": [{}], "model": "x"}', "request_id and event_time only"),
        (b'{"rows": [{"temp": "\xff"}]}', "not JSON"),
    ],
)
def test_a_body_that_is_no_request_is_refused(codec: RowCodec, sent: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        codec.decode(sent)


def test_bare_rows_and_one_bare_row_are_requests(codec: RowCodec) -> None:
    assert codec.decode(json.dumps([GOOD, GOOD]).encode()).rows == codec.decode(body(GOOD, GOOD)).rows
    assert codec.decode(json.dumps(GOOD).encode()).rows == codec.decode(body(GOOD)).rows


def test_request_id_and_event_times(codec: RowCodec) -> None:
    request = codec.decode(body(GOOD, GOOD, request_id="a-1", event_time="1970-01-01T00:00:01Z"))
    assert (request.request_id, request.event_us) == ("a-1", [1_000_000, 1_000_000])
    assert codec.decode(body(GOOD, GOOD, event_time=[5, "1970-01-01T00:00:01Z"])).event_us == [5, 1_000_000]
    for bad in ("", "a b", "é", "x" * 201, "a\nb", 7):
        with pytest.raises(InvalidInput, match="request id"):
            codec.decode(body(GOOD, request_id=bad))
    with pytest.raises(InvalidInput, match="2 event times for 1 rows"):
        codec.decode(body(GOOD, event_time=[1, 2]))
    with pytest.raises(InvalidInput, match=r"event_time\[1\]"):
        event_times([1, "noon"], 2)


def test_too_many_rows_are_refused(codec: RowCodec) -> None:
    with pytest.raises(TooLarge, match="at most 1000 rows"):
        codec.decode(body(*[GOOD] * 1001))


def test_columns_that_came_as_arrays(codec: RowCodec) -> None:
    given_ = {
        "temp": np.array([[0.5], [1.5]], dtype="f4"),
        "hr": np.array([1.0, 2.0]),
        "holiday": np.array([True, False]),
        "city": np.array(["a", "b"], dtype=object),
        "at": np.array([0, 1], dtype="i8"),
    }
    columns = codec.from_columns(given_, 2)
    assert columns["temp"].tolist() == [0.5, 1.5]
    assert columns["hr"].dtype == np.int64
    assert np.isnan(columns["hum"]).all()
    assert columns["note"].tolist() == [None, None]
    for change, said in (
        ({"temp": np.array([np.nan, 1.0])}, "NaN"),
        ({"hum": np.array([np.inf, 1.0])}, "NaN"),
        ({"hr": np.array([1.5, 2.0])}, "whole number"),
        ({"temp": np.array([1.0])}, "one value for each of 2 rows"),
        ({"holiday": np.array([0, 1])}, "true or false"),
        ({"hr": np.array([2**63, 1], dtype="u8")}, "64 bits"),
        ({"other": np.array([1, 2])}, "no such input"),
    ):
        with pytest.raises(InvalidInput, match=said):
            codec.from_columns(given_ | change, 2)
    with pytest.raises(InvalidInput, match="required"):
        codec.from_columns({"temp": np.array([1.0])}, 1)


_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-5, 5).map(float),
    st.text(max_size=5),
    st.sampled_from(["2011-08-01", "2011-08-01T13:00:00+02:00", "NaN"]),
    st.lists(st.integers(), max_size=1),
)
_rows = st.lists(
    st.one_of(
        st.fixed_dictionaries({}, optional={column.name: _values for column in SIGNATURE.inputs}),
        st.fixed_dictionaries(dict.fromkeys([*GOOD, "hum", "n"], _values)).map(lambda row: GOOD | row),
        st.sampled_from(["hum", "n", "flag", "note", "was", "hr"]).flatmap(lambda name: _values.map(lambda value: GOOD | {name: value})),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(_rows)
def test_the_fast_path_accepts_what_the_careful_one_does(rows: list[dict[str, Any]]) -> None:
    codec = RowCodec(SIGNATURE)
    sent = msgspec.json.encode({"rows": rows})

    def outcome(call: Any) -> Any:
        try:
            return call()
        except InvalidInput as error:
            return str(error)

    careful = outcome(lambda: codec.check_rows(msgspec.json.decode(sent)["rows"]))
    fast = outcome(lambda: codec.decode(sent).rows)
    assert fast == careful
    if not isinstance(fast, str):
        assert [list(map(type, row)) for row in fast] == [list(map(type, row)) for row in careful]
        codec.to_columns(fast)  # whatever was accepted fits its columns


@pytest.mark.parametrize(("dtype", "numpy"), [("double", "f8"), ("float", "f4"), ("half", "f2")])
def test_a_table_of_floats_is_one_array(dtype: Any, numpy: str) -> None:
    codec = RowCodec(Signature((Column("a", dtype), Column("b", dtype)), (Column("y", "double"),)))
    rows = codec.decode(b'[{"a": 1, "b": 0.1}, {"b": 0.5, "a": -2.5}]').rows
    columns = codec.to_columns(rows)
    assert isinstance(columns, Block)
    assert {name: (values.dtype.str[1:], values.tolist()) for name, values in columns.items()} == {
        "a": (numpy, [1.0, -2.5]),
        "b": (numpy, np.array([0.1, 0.5], dtype=numpy).tolist()),
    }
    assert graphs.matrix(columns, ("a", "b"), 2, np.dtype(numpy).name) is columns.together
    assert graphs.matrix(columns, ("b", "a"), 2, "float64").tolist() == [[columns["b"][0], 1.0], [0.5, -2.5]]
    assert (columns.rows is None) == (dtype != "double"), "what is logged is what the model got"


def test_a_column_that_may_be_missing_is_no_part_of_a_block() -> None:
    codec = RowCodec(Signature((Column("a", "double"), Column("b", "double", required=False)), (Column("y", "double"),)))
    columns = codec.to_columns(codec.decode(b'[{"a": 1}]').rows)
    assert type(columns) is dict
    assert math.isnan(columns["b"][0])


@pytest.mark.parametrize("n", [1, 64, 65])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_outputs_are_looked_at_whatever_their_number(n: int, wrong: float) -> None:
    signature = Signature((Column("x", "double"),), (Column("y", "double"),))
    values = np.arange(float(n))
    assert output_lists({"y": values}, signature) == {"y": values.tolist()}
    values[-1] = wrong
    with pytest.raises(ModelFailed) as caught:
        output_lists({"y": values}, signature)
    assert caught.value.fields == {"field": "y", "row": n - 1}


def test_outputs_must_be_finite_and_there() -> None:
    signature = Signature((Column("x", "double"),), (Column("y", "double"), Column("s", "string")))
    good = {"y": np.array([1.0, 2.0], dtype="f4"), "s": np.array(["a", "b"], dtype=object), "more": np.array([1, 2])}
    assert output_lists(good, signature) == {"y": [1.0, 2.0], "s": ["a", "b"]}
    with pytest.raises(ModelFailed) as caught:
        output_lists(good | {"y": np.array([1.0, np.inf])}, signature)
    assert caught.value.fields == {"field": "y", "row": 1}
    with pytest.raises(ModelFailed, match="did not give this output"):
        output_lists({"y": good["y"]}, signature)
