"""Logs batches without end and says which were acknowledged, whatever happens to the server in between; ends when its stdin does."""

import select
import sys

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

mlflow.set_experiment("killed")
client = MlflowClient()
with mlflow.start_run() as run:
    print("run", run.info.run_id, flush=True)
    batch = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        points = [Metric("loss", batch * 100 + n, 1000 + batch * 100 + n, batch * 100 + n) for n in range(100)]
        client.log_batch(run.info.run_id, metrics=points, params=[Param(f"p{batch}", str(batch))])
        batch += 1
        print("acknowledged", batch, flush=True)
