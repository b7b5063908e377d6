"""Ray Serve with its dynamic batching."""

import os
import signal
import sys

import numpy as np
import ray
from model import load
from ray import serve
from starlette.requests import Request

# Ray reads the annotations of a deployment, so this file keeps them as they are.


@serve.deployment(num_replicas=int(os.environ["BENCH_WORKERS"]), ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=512)
class Bench:
    def __init__(self) -> None:
        self.model = load()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.0005)
    async def run(self, rows: list) -> list:
        made = self.model(np.concatenate(rows))
        return np.split(made, np.cumsum([len(one) for one in rows])[:-1])

    async def __call__(self, request: Request) -> dict:
        body = await request.json()
        return {"predictions": (await self.run(np.asarray(body["rows"], dtype=np.float64))).tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": dict(os.environ), "working_dir": None})
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Bench.bind())
    signal.pause()
