"""Bytes that no client would send. Whatever they are, the answer is an error or a closed connection, and the next request is right."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.wire.openinference.echo import GrpcServer, tensors
from tests.wire.openinference.test_codecs import binary_body


def exchange(server: GrpcServer, data: bytes, *, end: bool = False) -> tuple[int, bytes]:
    """The status and body of the answer to some bytes; 0 when the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        seen = b""
        while b"\r\n\r\n" not in seen:
            part = connection.recv(65536)
            if not part:
                return 0, seen
            seen += part
        head, _, body = seen.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields.get(b"content-length", 0)):
            body += connection.recv(65536)
        return int(head.split(b" ")[1]), body


def post(body: bytes, path: str = "/v2/models/echo/infer", length: int | None = None, **headers: object) -> bytes:
    lines = {"host": "127.0.0.1", "content-length": len(body) if length is None else length} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def right(server: GrpcServer) -> None:
    sent = tensors(2)
    body, head = binary_body(sent)
    status, answer = exchange(server, post(body, inference_header_content_length=head))
    assert status == 200, answer
    back = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
    assert back["d_out"] == sent["d"].tolist()
    assert back["s_out"] == sent["s"].tolist()


def refused(server: GrpcServer, data: bytes, status: int = 400) -> str:
    found, body = exchange(server, data)
    assert found == status, body[:500]
    right(server)
    said: str = json.loads(body)["error"]
    return said


def test_truncated_tensors(server: GrpcServer) -> None:
    body, head = binary_body(tensors(3))
    for cut in (1, 8, 40, len(body) - head):
        assert "field" in refused(server, post(body[:-cut], inference_header_content_length=head))
    assert "belong to none" in refused(server, post(body + b"x", inference_header_content_length=head))


@pytest.mark.parametrize("said", ["", "x", "-1", "1e3", "99999999999999999999", "9" * 5000, "٣", "1, 2"])
def test_a_header_length_that_is_none(server: GrpcServer, said: str) -> None:
    body, _ = binary_body(tensors(1))
    data = post(body).replace(b"\r\n\r\n", b"\r\ninference-header-content-length: " + said.encode() + b"\r\n\r\n", 1)
    assert "inference-header-content-length" in refused(server, data)


def test_a_header_length_that_lies(server: GrpcServer) -> None:
    body, head = binary_body(tensors(1))
    for lie in (1, head - 1, head + 1, len(body), len(body) + 1):
        refused(server, post(body, inference_header_content_length=lie))
    assert "several" in refused(server, post(body, inference_header_content_length=0))


def test_a_content_length_that_lies(server: GrpcServer) -> None:
    body, head = binary_body(tensors(1))
    assert exchange(server, post(body, length=len(body) + 50, inference_header_content_length=head), end=True)[0] in (0, 400)
    right(server)
    status, _ = exchange(server, post(body, length=len(body) - 30, inference_header_content_length=head))
    assert status == 400
    right(server)
    assert exchange(server, post(b"", length=10**12), end=True)[0] in (0, 413)
    right(server)
    assert exchange(server, post(bytes(4_000_001)))[0] == 413
    right(server)


@pytest.mark.parametrize(
    "shape",
    [[-1], [2**63], [2**64, 2**64], [10**40], [0], [], [1] * 1000, [2**31, 2**31, 2**31], [1.5], [None], ["2"], [True], [[1]]],
)
def test_shapes_that_no_tensor_has(server: GrpcServer, shape: list[Any]) -> None:
    for more in ({"data": [1.0]}, {"parameters": {"binary_data_size": 8}}):
        head = json.dumps({"inputs": [{"name": "d", "shape": shape, "datatype": "FP64", **more}]}).encode()
        refused(server, post(head + bytes(8 if "parameters" in more else 0), inference_header_content_length=len(head)))


def test_deep_nesting_and_long_numbers(server: GrpcServer) -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    for body in (
        deep,
        b'{"inputs":' + deep + b"}",
        b'{"inputs":[{"name":"d","shape":[1],"datatype":"FP64","data":' + deep + b"}]}",
        b'{"inputs":[{"name":"d","shape":[1],"datatype":"INT64","data":[' + b"9" * 100_000 + b"]}]}",
        b'{"parameters":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b',"inputs":[]}',
        b'{"inputs":[{"name":"d","shape":[1],"datatype":"FP64","data":[NaN]}]}',
        b'{"inputs":[{"name":"\xff","shape":[1],"datatype":"FP64","data":[1]}]}',
    ):
        refused(server, post(body))


