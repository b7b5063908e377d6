"""ONNX graphs of any tensors: their signatures, what they answer, and which of them cannot be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from andon.core.errors import InvalidInput
from andon.models import Column, Predictor, load, save
from andon.models.saved import SavedModel

RNG = np.random.default_rng(0)
F, D, I64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


def graph(nodes: list[Any], inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, tuple[int, list[Any]]], **constants: Any) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *told) for name, told in inputs.items()],
        [helper.make_tensor_value_info(name, *told) for name, told in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=10)
    return bytes(model.SerializeToString())


def through(model: Any, example: Any, tmp_path: Path, **options: Any) -> tuple[SavedModel, Predictor]:
    saved = save(model, example, into=tmp_path / "files", **options)
    return saved, load(saved.manifest("b3:" + "0" * 64), saved.folder)


def pooled(batch: Any = "n") -> bytes:
    """The mean of each channel of an image, and the image's brightest value."""
    return graph(
        [
            helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0),
            helper.make_node("ReduceMax", ["image", "all"], ["brightest"], keepdims=0),
        ],
        {"image": (F, [batch, 3, "h", "w"])},
        {"means": (F, [batch, 3]), "brightest": (F, [batch])},
        axes=np.array([2, 3]),
        all=np.array([1, 2, 3]),
    )


def test_an_image_in_and_two_outputs(tmp_path: Path) -> None:
    images = RNG.normal(size=(4, 3, 5, 6)).astype(np.float32)
    saved, model = through(pooled(), images, tmp_path)
    assert saved.signature.inputs == (Column("image", "float", shape=(3, -1, -1)),)
    assert saved.signature.outputs == (Column("means", "float", shape=(3,)), Column("brightest", "float"))
    made = model.predict({"image": images})
    np.testing.assert_allclose(made["means"], images.mean((2, 3)), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(made["brightest"], images.max((1, 2, 3)))


def test_without_an_example_the_graph_says_it_all(tmp_path: Path) -> None:
    saved, _ = through(pooled(), None, tmp_path)
    assert saved.signature.inputs == (Column("image", "float", shape=(3, -1, -1)),)
    assert saved.signature.outputs == (Column("means", "float", shape=(3,)), Column("brightest", "float"))


def test_a_graph_of_one_row_is_run_row_by_row(tmp_path: Path) -> None:
    images = RNG.normal(size=(4, 3, 5, 6)).astype(np.float32)
    saved, model = through(pooled(1), images, tmp_path)
    assert "one at a time" in saved.facts["rows"]
    np.testing.assert_allclose(model.predict({"image": images})["means"], images.mean((2, 3)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "dtype", "told"),
    [
        (TensorProto.FLOAT16, np.float16, "half"),
        (TensorProto.UINT8, np.uint8, "uint8"),
        (TensorProto.INT8, np.int8, "int8"),
        (TensorProto.INT16, np.int16, "int16"),
        (TensorProto.INT32, np.int32, "integer"),
        (TensorProto.UINT32, np.uint32, "uint32"),
        (TensorProto.UINT64, np.uint64, "uint64"),
        (TensorProto.BOOL, np.bool_, "boolean"),
        (TensorProto.STRING, object, "string"),
    ],
)
def test_each_type_of_tensor(tmp_path: Path, kind: int, dtype: Any, told: Any) -> None:
    values = np.array([["a", "b"], ["", "é"]], dtype=object) if dtype is object else np.array([[1, 0], [1, 1]], dtype=dtype)
    saved, model = through(
        graph([helper.make_node("Identity", ["a"], ["b"])], {"a": (kind, [None, 2])}, {"b": (kind, [None, 2])}), {"a": values}, tmp_path
    )
    assert saved.signature.inputs == (Column("a", told, shape=(2,)),)
    assert saved.signature.outputs == (Column("b", told, shape=(2,)),)
    made = model.predict({"a": values})["b"]
    np.testing.assert_array_equal(made, values)


def two_towers() -> bytes:
    return graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["vectors"]),
            helper.make_node("ReduceMean", ["vectors", "axis"], ["mean"], keepdims=0),
            helper.make_node("Add", ["mean", "dense"], ["both"]),
            helper.make_node("ReduceSum", ["both", "axis"], ["score"], keepdims=0),
        ],
        {"ids": (I64, ["n", "length"]), "dense": (F, ["n", 4])},
        {"score": (F, ["n"])},
        table=np.arange(40, dtype=np.float32).reshape(10, 4),
        axis=np.array([1]),
    )


