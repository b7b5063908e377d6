"""``tritonclient.grpc``, unmodified, against a server on loopback; and bare channels where that client has no way to ask."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from andon.wire.openinference.messages import SERVICE, messages
from tests.wire.openinference.echo import COLUMNS, DATATYPES, GrpcServer, tensors
from tests.wire.openinference.test_http_client import same


@pytest.fixture
def client(server: GrpcServer) -> Iterator[Any]:
    with triton.InferenceServerClient(server.grpc) as opened:
        yield opened


def inputs(given: dict[str, Any]) -> list[Any]:
    made = []
    for name, array in given.items():
        made.append(triton.InferInput(name, list(array.shape), DATATYPES[COLUMNS[name][0]]).set_data_from_numpy(array))
    return made


@pytest.mark.parametrize("n", [1, 7])
def test_every_datatype(client: Any, n: int) -> None:
    given = tensors(n)
    result = client.infer("echo", inputs(given), request_id="r")
    same(result, given)
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("echo", "1", "r")
    assert answer.parameters["release"].string_param == "release:echo@1"
    chosen = client.infer("echo", inputs(given), model_version="1", outputs=[triton.InferRequestedOutput("h_out")]).get_response()
    assert [output.name for output in chosen.outputs] == ["h_out"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: Any, algorithm: str) -> None:
    same(client.infer("echo", inputs(tensors(500)), compression_algorithm=algorithm), tensors(500))


def test_answers_are_never_crossed(client: Any) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    given = [tensors(1 + at % 3, offset=10 * at) for at in range(40)]
    for at, one in enumerate(given):
        client.async_infer("echo", inputs(one), lambda result, error: answers.put((result, error)), request_id=str(at))
    for _ in given:
        result, error = answers.get(timeout=10)
        assert error is None
        same(result, given[int(result.get_response().id)])


def test_a_stream_answers_each_request_in_order_and_survives_an_error(client: Any) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    given = [tensors(2, offset=10 * at) for at in range(100)]
    for at, one in enumerate(given):
        bad = {"d": one["d"]} if at == 50 else one
        client.async_stream_infer("echo", inputs(bad), request_id=str(at), enable_empty_final_response=at == 3)
    for at, one in enumerate(given):
        result, error = answers.get(timeout=10)
        if at == 50:
            assert "this input is required" in str(error)
        else:
            assert error is None
            assert result.get_response().id == str(at)
            assert result.get_response().parameters["triton_final_response"].bool_param
            same(result, one)
    client.stop_stream()
    assert answers.empty()


def test_a_stream_that_is_cancelled_leaves_the_server_well(client: Any) -> None:
    client.start_stream(lambda result, error: None)
    for at in range(200):
        client.async_stream_infer("echo", inputs(tensors(20)), request_id=str(at))
    client.stop_stream(cancel_requests=True)
    same(client.infer("echo", inputs(tensors(2))), tensors(2))


def test_what_the_server_and_the_model_say_of_themselves(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo", "1")
    for name, version in (("other", ""), ("echo", "9")):
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.get_model_metadata(name, version)
    assert "statistics" in client.get_server_metadata().extensions
    metadata = client.get_model_metadata("echo")
    wanted = [(name, DATATYPES[dtype], [-1, *shape]) for name, (dtype, shape) in COLUMNS.items()]
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == wanted
    assert [tensor.name for tensor in metadata.outputs] == [f"{name}_out" for name in COLUMNS]
    config = client.get_model_config("echo").config
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [(name, shape) for name, _, shape in wanted]
    assert config.input[2].data_type == model_config_pb2.TYPE_FP16
    assert list(config.version_policy.specific.versions) == [1]
    assert config.parameters["release"].string_value == "release:echo@1"


def test_the_repository_and_the_statistics(client: Any) -> None:
    (model,) = client.get_model_repository_index().models
    assert (model.name, model.version, model.state) == ("echo", "1", "READY")
    client.load_model("echo")
    with pytest.raises(InferenceServerException, match=r"FAILED_PRECONDITION.*not unloaded"):
        client.unload_model("echo")
    (before,) = client.get_inference_statistics("echo").model_stats
    client.infer("echo", inputs(tensors(5)))
    (after,) = client.get_inference_statistics("echo", "1").model_stats
    assert after.inference_count - before.inference_count == 5
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert 5 in {batch.batch_size for batch in after.batch_stats}
    assert client.get_inference_statistics().model_stats[0].name == "echo"


def test_what_is_not_here_says_so(client: Any) -> None:
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    assert client.get_log_settings().settings["log_info"].bool_param
    with pytest.raises(InferenceServerException, match="OpenTelemetry"):
        client.update_trace_settings(settings={"trace_level": "TIMESTAMPS"})
    with pytest.raises(InferenceServerException, match="stderr"):
        client.update_log_settings({"log_verbose_level": 1})
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_cuda_shared_memory()
    with pytest.raises(InferenceServerException, match="shared memory is not spoken"):
        client.register_system_shared_memory("region", "/key", 64)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({}, {"sequence_id": "s", "sequence_start": True}, "INVALID_ARGUMENT.*no sequences"),
        ({"d": np.zeros((2, 3))}, {}, "INVALID_ARGUMENT.*one value for each of 2 rows"),
        ({"d": np.array([0.0, np.inf])}, {}, "NaN and infinities"),
        ({"d": None}, {}, "this input is required"),
    ],
)
def test_errors_name_what_is_wrong(client: Any, change: dict[str, Any], options: Any, said: str) -> None:
    given = {name: array for name, array in (tensors(2) | change).items() if array is not None}
    with pytest.raises(InferenceServerException, match=said):
        client.infer("echo", inputs(given), **options)


def test_deadlines(client: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
        client.infer("echo", inputs(tensors(1000)), client_timeout=1e-5)
    with pytest.raises(InferenceServerException, match=r"DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"):
        client.infer("echo", inputs(tensors(1)), timeout=1)
    same(client.infer("echo", inputs(tensors(1)), timeout=10_000_000, client_timeout=10), tensors(1))


def test_the_asyncio_client(server: GrpcServer) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_model_ready("echo")
            given = [tensors(2, offset=at) for at in range(8)]
            for result, one in zip(await asyncio.gather(*[client.infer("echo", inputs(one)) for one in given]), given, strict=True):
                same(result, one)

            async def requests() -> Any:
                for at, one in enumerate(given):
                    yield {"model_name": "echo", "inputs": inputs(one), "request_id": str(at)}

            seen = 0
            async for result, error in client.stream_infer(requests()):
                assert error is None
                same(result, given[seen])
                seen += 1
            assert seen == len(given)

    asyncio.run(main())


# --- what that client cannot ask for


def typed_request() -> Any:
    request = service_pb2.ModelInferRequest(model_name="echo", id="typed")
    fields = {"d": "fp64_contents", "f": "fp32_contents", "l": "int64_contents", "i": "int_contents", "u": "uint_contents"}
    for name, array in tensors(2).items():
        tensor = request.inputs.add(name=name, datatype=DATATYPES[COLUMNS[name][0]], shape=array.shape)
        values = array.reshape(-1).tolist()
        if name == "s":
            tensor.contents.bytes_contents.extend(item.encode() for item in values)
        elif name == "b":
            tensor.contents.bool_contents.extend(values)
        elif name in fields:
            getattr(tensor.contents, fields[name]).extend(values)
    return request


def call(server: GrpcServer, method: str, data: bytes) -> Any:
    with grpc.insecure_channel(server.grpc) as channel:
        return channel.unary_unary(f"/{SERVICE}/{method}")(data, timeout=10)


def test_typed_contents(server: GrpcServer) -> None:
    request = typed_request()
    with pytest.raises(grpc.RpcError, match="FP16 has no typed contents"):
        call(server, "ModelInfer", request.SerializeToString())


def test_an_answer_is_typed_when_the_request_was() -> None:
    from andon.serving.validation import RowCodec
    from andon.wire.openinference.binding import Binding
    from andon.wire.openinference.grpc_translate import read_infer, write_infer
    from andon.wire.openinference.models import Outcome
    from tests.wire.openinference.echo import SIGNATURE

    class Held:
        version, address, digest = "1", "release:echo@1", "b3:0"

    kinds = messages()
    given = tensors(2)
    request = typed_request()
    request.inputs[2].CopyFrom(service_pb2.ModelInferRequest.InferInputTensor(name="h", datatype="FP32", shape=[2, 2, 2]))
    request.inputs[2].contents.fp32_contents.extend(given["h"].reshape(-1).tolist())
    binding = Binding(RowCodec(SIGNATURE))
    for names, typed in (("dflibus", True), ("dh", False)):
        del request.outputs[:]
        for name in names:
            request.outputs.add(name=f"{name}_out")
        read = read_infer(kinds["ModelInferRequest"].FromString(request.SerializeToString()))
        columns, n = binding.columns(read)
        assert n == 2
        outcome = Outcome("echo", Held(), "r", binding.answer({f"{k}_out": array for k, array in columns.items()}, binding.wanted(read)))  # type: ignore[arg-type]
        answer = service_pb2.ModelInferResponse.FromString(write_infer(kinds, outcome).SerializeToString())
        assert bool(answer.raw_output_contents) != typed
        if typed:
            contents = {output.name: output.contents for output in answer.outputs}
            assert list(contents["d_out"].fp64_contents) == given["d"].tolist()
            assert list(contents["f_out"].fp32_contents) == given["f"].reshape(-1).tolist()
            assert list(contents["b_out"].bool_contents) == given["b"].tolist()
            assert [item.decode() for item in contents["s_out"].bytes_contents] == given["s"].tolist()
        else:
            assert answer.raw_output_contents[1] == given["h"].tobytes()


def test_our_messages_have_the_fields_of_the_clients() -> None:
    pool = service_pb2.DESCRIPTOR.pool
    compared = 0
    for name, kind in messages().items():
        if name.startswith("SharedMemory"):
            continue
        theirs = {field.number: field for field in pool.FindMessageTypeByName(f"inference.{name}").fields}
        for field in kind.DESCRIPTOR.fields:
            other = theirs[field.number]
            assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated), name
            compared += 1
    assert compared > 130


def test_garbage_is_refused_and_the_next_request_is_right(server: GrpcServer, client: Any) -> None:
    for data in (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x00", b"\x3a\x05abc"):
        with pytest.raises(grpc.RpcError) as caught:
            call(server, "ModelInfer", data)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[union-attr]
    with pytest.raises(grpc.RpcError) as caught:
        call(server, "ModelTrain", b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED  # type: ignore[union-attr]
    with pytest.raises(grpc.RpcError) as caught:
        call(server, "ModelInfer", b"\x32" * 5_000_000)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[union-attr]
    same(client.infer("echo", inputs(tensors(3))), tensors(3))


def test_a_small_message_that_unpacks_to_a_huge_one_is_refused(server: GrpcServer, client: Any) -> None:
    request = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(60_000_000)])
    with (
        grpc.insecure_channel(server.grpc, options=[("grpc.max_send_message_length", -1)]) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(request.SerializeToString(), timeout=10, compression=grpc.Compression.Gzip)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[union-attr]
    same(client.infer("echo", inputs(tensors(3))), tensors(3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda request: request.raw_input_contents.pop(), "one of raw_input_contents for each input"),
        (lambda request: request.inputs[0].shape.__setitem__(0, -1), "none negative"),
        (lambda request: request.inputs[0].shape.extend([2**62, 2**62]), "has "),
        (lambda request: setattr(request.inputs[0], "datatype", "FP65"), "no such datatype"),
        (lambda request: setattr(request.inputs[1], "name", "d"), "sent once"),
        (lambda request: request.inputs[0].contents.fp64_contents.append(1.0), "not both"),
        (lambda request: request.raw_input_contents.__setitem__(7, b"\xff\xff\xff\xff"), "have at least"),
        (lambda request: request.parameters["timeout"].MergeFrom(service_pb2.InferParameter(int64_param=-1)), "microseconds"),
        (lambda request: setattr(request, "id", "two words"), "request id"),
    ],
)
def test_broken_tensors_are_named(server: GrpcServer, change: Any, said: str) -> None:
    request = service_pb2.ModelInferRequest(model_name="echo")
    for tensor in inputs(tensors(2)):
        request.inputs.append(tensor._get_tensor())
        request.raw_input_contents.append(tensor._get_content())
    change(request)
    with pytest.raises(grpc.RpcError) as caught:
        call(server, "ModelInfer", request.SerializeToString())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[union-attr]
    assert said in caught.value.details()  # type: ignore[union-attr]
