"""A release that gives back what it gets, in every kind of column, and a server process that serves it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from andon.models import Column, Signature
from andon.store import open_store
from tests.unit.serving.clients import Server
from tests.unit.serving.line import Line

COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "d": ("double", ()),
    "f": ("float", (3,)),
    "h": ("half", (2, 2)),
    "l": ("long", ()),
    "i": ("integer", ()),
    "u": ("uint8", ()),
    "b": ("boolean", ()),
    "s": ("string", ()),
}
_ONNX = {"double": 11, "float": 1, "half": 10, "long": 7, "integer": 6, "uint8": 2, "boolean": 9, "string": 8}
DATATYPES = {
    "double": "FP64",
    "float": "FP32",
    "half": "FP16",
    "long": "INT64",
    "integer": "INT32",
    "uint8": "UINT8",
    "boolean": "BOOL",
    "string": "BYTES",
}
SIGNATURE = Signature(
    tuple(Column(name, dtype, shape=shape) for name, (dtype, shape) in COLUMNS.items()),  # type: ignore[arg-type]
    tuple(Column(f"{name}_out", dtype, shape=shape) for name, (dtype, shape) in COLUMNS.items()),  # type: ignore[arg-type]
)


def tensors(n: int, offset: int = 0) -> dict[str, Any]:
    """``n`` rows of every column; ``offset`` makes one caller's differ from another's."""
    rows = np.arange(offset, offset + n)
    return {
        "d": rows + 0.1,
        "f": np.stack([rows, rows + 0.5, -rows], axis=1).astype("f4"),
        "h": (rows[:, None, None] % 64 + np.arange(4).reshape(2, 2) / 4).astype("f2"),
        "l": rows * 2**40,
        "i": (rows - 5).astype("i4"),
        "u": (rows % 256).astype("u1"),
        "b": rows % 2 == 0,
        "s": np.array([f"row {row} – straße" * (row % 3) for row in rows], dtype=object),
    }


def identity_onnx() -> bytes:
    """``NAME_out = NAME`` for every column."""
    from onnx import helper

    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in COLUMNS]
    shaped = [(name, _ONNX[dtype], [None, *shape]) for name, (dtype, shape) in COLUMNS.items()]
    graph = helper.make_graph(
        nodes,
        "echo",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in shaped],
        [helper.make_tensor_value_info(f"{name}_out", kind, shape) for name, kind, shape in shaped],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())


def make_release(home: Path) -> None:
    """A home whose service ``echo`` has the release in production."""
    with open_store(home) as store:
        line = Line(store, home / "scratch", "echo")
        model = line.model({"model.onnx": identity_onnx()}, "onnx", "model.onnx", SIGNATURE)
        line.point(line.release(model, signature=SIGNATURE, example=()))


SERVE = """
import sys
from andon.api import serving_server
from andon.core.settings import load
serving_server.serve(load(sys.argv[1], max_body_bytes=int(sys.argv[3])), sys.argv[2], grpc_port=0)
"""


class GrpcServer(Server):
    """``andon serve --grpc-port 0`` in a process of its own."""

    def __init__(self, home: Path, service: str = "echo", *, max_body_bytes: int = 4_000_000) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(home), service, str(max_body_bytes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"},
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        if " on http://" not in self.line:
            raise RuntimeError(f"the server did not start: {self.line}{self.process.communicate()[1]}")
        self.url = self.line.split(" on ")[1].strip()
        self.port = int(self.url.rpartition(":")[2])
        self.grpc_port = int(self.process.stdout.readline().rpartition(" ")[2])
        self.http = f"127.0.0.1:{self.port}"
        self.grpc = f"127.0.0.1:{self.grpc_port}"
