"""LitServe with batching and no waiting."""

from __future__ import annotations

import os
import sys

import litserve as ls
import numpy as np
from model import load


class Bench(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.model = load()

    def decode_request(self, request: dict) -> np.ndarray:
        return np.asarray(request["rows"], dtype=np.float64)

    def batch(self, inputs: list) -> tuple:
        return np.concatenate(inputs), [len(one) for one in inputs]

    def predict(self, batch: tuple) -> tuple:
        return self.model(batch[0]), batch[1]

    def unbatch(self, output: tuple) -> list:
        return np.split(output[0], np.cumsum(output[1])[:-1])

    def encode_response(self, output: np.ndarray) -> dict:
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    api = Bench(max_batch_size=64, batch_timeout=0.0005)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"]))
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
