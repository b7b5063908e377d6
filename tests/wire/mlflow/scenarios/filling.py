"""What an installation holds, made by the stock client at the tracking URI given: a little of everything that moves house."""

from __future__ import annotations

import sys

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric

uri = sys.argv[1]
mlflow.set_tracking_uri(uri)
mlflow.set_registry_uri(uri)
client = MlflowClient(uri, uri)
experiment = client.create_experiment("one of ours", tags={"team": "a"})
run = client.create_run(experiment, tags={"mlflow.user": "ana"}, run_name="first").info.run_id
points = [Metric("loss/train", n / 7, 1_700_000_000_000 + n, n) for n in range(2_500)]
for start in range(0, len(points), 1_000):
    client.log_batch(run, metrics=points[start : start + 1_000])
nan, infinity = float("nan"), float("inf")
special = [Metric("odd", value, 1_700_000_000_001, n) for n, value in enumerate([nan, infinity, -0.0], 1)]
client.log_batch(run, metrics=special)
client.log_param(run, "net/depth", "6")
client.set_tag(run, "note", "two\nlines")
client.log_text(run, "hello", "notes/a.txt")
client.log_dict(run, {"x": list(range(2_000))}, "deep/er/x.json")
dataset = Dataset("rides", "abc123", "local", '{"uri": "rides.csv"}', schema="{}", profile="{}")
client.log_inputs(run, datasets=[DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])])
client.set_terminated(run)
child = client.create_run(experiment, tags={"mlflow.parentRunId": run}, run_name="child").info.run_id
client.set_terminated(child, "FAILED")
model = client.create_logged_model(
    experiment, name="made", source_run_id=run, tags={"k": "v"}, params={"depth": "6"}, model_type="classifier"
)
client.log_metric(run, "accuracy", 0.9, step=3, model_id=model.model_id)
client.log_outputs(run, [LoggedModelOutput(model.model_id, 4)])
with mlflow.start_run(experiment_id=experiment):

    class Doubling(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input * 2

    mlflow.pyfunc.log_model(name="doubling", python_model=Doubling(), registered_model_name="My Model", pip_requirements=["numpy"])
client.finalize_logged_model(model.model_id, "READY")
first = client.get_model_version("My Model", "1")
for _ in range(2):
    client.create_model_version("My Model", source=first.source, model_id=first.source.removeprefix("models:/"))
client.delete_model_version("My Model", "2")
client.set_registered_model_alias("My Model", "Champion_1", "1")
client.set_registered_model_alias("My Model", "next", "3")
client.transition_model_version_stage("My Model", "3", "Production")
client.set_model_version_tag("My Model", "3", "checked", "yes")
gone = client.create_run(experiment, run_name="gone").info.run_id
client.delete_run(gone)
client.delete_experiment(client.create_experiment("gone"))
mlflow.set_experiment("one of ours")
with mlflow.start_span("outer") as span:
    span.set_inputs({"question": "why?"})
    with mlflow.start_span("inner"):
        pass
    span.set_outputs({"answer": "so"})
mlflow.flush_trace_async_logging()
trace = mlflow.get_last_active_trace_id()
try:
    mlflow.log_feedback(trace_id=trace, name="right", value=True, rationale="it is so")
except Exception as error:  # a file store of some releases keeps none
    print("no feedback:", error)
