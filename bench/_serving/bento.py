"""BentoML with its adaptive batching."""

import os

import bentoml
import numpy as np
from model import load

# A service cannot return annotations that are strings, so this file keeps them as they are.


@bentoml.service(
    workers=int(os.environ["BENCH_WORKERS"]), traffic={"timeout": 30, "max_concurrency": 1_000}, logging={"access": {"enabled": False}}
)
class Bench:
    def __init__(self) -> None:
        self.model = load()

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=512, max_latency_ms=1_000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model(np.asarray(rows, dtype=np.float64))