def test_duplicates_and_wrong_datatypes(server: GrpcServer) -> None:
    twice = [{"name": "d", "shape": [1], "datatype": "FP64", "data": [1.0]}] * 2
    assert "once" in refused(server, post(json.dumps({"inputs": twice}).encode()))
    for datatype in ("FP65", "", "fp64", "x" * 10_000, None, 7):
        refused(server, post(json.dumps({"inputs": [{"name": "d", "shape": [1], "datatype": datatype, "data": [1.0]}]}).encode()))
    wrong, head = binary_body(tensors(1, offset=1))
    swapped = wrong[:head].replace(b'"INT64"', b'"FP64" ') + wrong[head:]
    assert "takes a whole number" in refused(server, post(swapped, inference_header_content_length=head))


def test_swarms_of_empty_tensors(server: GrpcServer) -> None:
    from tests.wire.openinference.test_grpc_client import SERVICE, grpc, service_pb2

    empty = b'{"name":"d","shape":[0],"datatype":"FP64","data":[]}'
    assert "at most 4096" in refused(server, post(b'{"inputs":[' + b",".join([empty] * 60_000) + b"]}"), 413)
    assert "at most 4096" in refused(server, post(b'{"inputs":[],"outputs":[' + b",".join([b'{"name":"d"}'] * 60_000) + b"]}"), 413)
    swarm = service_pb2.ModelInferRequest(model_name="echo").SerializeToString() + b"\x2a\x00" * 1_900_000
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError, match="at most 4096"):
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(swarm, timeout=10)
    right(server)


def test_lengths_of_texts_that_lie(server: GrpcServer) -> None:
    for data in (b"\xff\xff\xff\xff", b"\x05\x00\x00\x00abc", b"\x00\x00\x00\x00x", b"\x01\x00\x00\x00\xff", b"\x00"):
        text = {"name": "s", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
        head = json.dumps({"inputs": [text]}).encode()
        refused(server, post(head + data, inference_header_content_length=len(head)))


def test_bombs_and_broken_compression(server: GrpcServer) -> None:
    bomb = gzip.compress(bytes(200_000_000))
    assert len(bomb) < 250_000
    assert "unpacked" in refused(server, post(bomb, content_encoding="gzip"), 413)
    assert "unpacked" in refused(server, post(zlib.compress(bytes(50_000_000)), content_encoding="deflate"), 413)
    nested = gzip.compress(bomb)
    assert "gzip" in refused(server, post(gzip.compress(b"") * 10_000, content_encoding="gzip"))
    refused(server, post(nested, content_encoding="gzip"))
    body, head = binary_body(tensors(1))
    packed = gzip.compress(body)
    for data in (packed[:-10], packed[:5], b"x" + packed, b"", packed + b"trailing"):
        refused(server, post(data, content_encoding="gzip", inference_header_content_length=head))
    refused(server, post(zlib.compress(body) + b"x", content_encoding="deflate", inference_header_content_length=head))
    refused(server, post(body, content_encoding="br", inference_header_content_length=head))
    status, _ = exchange(server, post(packed, content_encoding="gzip", inference_header_content_length=head))
    assert status == 200
    two = gzip.compress(body[:20]) + gzip.compress(body[20:])
    assert exchange(server, post(two, content_encoding="gzip", inference_header_content_length=head))[0] == 200


def test_the_grpc_port_gets_something_else(server: GrpcServer) -> None:
    from tests.wire.openinference.test_grpc_client import inputs, same, triton

    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for data in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 4096,
        preface + b"\xff" * 4096,
        preface + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    ):
        with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=10) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            try:
                while connection.recv(65536):
                    pass
            except ConnectionResetError:
                pass
    with triton.InferenceServerClient(server.grpc) as client:
        same(client.infer("echo", inputs(tensors(2))), tensors(2))
    right(server)


def test_memory_stays_bounded(server: GrpcServer) -> None:
    def resident_mb() -> float:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    bomb = gzip.compress(bytes(200_000_000))
    before = resident_mb()
    for _ in range(5):
        exchange(server, post(bomb, content_encoding="gzip"))
    assert resident_mb() - before < 60
