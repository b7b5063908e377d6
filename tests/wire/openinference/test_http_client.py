"""``tritonclient.http``, unmodified, against a server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.wire.openinference.echo import COLUMNS, DATATYPES, GrpcServer, tensors


@pytest.fixture
def client(server: GrpcServer) -> Iterator[Any]:
    with triton.InferenceServerClient(server.http, concurrency=4) as opened:
        yield opened


def inputs(given: dict[str, Any], *, binary: bool = True, module: Any = triton) -> list[Any]:
    made = []
    for name, array in given.items():
        tensor = module.InferInput(name, list(array.shape), DATATYPES[COLUMNS[name][0]])
        made.append(tensor.set_data_from_numpy(array, binary_data=binary))
    return made


def outputs(*, binary: bool, names: Any = COLUMNS) -> list[Any]:
    return [triton.InferRequestedOutput(f"{name}_out", binary_data=binary) for name in names]


def same(result: Any, given: dict[str, Any]) -> None:
    for name, array in given.items():
        back = result.as_numpy(f"{name}_out")
        assert back is not None, name
        if array.dtype == object:
            back = np.array([item.decode() if isinstance(item, bytes) else item for item in back], dtype=object)
        assert back.dtype == array.dtype, name
        assert back.tolist() == array.tolist(), name


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("n", [1, 7])
def test_every_datatype_in_all_four_forms(client: Any, binary_in: bool, binary_out: bool, n: int) -> None:
    given = tensors(n)
    result = client.infer("echo", inputs(given, binary=binary_in), outputs=outputs(binary=binary_out), request_id=f"r-{n}")
    same(result, given)
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("echo", "1", f"r-{n}")
    assert answer["parameters"]["release"] == "release:echo@1"
    assert all(("data" in output) != binary_out for output in answer["outputs"])


def test_without_a_list_of_outputs_all_come_as_bytes(client: Any) -> None:
    given = tensors(3)
    result = client.infer("echo", inputs(given))
    same(result, given)
    assert all("binary_data_size" in output["parameters"] for output in result.get_response()["outputs"])


def test_chosen_outputs_mixed_forms_and_a_version(client: Any) -> None:
    given = tensors(2)
    wanted = [*outputs(binary=True, names="s"), *outputs(binary=False, names="d")]
    result = client.infer("echo", [*inputs(given, binary=True)[:4], *inputs(given, binary=False)[4:]], model_version="1", outputs=wanted)
    same(result, {name: given[name] for name in "sd"})
    assert [output["name"] for output in result.get_response()["outputs"]] == ["s_out", "d_out"]


@pytest.mark.parametrize("request_algorithm", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_algorithm", [None, "gzip", "deflate"])
def test_compression_both_ways(client: Any, request_algorithm: str | None, response_algorithm: str | None) -> None:
    given = tensors(500)
    result = client.infer(
        "echo",
        inputs(given),
        request_compression_algorithm=request_algorithm,
        response_compression_algorithm=response_algorithm,
    )
    same(result, given)


def test_answers_are_never_crossed(client: Any) -> None:
    given = [tensors(1 + at % 3, offset=10 * at) for at in range(40)]
    waiting = [client.async_infer("echo", inputs(one), request_id=str(at)) for at, one in enumerate(given)]
    for at, (handle, one) in enumerate(zip(waiting, given, strict=True)):
        result = handle.get_result()
        same(result, one)
        assert result.get_response()["id"] == str(at)


def test_what_the_server_and_the_model_say_of_themselves(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "1")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("echo", "9")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("echo")
    assert metadata["versions"] == ["1"]
    wanted = [{"name": name, "datatype": DATATYPES[dtype], "shape": [-1, *shape]} for name, (dtype, shape) in COLUMNS.items()]
    assert metadata["inputs"] == wanted
    assert metadata["outputs"] == [tensor | {"name": f"{tensor['name']}_out"} for tensor in wanted]
    config = client.get_model_config("echo", "1")
    assert config["max_batch_size"] == 0
    assert config["input"][1] == {"name": "f", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [-1, 3], "optional": False}
    assert config["input"][-1]["data_type"] == "TYPE_STRING"


def test_the_repository(client: Any) -> None:
    assert client.get_model_repository_index() == [{"name": "echo", "version": "1", "state": "READY"}]
    client.load_model("echo")
    with pytest.raises(InferenceServerException, match="takes no files and no configuration"):
        client.load_model("echo", config="{}")
    with pytest.raises(InferenceServerException, match="serves the model 'echo'"):
        client.load_model("other")
    with pytest.raises(InferenceServerException, match="in production and is not unloaded"):
        client.unload_model("echo")
    assert client.is_model_ready("echo")


def test_statistics_count_what_was_done(client: Any) -> None:
    def stats() -> Any:
        (found,) = client.get_inference_statistics("echo", "1")["model_stats"]
        return found

    before = stats()
    for _ in range(3):
        client.infer("echo", inputs(tensors(4)))
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 12
    assert after["execution_count"] - before["execution_count"] == 3
    spent = {name: after["inference_stats"][name]["ns"] - before["inference_stats"][name]["ns"] for name in after["inference_stats"]}
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 3
    parts = sum(spent[name] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < spent["compute_infer"] < parts <= spent["success"] * 1.05
    sizes = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
    assert sizes[4] >= 3
    assert after["last_inference"] > 1_600_000_000_000
    assert client.get_inference_statistics()["model_stats"][0]["name"] == "echo"


def test_what_is_not_here_says_so(client: Any) -> None:
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.get_log_settings()["log_verbose_level"] == 0
    with pytest.raises(InferenceServerException, match="OpenTelemetry"):
        client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    with pytest.raises(InferenceServerException, match="stderr"):
        client.update_log_settings({"log_verbose_level": 1})
    assert client.get_system_shared_memory_status() == []
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_system_shared_memory()
    with pytest.raises(InferenceServerException, match="shared memory is not spoken"):
        client.register_system_shared_memory("region", "/key", 64)
    with pytest.raises(InferenceServerException, match="no such shared-memory region"):
        client.get_system_shared_memory_status("region")


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"d": np.zeros(2)}, {"sequence_id": 7, "sequence_start": True}, "no sequences"),
        ({"d": np.zeros((2, 3))}, {}, "one value for each of 2 rows"),
        ({"f": np.zeros((2, 4), dtype="f4")}, {}, "has the shape"),
        ({"d": np.array([0.0, np.nan])}, {}, "NaN and infinities"),
        ({"s": np.array([b"\xff", b"x"], dtype=object)}, {}, "UTF-8"),
        ({"d": None}, {}, "required"),
    ],
)
def test_errors_name_what_is_wrong(client: Any, change: dict[str, Any], options: Any, said: str) -> None:
    given = {name: array for name, array in (tensors(2) | change).items() if array is not None}
    with pytest.raises(InferenceServerException, match=said) as caught:
        client.infer("echo", inputs(given), **options)
    assert caught.value.status() == "400"


def test_outputs_that_cannot_be_given(client: Any) -> None:
    for output, said in (
        (triton.InferRequestedOutput("nothing"), "no such output"),
        (triton.InferRequestedOutput("d_out", class_count=3), "classification extension"),
    ):
        with pytest.raises(InferenceServerException, match=said):
            client.infer("echo", inputs(tensors(1)), outputs=[output])
    shared = triton.InferRequestedOutput("d_out")
    shared.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="shared memory"):
        client.infer("echo", inputs(tensors(1)), outputs=[shared])


def test_a_timeout_is_a_deadline(client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("echo", inputs(tensors(1)), timeout=1)
    assert caught.value.status() in ("504", "429")
    same(client.infer("echo", inputs(tensors(1)), timeout=10_000_000, priority=1), tensors(1))


def test_a_client_that_gives_up_early_leaves_the_server_well(server: GrpcServer) -> None:
    for _ in range(20):
        with triton.InferenceServerClient(server.http, network_timeout=1e-5) as hasty, contextlib.suppress(TimeoutError):
            same(hasty.infer("echo", inputs(tensors(500))), tensors(500))
    with triton.InferenceServerClient(server.http) as client:
        same(client.infer("echo", inputs(tensors(2))), tensors(2))


def test_the_asyncio_client(server: GrpcServer) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(server.http) as client:
            assert await client.is_model_ready("echo")
            given = [tensors(2, offset=at) for at in range(8)]
            results = await asyncio.gather(*[client.infer("echo", inputs(one, module=triton_aio)) for one in given])
            for result, one in zip(results, given, strict=True):
                same(result, one)
            packed = await client.infer(
                "echo", inputs(tensors(300)), request_compression_algorithm="gzip", response_compression_algorithm="gzip"
            )
            same(packed, tensors(300))
            assert (await client.get_inference_statistics("echo"))["model_stats"]
            assert (await client.get_model_repository_index())[0]["state"] == "READY"

    asyncio.run(main())
