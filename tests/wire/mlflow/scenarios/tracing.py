"""Spans by hand and by decorator, found again, tagged, judged and deleted."""

import json

import mlflow
from mlflow import MlflowClient

experiment = mlflow.set_experiment("traced")


@mlflow.trace(span_type="RETRIEVER", attributes={"k": 2})
def retrieve(question: str) -> list[str]:
    return [question.upper(), "more"]


with mlflow.start_run(run_name="asked") as run, mlflow.start_span("answer") as span:
    span.set_inputs({"question": "why"})
    span.set_attribute("model", "none")
    found = retrieve("why")
    span.add_event(mlflow.entities.SpanEvent("thought", attributes={"n": 1}))
    span.set_outputs({"answer": found[0]})
    mlflow.update_current_trace(tags={"team": "blue"})
first = mlflow.get_last_active_trace_id()
try:
    with mlflow.start_span("breaks"):
        raise ValueError("on purpose")
except ValueError:
    pass
second = mlflow.get_last_active_trace_id()
mlflow.flush_trace_async_logging()
mlflow.set_trace_tag(first, "late", "yes")
mlflow.log_feedback(trace_id=first, name="good", value=True, rationale="it is", source=mlflow.entities.AssessmentSource("HUMAN", "ana"))
trace = mlflow.get_trace(first)
where = [experiment.experiment_id]


def find(text: str | None, **more: int) -> list[str]:
    return [one.info.trace_id for one in mlflow.search_traces(locations=where, filter_string=text, return_type="list", **more)]


answers = {
    "first": first,
    "second": second,
    "run": run.info.run_id,
    "spans": [[one.name, one.span_type, one.parent_id is None, one.inputs, one.outputs] for one in trace.data.spans],
    "events": [event.name for one in trace.data.spans for event in one.events],
    "tags": {name: trace.info.tags.get(name) for name in ("team", "late")},
    "state": str(trace.info.state.value),
    "assessments": [[one.name, one.value, one.rationale] for one in trace.info.assessments],
    "all": find(None),
    "ok": find("trace.status = 'OK'"),
    "broken": find("trace.status = 'ERROR'"),
    "tagged": find("tags.team = 'blue'"),
    "named": find("trace.name = 'breaks'"),
    "paged": find(None, max_results=1),
    "of_run": [one.info.trace_id for one in mlflow.search_traces(locations=where, run_id=run.info.run_id, return_type="list")],
    "frame": len(mlflow.search_traces(locations=where)),
}
answers["deleted"] = MlflowClient().delete_traces(experiment.experiment_id, trace_ids=[second])
answers["left"] = find(None)
print(json.dumps(answers))
