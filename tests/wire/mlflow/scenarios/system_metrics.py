"""The machine's own metrics, sampled while a run goes on."""

import json
import time

import mlflow

mlflow.set_experiment("machine")
mlflow.config.set_system_metrics_sampling_interval(0.1) if hasattr(mlflow, "config") else mlflow.set_system_metrics_sampling_interval(0.1)
mlflow.set_system_metrics_samples_before_logging(2)
client = mlflow.MlflowClient()
with mlflow.start_run(log_system_metrics=True) as run:
    until = time.monotonic() + 30
    while time.monotonic() < until and not client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage"):
        time.sleep(0.1)
names = sorted(name for name in client.get_run(run.info.run_id).data.metrics if name.startswith("system/"))
print(json.dumps({"run": run.info.run_id, "names": names}))