def test_several_inputs_of_other_types_and_lengths(tmp_path: Path) -> None:
    example = {"ids": [[1, 2, 3], [4, 5, 6]], "dense": [[0.5] * 4, [1.0] * 4]}
    saved, model = through(two_towers(), example, tmp_path)
    assert saved.signature.inputs == (Column("ids", "long", shape=(-1,)), Column("dense", "float", shape=(4,)))
    assert saved.example == ({"ids": [1, 2, 3], "dense": [0.5] * 4}, {"ids": [4, 5, 6], "dense": [1.0] * 4})
    table = np.arange(40).reshape(10, 4)
    ids = np.array([[7, 8], [0, 9]])
    made = model.predict({"ids": ids, "dense": np.zeros((2, 4), np.float32)})["score"]
    np.testing.assert_allclose(made, table[ids].mean(1).sum(1), rtol=1e-6)


def test_a_graph_of_scalars_by_name_has_its_own_types(tmp_path: Path) -> None:
    model = graph(
        [helper.make_node("Cast", ["k"], ["kf"], to=F), helper.make_node("Add", ["x", "kf"], ["y"])],
        {"x": (F, [None, 1]), "k": (TensorProto.INT32, [None, 1])},
        {"y": (F, [None, 1])},
    )
    saved, loaded = through(model, {"x": [0.5, 1.0], "k": [1, 2]}, tmp_path)
    assert saved.signature.inputs == (Column("x", "float"), Column("k", "integer"))
    assert saved.signature.outputs == (Column("y", "float"),)
    assert loaded.predict({"x": np.array([1.0]), "k": np.array([2])})["y"].tolist() == [3.0]


def zipped() -> bytes:
    """A classifier's probabilities as converters write them by default: a map for each row."""
    made = onnx.load_from_string(graph([helper.make_node("Identity", ["a"], ["b"])], {"a": (F, [None, 2])}, {"b": (F, [None, 2])}))
    made.graph.node[0].CopyFrom(helper.make_node("ZipMap", ["a"], ["b"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]))
    row = helper.make_map_type_proto(I64, helper.make_tensor_type_proto(F, []))
    made.graph.output[0].CopyFrom(helper.make_value_info("b", helper.make_sequence_type_proto(row)))
    return bytes(made.SerializeToString())


BAD: dict[str, tuple[bytes, Any, str]] = {
    "fixed rows": (pooled(4), np.zeros((4, 3, 2, 2), np.float32), "exactly 4 rows"),
    "no rows": (
        graph([helper.make_node("Identity", ["a"], ["b"])], {"a": (F, [])}, {"b": (F, [])}),
        None,
        "no axis for the rows",
    ),
    "an answer for the whole batch": (
        graph([helper.make_node("ReduceMean", ["a"], ["b"], keepdims=0)], {"a": (F, [None, 3])}, {"b": (F, [])}),
        {"a": np.ones((2, 3), np.float32)},
        "it needs a value for each",
    ),
    "rows that depend on each other": (
        graph(
            [helper.make_node("ReduceMean", ["a", "axis"], ["m"], keepdims=1), helper.make_node("Sub", ["a", "m"], ["b"])],
            {"a": (F, [None, 3])},
            {"b": (F, [None, 3])},
            axis=np.array([0]),
        ),
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "depends on the other rows",
    ),
    "an output that is no tensor": (zipped(), None, "convert it with zipmap off"),
    "other names": (two_towers(), {"words": [[1, 2]], "dense": [[0.5] * 4]}, "not the signature's columns"),
    "another width": (
        graph([helper.make_node("Identity", ["a"], ["b"])], {"a": (F, [None, 3])}, {"b": (F, [None, 3])}),
        {"p": [1.0], "q": [2.0]},
        "has 3 columns and the signature 2",
    ),
    "another rank": (pooled(), {"image": np.zeros((2, 3), np.float32)}, "refuses the example"),
    "no graph": (b"\x00garbage", None, "cannot load this graph"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_served_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    model, example, why = BAD[case]
    with pytest.raises(InvalidInput) as caught:
        save(model, example, into=tmp_path / "files")
    assert why in caught.value.message
    assert not list((tmp_path / "files").iterdir())


def test_weights_in_a_file_beside_the_graph_are_taken_along(tmp_path: Path) -> None:
    weights = RNG.normal(size=(64, 32)).astype(np.float32)
    model = onnx.load_from_string(
        graph([helper.make_node("MatMul", ["a", "w"], ["b"])], {"a": (F, [None, 64])}, {"b": (F, [None, 32])}, w=weights)
    )
    onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, location="big.onnx.data", size_threshold=16)
    assert (tmp_path / "big.onnx.data").stat().st_size >= weights.nbytes
    rows = RNG.normal(size=(3, 64)).astype(np.float32)
    _, loaded = through(tmp_path / "big.onnx", {"a": rows}, tmp_path)
    np.testing.assert_allclose(loaded.predict({"a": rows})["b"], rows @ weights, rtol=1e-4, atol=1e-5)
