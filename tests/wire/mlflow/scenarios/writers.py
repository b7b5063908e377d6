"""Eight processes write 10,000 points each to one run, in batches of 500, some metrics shared by all."""

import json
import os

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric

WRITERS, POINTS, BATCH = 8, 10_000, 500
mlflow.set_experiment("crowd")
with mlflow.start_run() as run:
    pass


def write(me: int) -> None:
    client = MlflowClient()
    for first in range(0, POINTS, BATCH):
        own = [Metric(f"own{me}", float(n), 1000 + n, n) for n in range(first, first + BATCH, 2)]
        shared = [Metric("shared", float(me * POINTS + n), 1000 + n, n) for n in range(first + 1, first + BATCH, 2)]
        client.log_batch(run.info.run_id, metrics=own + shared)


children = []
for me in range(WRITERS):
    child = os.fork()
    if child == 0:
        try:
            write(me)
        except BaseException as error:  # whatever it was, the parent must hear of it
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(json.dumps({"run": run.info.run_id, "codes": codes}))
