"""KServe's model server."""

from __future__ import annotations

import os
import sys
from typing import Any

import kserve
import numpy as np
from model import load


class Bench(kserve.Model):
    def __init__(self) -> None:
        super().__init__("bench")
        self.model: Any = None  # loaded in the process that answers: a session cannot be sent to another
        self.ready = True

    def predict(self, payload: dict, headers: dict | None = None, response_headers: dict | None = None) -> dict:  # noqa: ARG002
        self.model = self.model or load()
        return {"predictions": self.model(np.asarray(payload["instances"], dtype=np.float64)).tolist()}


if __name__ == "__main__":
    server = kserve.ModelServer(
        http_port=int(sys.argv[1]), enable_grpc=False, workers=int(os.environ["BENCH_WORKERS"]), access_log_format=""
    )
    server.start([Bench()])
