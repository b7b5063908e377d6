"""Small releases to serve: a linear ONNX model, models and transforms in Python, and wheels made here, so that no test needs a network."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

from andon import registry
from andon.models import Column, ModelManifest, Signature
from andon.releases.records import CodePin, Pin, ReleaseManifest
from andon.serving.environments import current_lock
from andon.store import Store
from andon.tracking.records import EnvironmentLock
from tests.conftest import ANA

SIGNATURE = Signature((Column("x", "double"), Column("k", "long")), (Column("y", "double"),))
EXAMPLE: tuple[dict[str, Any], ...] = ({"x": 1.0, "k": 2}, {"x": 0.5, "k": 0})

ECHO = """
class Model:
    def __init__(self, folder):
        self.folder = folder
    def predict(self, columns):
        return {"y": columns["x"] + columns["k"]}
"""


def linear_onnx(weights: tuple[float, ...], bias: float) -> bytes:
    """``y = x . weights + bias`` in double precision, one input ``[n, k]``."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.DOUBLE, [None, len(weights)])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 1])],
        [
            helper.make_tensor("w", TensorProto.DOUBLE, [len(weights), 1], list(weights)),
            helper.make_tensor("b", TensorProto.DOUBLE, [1], [bias]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def make_wheel(folder: Path, name: str, version: str, code: str) -> Path:
    """A pure-Python wheel with one module."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"{name}.py": code,
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256={urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text.encode())}"
        for path, text in files.items()
    ]
    files[f"{name}-{version}.dist-info/RECORD"] = "\n".join([*record, f"{name}-{version}.dist-info/RECORD,,"]) + "\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def small_lock(**pins: str) -> EnvironmentLock:
    """NumPy as it is here and ``pins``: small, so that it is built quickly."""
    import numpy as np

    requirements = sorted([f"numpy=={np.__version__}", *(f"{name}=={version}" for name, version in pins.items())])
    python = ".".join(map(str, sys.version_info[:3]))
    return EnvironmentLock(python=python, platform=sysconfig.get_platform(), requirements=tuple(requirements))


class Line:
    """Registers models and releases of one service, and moves its channels."""

    def __init__(self, store: Store, scratch: Path, service: str = "bikes") -> None:
        self.store = store
        self.service = service
        self._scratch = scratch
        self._made = 0

    def tree(self, files: dict[str, str | bytes]) -> str:
        """Files as a tree in the blob store; returns its digest."""
        self._made += 1
        folder = self._scratch / f"tree{self._made}"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return self.store.blobs.put_tree(folder)

    def model(self, files: dict[str, str | bytes], kind: str, entry: str, signature: Signature = SIGNATURE) -> Pin:
        manifest = ModelManifest(format=kind, files=self.tree(files), entry=entry, signature=signature)  # type: ignore[arg-type]
        version = registry.register(self.store, "model", self.service, manifest, actor=ANA)
        return Pin(str(version.address), version.digest)

    def release(self, model: Pin, **more: Any) -> str:
        values: dict[str, Any] = {"environment": current_lock(), "signature": SIGNATURE, "code": CodePin(), "example": EXAMPLE}
        manifest = ReleaseManifest(service=self.service, model=model, **(values | more))
        return str(registry.register(self.store, "release", self.service, manifest, actor=ANA).address)

    def onnx(self, weights: tuple[float, ...] = (2.0, 1.0), bias: float = 0.0, **more: Any) -> str:
        """A release of ``y = x . weights + bias``."""
        signature = more.get("signature", SIGNATURE)
        return self.release(self.model({"model.onnx": linear_onnx(weights, bias)}, "onnx", "model.onnx", signature), **more)

    def python(self, module: str = ECHO, **more: Any) -> str:
        """A release of a class ``Model`` in Python."""
        return self.release(self.model({"echo_model.py": module}, "python", "echo_model:Model", more.get("signature", SIGNATURE)), **more)

    def wheels(self, *wheels: tuple[str, str, str]) -> str:
        """Wheels (name, version, code of its one module) as a tree; returns its digest."""
        self._made += 1
        folder = self._scratch / f"wheels{self._made}"
        for name, version, code in wheels:
            make_wheel(folder, name, version, code)
        return self.store.blobs.put_tree(folder)

    def point(self, release: str, channel: str = "production") -> None:
        registry.move_alias(self.store, f"service:{self.service}@{channel}", release, actor=ANA, reason="test")
