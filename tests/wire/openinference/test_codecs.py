"""The codecs by themselves: what is written is read, and what is broken is named and never raises anything else."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.errors import AndonError, InvalidInput, ModelFailed, TooLarge
from andon.models import Column, Signature
from andon.serving.validation import RowCodec
from andon.wire.openinference.answers import infer_answer
from andon.wire.openinference.binding import Binding
from andon.wire.openinference.datatypes import COLUMNS, DATATYPES
from andon.wire.openinference.models import Outcome
from andon.wire.openinference.requests import InferRequest, Wanted, parse_infer
from andon.wire.openinference.tensors import from_bytes, from_json, to_bytes
from tests.wire.openinference.echo import SIGNATURE, tensors

shapes = st.lists(st.integers(0, 4), min_size=1, max_size=4)
numbers = st.sampled_from([name for name, kind in DATATYPES.items() if kind.size and name != "BF16"])


@given(numbers, shapes, st.randoms(use_true_random=False))
def test_numbers_round_trip_as_bytes(kind: str, shape: list[int], random: Any) -> None:
    form = DATATYPES[kind]
    data = bytes(random.getrandbits(8) for _ in range(int(np.prod(shape)) * form.size))
    if kind == "BOOL":
        data = bytes(byte & 1 for byte in data)
    array = from_bytes(data, kind, shape, "t")
    assert array.shape == tuple(shape)
    assert to_bytes(array, form) == data


@given(st.lists(st.text(), max_size=20))
def test_texts_round_trip_as_bytes(items: list[str]) -> None:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    data = to_bytes(array, DATATYPES["BYTES"])
    assert from_bytes(data, "BYTES", [len(items)], "t").tolist() == items
    assert to_bytes(np.array([b"\x00", None], dtype=object), DATATYPES["BYTES"]) == b"\x01\x00\x00\x00\x00\x00\x00\x00\x00"


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8))
def test_bf16_is_the_upper_half_of_a_float32(values: list[float]) -> None:
    whole = np.array(values, dtype="<f4")
    data = b"".join(whole.tobytes()[at + 2 : at + 4] for at in range(0, 4 * len(values), 4))
    kept = from_bytes(data, "BF16", [len(values)], "t")
    assert kept.dtype == np.float32
    assert (kept.view("<u4") == whole.view("<u4") & 0xFFFF0000).all()


@given(numbers, shapes, st.data())
def test_numbers_round_trip_as_json_flat_and_nested(kind: str, shape: list[int], data: Any) -> None:
    form = DATATYPES[kind]
    count = int(np.prod(shape))
    if form.name.startswith("FP"):
        values = data.draw(st.lists(st.floats(-1000, 1000, width=16), min_size=count, max_size=count))
    elif form.name == "BOOL":
        values = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    else:
        limits = np.iinfo(form.numpy)
        values = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), min_size=count, max_size=count))
    array = np.array(values, dtype=form.numpy).reshape(shape)
    for sent in (array.reshape(-1).tolist(), array.tolist()):
        assert from_json(json.loads(json.dumps(sent)), kind, shape, "t").tolist() == array.tolist()


def outcome(body: bytes, header_length: int | None) -> int | None:
    """The status that a body is refused with; None when it is a request whose columns agree."""
    try:
        columns, n = Binding(RowCodec(SIGNATURE)).columns(parse_infer(body, header_length))
    except AndonError as error:
        return error.status
    assert {len(values) for values in columns.values()} == {n}
    return None


@settings(max_examples=200)
@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 220)))
def test_whatever_comes_is_a_request_or_a_named_refusal(body: bytes, header_length: int | None) -> None:
    assert outcome(body, header_length) in (None, 400, 413)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_request_is_one_or_a_named_refusal(data: Any) -> None:
    body, header_length = binary_body(tensors(2))
    at = data.draw(st.integers(0, len(body) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    damaged = {
        "flip": body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :],
        "cut": body[:at],
        "insert": body[:at] + data.draw(st.binary(min_size=1, max_size=9)) + body[at:],
    }[change]
    assert outcome(damaged, header_length) in (None, 400, 413)


def binary_body(given: dict[str, Any], **more: Any) -> tuple[bytes, int]:
    kinds = {column.name: COLUMNS[column.dtype] for column in SIGNATURE.inputs}
    parts, listed = [], []
    for name, array in given.items():
        parts.append(to_bytes(array, DATATYPES[kinds[name]]))
        parameters = {"binary_data_size": len(parts[-1])}
        listed.append({"name": name, "shape": list(array.shape), "datatype": kinds[name], "parameters": parameters})
    head = json.dumps({"inputs": listed, **more}).encode()
    return head + b"".join(parts), len(head)


@given(st.integers(1, 5), st.booleans(), st.booleans())
def test_a_request_and_its_answer_round_trip(n: int, binary_in: bool, binary_out: bool) -> None:
    class Held:
        version, address, digest = "1", "release:echo@1", "b3:0"

    sent = tensors(n)
    if binary_in:
        request = parse_infer(*binary_body(sent, parameters={"binary_data_output": binary_out}))
    else:
        kinds = {column.name: COLUMNS[column.dtype] for column in SIGNATURE.inputs}
        listed = [{"name": name, "shape": array.shape, "datatype": kinds[name], "data": array.tolist()} for name, array in sent.items()]
        request = parse_infer(json.dumps({"inputs": listed, "parameters": {"binary_data_output": binary_out}}).encode())
    binding = Binding(RowCodec(SIGNATURE))
    columns, rows = binding.columns(request)
    assert rows == n
    outputs = binding.answer({f"{name}_out": array for name, array in columns.items()}, binding.wanted(request))
    body, head = infer_answer(Outcome("echo", Held(), "r", outputs))  # type: ignore[arg-type]
    assert (head is not None) == binary_out
    answer, at = json.loads(body[:head]), head or 0
    for output in answer["outputs"]:
        name = output["name"].removesuffix("_out")
        if binary_out:
            size = output["parameters"]["binary_data_size"]
            back = from_bytes(body[at : at + size], output["datatype"], output["shape"], name)
            at += size
        else:
            back = from_json(output["data"], output["datatype"], output["shape"], name)
        assert back.tolist() == sent[name].tolist()
    assert not binary_out or at == len(body)


MATRIX = Signature((Column("x", "double"), Column("k", "double")), (Column("y", "double"),))
MIXED = Signature((Column("x", "double"), Column("k", "long")), (Column("y", "double"),))
TIMES = Signature((Column("t", "datetime"), Column("note", "string", required=False)), (Column("y", "double"),))


def bound(signature: Signature, *listed: dict[str, Any], **more: Any) -> dict[str, Any]:
    columns, _ = Binding(RowCodec(signature)).columns(parse_infer(json.dumps({"inputs": listed, **more}).encode()))
    return {name: values.tolist() for name, values in columns.items()}


def tensor(name: str, datatype: str, data: Any, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


@pytest.mark.parametrize("signature", [MATRIX, MIXED])
@pytest.mark.parametrize("datatype", ["FP64", "FP32", "INT32"])
def test_one_matrix_is_all_columns(signature: Signature, datatype: str) -> None:
    assert bound(signature, tensor("any", datatype, [[1, 2], [3, 4]], [2, 2])) == {"x": [1, 3], "k": [2, 4]}
    assert bound(signature, tensor("x", datatype, [1, 2, 3, 4], [2, 2])) == {"x": [1, 3], "k": [2, 4]}


FLOATS = Signature((Column("x", "float"), Column("k", "float")), (Column("y", "double"),))


@given(
    st.sampled_from([MATRIX, MIXED, FLOATS]),
    st.sampled_from(["f8", "f4", "f2", "i8", "i1", "u8", "?"]),
    st.lists(st.sampled_from([0.0, 1.0, -3.0, 0.5, 1e300, 65505.0, 2.0**53 + 2, float("nan"), float("inf")]), min_size=4, max_size=4),
    st.booleans(),
)
def test_the_quick_ways_agree_with_the_codec(signature: Signature, dtype: str, values: list[float], apart: bool) -> None:
    with np.errstate(all="ignore"):
        matrix = np.array(values).astype(dtype).reshape(2, 2)
    spread = {"x": matrix[:, 0], "k": matrix[:, 1]}
    try:
        slow: Any = {name: (array.dtype, array.tolist()) for name, array in RowCodec(signature).from_columns(spread, 2).items()}
    except InvalidInput as error:
        slow = type(error)
    try:
        columns, _ = Binding(RowCodec(signature)).columns(InferRequest(tensors=spread if apart else {"all": matrix}))
        quick: Any = {name: (array.dtype, array.tolist()) for name, array in columns.items()}
    except InvalidInput as error:
        quick = type(error)
    assert quick == slow


def test_a_matrix_says_where_it_is_wrong() -> None:
    data = np.array([[1.0, 2.0], [3.0, np.inf]])
    for signature, said in ((MATRIX, "all\\[1, 1\\]"), (MIXED, "k")):
        with pytest.raises(InvalidInput, match=said):
            Binding(RowCodec(signature)).columns(InferRequest(tensors={"all": data}))
    with pytest.raises(TooLarge):
        Binding(RowCodec(MATRIX)).columns(InferRequest(tensors={"all": np.zeros((100_001, 2))}))
    with pytest.raises(InvalidInput, match=r"the shape \[n, 2\]"):
        bound(MATRIX, tensor("all", "FP64", [1.0, 2.0, 3.0], [1, 3]))
    with pytest.raises(InvalidInput, match="there are no rows"):
        bound(MATRIX, tensor("all", "FP64", [], [0, 2]))


def test_instants_and_texts() -> None:
    noon = "2026-11-22T12:00:00Z"
    as_text = bound(TIMES, tensor("t", "BYTES", [noon, "1970-01-01T00:00:00.000001Z"]), tensor("note", "BYTES", ["a", None]))
    assert as_text["t"][1].isoformat() == "1970-01-01T00:00:00.000001"
    assert as_text["note"] == ["a", None]
    as_number = bound(TIMES, tensor("t", "INT64", [1, 2]))
    assert as_number["t"][0].isoformat() == "1970-01-01T00:00:00.000001"
    assert as_number["note"] == [None, None]
    for listed, said in (
        (tensor("t", "BYTES", ["yesterday"]), "t\\[0\\]"),
        (tensor("t", "BYTES", [None]), "required"),
        (tensor("t", "FP64", [1.0]), "takes ISO"),
    ):
        with pytest.raises(InvalidInput, match=said):
            bound(TIMES, listed)
    with pytest.raises(InvalidInput, match="65536"):
        bound(TIMES, tensor("t", "INT64", [1]), tensor("note", "BYTES", ["x" * 65_537]))


def test_a_body_without_json_is_the_only_input() -> None:
    image = Signature((Column("image", "float", shape=(2, 2)),), (Column("y", "double"),))
    columns, n = Binding(RowCodec(image)).columns(parse_infer(struct.pack("<8f", *range(8)), 0))
    assert (n, columns["image"].tolist()) == (2, [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])
    text = Signature((Column("text", "string"),), (Column("y", "double"),))
    assert Binding(RowCodec(text)).columns(parse_infer("straße".encode(), 0))[0]["text"].tolist() == ["straße"]
    for signature, body in ((image, b"123"), (image, b""), (text, b"\xff"), (MATRIX, b"12345678")):
        with pytest.raises(InvalidInput):
            Binding(RowCodec(signature)).columns(parse_infer(body, 0))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": []}, "has inputs"),
        ({"inputs": [tensor("x", "FP64", [1.0]), tensor("x", "FP64", [1.0])]}, "sent once"),
        ({"inputs": [tensor("x", "FP64", [1.0], [-1])]}, "none negative"),
        ({"inputs": [tensor("x", "FP64", [1.0], [10**30])]}, "does not hold"),
        ({"inputs": [tensor("x", "FP64", [1.0], [1] * 10)]}, "1 to 9 sizes"),
        ({"inputs": [tensor("x", "FP64", [[1.0], [2.0, 3.0]], [2, 1])]}, "nested as the shape"),
        ({"inputs": [tensor("x", "FP64", [[[1.0]]], [1, 1])]}, "nested as the shape"),
        ({"inputs": [tensor("x", "FP64", ["1"])]}, "is not FP64"),
        ({"inputs": [tensor("x", "FP64", [True])]}, "is not FP64"),
        ({"inputs": [tensor("x", "FP32", [1e300])]}, "NaN and inf"),
        ({"inputs": [tensor("x", "INT8", [128])]}, "out of the range"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": -8}}]}, "number of bytes"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": True}}]}, "number of bytes"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}]}, "0 left"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"shared_memory_region": "r"}}]}, "shared memory"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64"}]}, "list of values"),
        ({"inputs": [], "parameters": {"timeout": 1.5}}, "microseconds"),
        ({"inputs": [], "parameters": {"sequence_id": 1}}, "no sequences"),
        ({"inputs": [], "parameters": {"binary_data_output": 1}}, "true or false"),
        ({"inputs": [], "parameters": {"key": ""}}, "1 to 200"),
        ({"inputs": [], "id": "a b"}, "request id"),
    ],
)
def test_broken_requests_are_named(body: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Binding(RowCodec(MATRIX)).columns(parse_infer(json.dumps(body).encode()))


def test_an_output_that_does_not_fit_its_signature_is_the_models_failure() -> None:
    binding = Binding(RowCodec(Signature((Column("x", "double"),), (Column("y", "long"),))))
    for values in (np.array([1.5]), np.array(["x"], dtype=object)):
        with pytest.raises(ModelFailed, match="long"):
            binding.answer({"y": values}, [Wanted("y", True)])
    ((wanted, form, array),) = binding.answer({"y": np.array([2.0])}, binding.wanted(InferRequest(tensors={}, binary=True)))
    assert (wanted, form.name, array.dtype) == (Wanted("y", True), "INT64", np.int64)
    with pytest.raises(InvalidInput, match="asked for once"):
        binding.wanted(InferRequest(tensors={}, outputs=(Wanted("y", True), Wanted("y", True))))
