"""Tensor columns and narrow types against a signature: what is accepted, which element an error names, and what comes out as JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.errors import InvalidInput, ModelFailed
from andon.models import Column, Signature
from andon.serving.validation import RowCodec, output_lists
from tests.unit.serving.line import Line
from tests.unit.serving.test_front import with_front

SIGNATURE = Signature(
    (
        Column("image", "float", shape=(2, 2)),
        Column("ids", "integer", shape=(-1,)),
        Column("marks", "boolean", shape=(2,)),
        Column("words", "string", shape=(-1, 2)),
        Column("big", "uint64", shape=(2,)),
        Column("small", "int8"),
        Column("large", "uint64"),
        Column("ratio", "float", required=False),
    ),
    (Column("scores", "float", shape=(2,)),),
)
GOOD: dict[str, Any] = {
    "image": [[0.5, 1], [2, -3.25]],
    "ids": [1, 2, 3],
    "marks": [True, False],
    "words": [["a", "é"], ["", "d"]],
    "big": [0, 2**64 - 1],
    "small": -128,
    "large": 2**64 - 1,
}


def body(*rows: Any) -> bytes:
    return json.dumps(list(rows)).encode()


@pytest.fixture
def codec() -> RowCodec:
    return RowCodec(SIGNATURE)


def test_nested_lists_become_arrays_of_the_columns_own_type(codec: RowCodec) -> None:
    columns = codec.to_columns(codec.decode(body(GOOD, GOOD | {"ratio": 0.1})).rows)
    assert {name: (str(values.dtype), values.shape) for name, values in columns.items()} == {
        "image": ("float32", (2, 2, 2)),
        "ids": ("int32", (2, 3)),
        "marks": ("bool", (2, 2)),
        "words": ("object", (2, 2, 2)),
        "big": ("uint64", (2, 2)),
        "small": ("int8", (2,)),
        "large": ("uint64", (2,)),
        "ratio": ("float32", (2,)),
    }
    assert columns["image"][0].tolist() == GOOD["image"]
    assert columns["words"][1].tolist() == GOOD["words"]
    assert columns["big"][0].tolist() == GOOD["big"]
    assert columns["large"].tolist() == [2**64 - 1] * 2
    assert np.isnan(columns["ratio"][0])


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"image": 1.0}, "rows[1].image", "a list of the shape [2, 2]"),
        ({"image": [[1, 2]]}, "rows[1].image", "2 items"),
        ({"image": [[1, 2], [3]]}, "rows[1].image[1]", "2 items"),
        ({"image": [[1, 2], [3, "4"]]}, "rows[1].image[1][1]", "takes a number"),
        ({"image": [[1, 2], [3, None]]}, "rows[1].image[1][1]", "no nulls"),
        ({"image": [[1, 2], [3, True]]}, "rows[1].image[1][1]", "takes a number"),
        ({"image": [[1, 2], [3, [4]]]}, "rows[1].image[1][1]", "takes a number"),
        ({"image": [[1, 2], [3, 1e39]]}, "rows[1].image[1][1]", "too large for a float"),
        ({"image": [[1, 2], [3, 10**400]]}, "rows[1].image[1][1]", "too large"),
        ({"image": None}, "rows[1].image", "required and is null"),
        ({"ids": [1, 2.5]}, "rows[1].ids[1]", "whole number"),
        ({"ids": [2**31]}, "rows[1].ids[0]", "from -2147483648 to 2147483647"),
        ({"ids": [[1]]}, "rows[1].ids[0]", "whole number"),
        ({"ids": {"0": 1}}, "rows[1].ids", "a list of the shape [any]"),
        ({"ids": [1, 2]}, "rows[1].ids", "equal shapes"),
        ({"marks": [1, 0]}, "rows[1].marks[0]", "true or false"),
        ({"words": [["a"]]}, "rows[1].words[0]", "2 items"),
        ({"words": [["a", 1]]}, "rows[1].words[0][1]", "takes text"),
        ({"big": [0, 2**64]}, "rows[1].big[1]", "from 0 to"),
        ({"big": [-1, 0]}, "rows[1].big[0]", "from 0 to"),
        ({"small": 128}, "rows[1].small", "from -128 to 127"),
        ({"large": 2**64}, "rows[1].large", "from 0 to"),
        ({"large": -1}, "rows[1].large", "from 0 to"),
        ({"ratio": 1e39}, "rows[1].ratio", "too large for a float"),
    ],
)
def test_an_error_names_the_element(codec: RowCodec, change: dict[str, Any], field: str, said: str) -> None:
    for decode in (lambda: codec.decode(body(GOOD, GOOD | change)), lambda: codec.check_rows([GOOD, GOOD | change])):
        with pytest.raises(InvalidInput) as caught:
            decode()
        assert caught.value.fields["field"] == field
        assert said in caught.value.message


def test_nan_from_a_program_is_named_too(codec: RowCodec) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.check_rows([GOOD | {"image": [[1.0, 2.0], [float("nan"), 4.0]]}])
    assert caught.value.fields["field"] == "rows[0].image[1][0]"


def test_lists_of_unequal_lengths_along_an_open_axis(codec: RowCodec) -> None:
    open_ = RowCodec(Signature((Column("t", "double", shape=(-1, -1)),), ()))
    with pytest.raises(InvalidInput) as caught:
        open_.decode(body({"t": [[1, 2], [3]]}))
    assert (caught.value.fields["field"], caught.value.message) == ("rows[0].t", "the lists along one axis have equal lengths")
    assert open_.decode(body({"t": [[1, 2], [3, 4]]})).rows[0][0].shape == (2, 2)
    assert open_.decode(body({"t": []})).rows[0][0].shape == (0, 0)
    assert open_.decode(body({"t": [[], []]})).rows[0][0].shape in ((2, 0), (0, 0))


@pytest.mark.parametrize("depth", [9, 1_000, 100_000])
def test_nesting_is_bounded_by_the_shape(codec: RowCodec, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    with pytest.raises(InvalidInput):
        codec.decode(b'[{"image": ' + deep + b"}]")


def test_a_long_wrong_tensor_is_refused_with_a_short_error(codec: RowCodec) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.decode(body(GOOD | {"ids": [*range(200_000), "x"]}))
    assert caught.value.fields["field"] == "rows[0].ids[200000]"
    assert len(str(caught.value)) < 300


_leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just(3.0),
    st.text(max_size=2),
)
_nests = st.recursive(_leaf, lambda inner: st.lists(inner, max_size=3), max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GOOD)), _nests)
def test_the_fast_path_accepts_what_the_careful_one_does(name: str, value: Any) -> None:
    codec = RowCodec(SIGNATURE)
    sent = msgspec.json.encode([GOOD | {name: value}])

    def outcome(call: Any) -> Any:
        try:
            return [part.tolist() if hasattr(part, "tolist") else part for part in call()[0]]
        except InvalidInput as error:
            return str(error)

    fast = outcome(lambda: codec.decode(sent).rows)
    assert fast == outcome(lambda: codec.check_rows(msgspec.json.decode(sent)))
    if not isinstance(fast, str):
        codec.to_columns(codec.decode(sent).rows)  # whatever was accepted fits its columns


ARRAYS: dict[str, Any] = {
    "image": np.zeros((3, 2, 2), "f4"),
    "ids": np.zeros((3, 5), "i8"),
    "marks": np.zeros((3, 2), "?"),
    "words": np.full((3, 4, 2), "x", dtype=object),
    "big": np.full((3, 2), 2**64 - 1, "u8"),
    "small": np.zeros((3, 1), "i8"),
    "large": np.zeros(3, "u8"),
}


def test_arrays_of_the_shape_are_taken_as_they_are(codec: RowCodec) -> None:
    columns = codec.from_columns(ARRAYS, 3)
    assert {name: values.dtype.str for name, values in columns.items()} | {"words": ""} == {
        name: values.dtype.str for name, values in codec.to_columns(codec.decode(body(GOOD)).rows).items()
    } | {"words": ""}
    assert np.shares_memory(columns["image"], ARRAYS["image"])  # an image is not copied for nothing
    assert columns["small"].shape == (3,)
    for change, field, said in (
        ({"image": np.zeros((3, 2, 3), "f4")}, "image", "the shape [3, 2, 2]"),
        ({"image": np.zeros((3, 4), "f4")}, "image", "the shape [3, 2, 2]"),
        ({"image": np.zeros((2, 2, 2), "f4")}, "image", "the shape [3, 2, 2]"),
        ({"image": np.full((3, 2, 2), "x", object)}, "image", "takes a number"),
        ({"image": np.full((3, 2, 2), 1e39)}, "image[0][0]", "too large for a float"),
        ({"image": np.where(np.arange(12).reshape(3, 2, 2) == 7, np.nan, 0)}, "image[1][1]", "NaN"),
        ({"ids": np.full((3, 1), 2**31)}, "ids", "from -2147483648"),
        ({"ids": np.full((3, 1), 0.5)}, "ids", "whole number"),
        ({"small": np.full(3, 200)}, "small", "from -128 to 127"),
        ({"small": np.full((3, 2), 1)}, "small", "one value for each of 3 rows"),
        ({"big": np.full((3, 2), -1)}, "big", "from 0 to"),
    ):
        with pytest.raises(InvalidInput) as caught:
            codec.from_columns(ARRAYS | change, 3)
        assert (caught.value.fields["field"], said in caught.value.message) == (field, True)


def test_outputs_are_nested_lists_of_the_declared_shape() -> None:
    good = np.array([[0.5, 1.0], [2.0, 3.0]], "f4")
    assert output_lists({"scores": good}, SIGNATURE) == {"scores": [[0.5, 1.0], [2.0, 3.0]]}
    with pytest.raises(ModelFailed) as caught:
        output_lists({"scores": np.zeros((2, 3), "f4")}, SIGNATURE)
    assert (caught.value.fields["field"], caught.value.fields["gave"]) == ("scores", "[3]")
    with pytest.raises(ModelFailed) as caught:
        output_lists({"scores": np.array([[0.5, 1.0], [np.nan, 3.0]])}, SIGNATURE)
    assert caught.value.fields["row"] == 1


LENGTHS = """
import numpy as np
class Model:
    def predict(self, columns):
        return {"total": columns["ids"].sum(1), "twice": columns["ids"] * 2}
"""


def test_requests_of_other_lengths_are_answered_each_and_logged(line: Line) -> None:
    signature = Signature((Column("ids", "long", shape=(-1,)),), (Column("total", "long"), Column("twice", "long", shape=(-1,))))
    line.point(line.python(LENGTHS, signature=signature, example=({"ids": [1, 2]},)))

    async def use(front: Any, _: Any) -> None:
        assert await front.wait_ready(20)
        answers = await asyncio.gather(*(front.predict([{"ids": list(range(n))}], request_id=f"r{n}") for n in (1, 2, 3, 2)))
        assert [answer.outputs for answer in answers] == [
            {"total": [sum(range(n))], "twice": [[2 * at for at in range(n)]]} for n in (1, 2, 3, 2)
        ]

    with_front(line, use)
    logged = line.store.tables.query('select request_id, "input.ids" as ids from "predictions/bikes" order by 1').to_pylist()
    assert [row["ids"] for row in logged] == [[0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0, 2.0]]
