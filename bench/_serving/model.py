"""The model every server runs, and what it is called with. Run by each peer's own Python; imports only what that peer was given."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

FEATURES = 10


def load() -> Callable[[Any], Any]:
    """A function from rows ``[n, FEATURES]`` to ``n`` numbers; ``BENCH_MODEL`` is an ONNX file or a pickled estimator."""
    path = os.environ["BENCH_MODEL"]
    if path.endswith(".onnx"):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda rows: session.run(None, {"input": rows})[0][:, 0]
    predict: Callable[[Any], Any] = pickle.loads(Path(path).read_bytes()).predict
    return predict
