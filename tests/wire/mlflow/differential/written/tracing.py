"""Traces and assessments."""

from __future__ import annotations

from tests.wire.mlflow.differential.cases import Case, Step, delete, get, patch, post
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT, RUN, trace_info


def _traces() -> list[Case]:
    one, two, three = ("tr-" + digit * 32 for digit in "123")
    where = {"locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "<<exp>>"}}]}
    filters = [
        "",
        "status = 'OK'",
        "trace.status = 'ERROR'",
        "tags.team = 'a'",
        "tag.team != 'a'",
        "name = 'predict'",
        "trace.name LIKE 'pre%'",
        "metadata.k = 'v'",
        "request_metadata.k = 'w'",
        "timestamp_ms > 0",
        "timestamp > 1714557600000",
        "execution_time_ms > 1000",
        "execution_time < 10",
        "run_id = 'x'",
        "garbage",
        "nothing = 'x'",
        "tags.team IN ('a', 'b')",
        "status IN ('OK')",
        "trace_id = '" + one + "'",
        "feedback.x = 'y'",
        "span.name = 'x'",
        "prompt = 'a/1'",
        "tags.team IS NULL",
        "name = 'predict' or name = 'x'",
        "client_request_id = 'c1'",
        "trace.text LIKE '%x%'",
    ]
    orders = [
        ["timestamp_ms"],
        ["timestamp_ms DESC"],
        ["execution_time DESC"],
        ["name", "timestamp"],
        ["status"],
        ["nothing"],
        ["tags.team"],
        ["timestamp sideways"],
    ]
    v3 = "3:traces"
    return [
        Case(
            "traces/life",
            [
                EXPERIMENT,
                RUN,
                post(v3, trace_info(one)),
                post(
                    v3,
                    trace_info(
                        two,
                        state="ERROR",
                        request_time="2024-05-01T10:00:01Z",
                        execution_duration="0.002s",
                        tags={"team": "b", "mlflow.traceName": "other"},
                        trace_metadata={"k": "w"},
                    ),
                ),
                post(
                    v3,
                    trace_info(
                        three, state="IN_PROGRESS", request_time="2024-05-01T10:00:02Z", execution_duration=None, client_request_id="c1"
                    ),
                ),
                post(v3, trace_info(one, state="ERROR")),
                post(v3, {}),
                post(
                    v3,
                    trace_info(
                        "tr-" + "9" * 32, trace_location={"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "99999999"}}
                    ),
                ),
                get(f"{v3}/{one}"),
                get(f"{v3}/tr-" + "0" * 32),
                get(f"{v3}/get", trace_id=one),
                get("3:traces/batchGet", trace_ids=[one, two]),
                post("3:traces/batchGetInfos", {"trace_ids": [one, three]}),
                get(f"traces/{one}/info"),
                *[post(v3 + "/search", where | {"filter": text, "order_by": ["timestamp_ms"]}) for text in filters],
                *[post(v3 + "/search", where | {"order_by": order}) for order in orders],
                post(v3 + "/search", where | {"max_results": 2, "order_by": ["timestamp_ms"]}, page="next_page_token"),
                post(v3 + "/search", where | {"max_results": 2, "order_by": ["timestamp_ms"], "page_token": "<<page>>"}),
                *[post(v3 + "/search", where | {"max_results": size}) for size in (0, 500, 501, -1)],
                post(v3 + "/search", {}),
                post(v3 + "/search", where | {"page_token": "junk"}),
                patch(f"{v3}/{one}/tags", {"key": "new", "value": "1"}),
                patch(f"{v3}/{one}/tags", {"key": "", "value": "1"}),
                patch(f"{v3}/tr-" + "0" * 32 + "/tags", {"key": "new", "value": "1"}),
                patch(f"traces/{one}/tags", {"key": "old", "value": "2"}),
                Step("DELETE", f"/api/3.0/mlflow/traces/{one}/tags", query=[("key", "new")]),
                delete(f"{v3}/{one}/tags", {"key": "old"}),
                delete(f"{v3}/{one}/tags", {"key": "old"}),
                get(f"{v3}/{one}"),
                post("traces/link-to-run", {"trace_ids": [one], "run_id": "<<run>>"}),
                post(v3 + "/search", where | {"filter": "run_id = '<<run>>'"}),
                get("traces", experiment_ids=["<<exp>>"], order_by=["timestamp_ms"]),
                get("traces", experiment_ids=["<<exp>>"], filter="status = 'OK'"),
                get("traces"),
                post("traces/delete-traces", {"experiment_id": "<<exp>>", "request_ids": [two]}),
                post(v3 + "/delete-traces", {"experiment_id": "<<exp>>", "max_timestamp_millis": 1, "max_traces": 5}),
                post(v3 + "/delete-traces", {"experiment_id": "<<exp>>"}),
                post("traces/delete-traces", {"experiment_id": "<<exp>>", "max_timestamp_millis": 2_000_000_000_000}),
                post(v3 + "/search", where),
            ],
        ),
        Case(
            "traces/old",
            [
                EXPERIMENT,
                post(
                    "traces",
                    {
                        "experiment_id": "<<exp>>",
                        "timestamp_ms": 1000,
                        "request_metadata": [{"key": "a", "value": "b"}],
                        "tags": [{"key": "t", "value": "1"}],
                    },
                    trace="trace_info.request_id",
                ),
                get("traces/<<trace>>/info"),
                patch(
                    "traces/<<trace>>",
                    {
                        "request_id": "<<trace>>",
                        "timestamp_ms": 1500,
                        "status": "OK",
                        "request_metadata": [{"key": "c", "value": "d"}],
                        "tags": [{"key": "u", "value": "2"}],
                    },
                ),
                get("traces/<<trace>>/info"),
                get("traces", experiment_ids=["<<exp>>"]),
                post("traces", {}),
                patch("traces/none", {"timestamp_ms": 1, "status": "OK"}),
            ],
        ),
        Case(
            "traces/assessments",
            [
                EXPERIMENT,
                post(v3, trace_info("tr-" + "4" * 32)),
                post(
                    f"3:traces/tr-{'4' * 32}/assessments",
                    {
                        "assessment": {
                            "assessment_name": "good",
                            "trace_id": "tr-" + "4" * 32,
                            "source": {"source_type": "HUMAN", "source_id": "ana"},
                            "feedback": {"value": True},
                            "rationale": "since",
                            "create_time": "2024-05-01T10:00:00Z",
                            "last_update_time": "2024-05-01T10:00:00Z",
                        }
                    },
                    assessment="assessment.assessment_id",
                ),
                get(f"3:traces/tr-{'4' * 32}/assessments/<<assessment>>"),
                patch(
                    f"3:traces/tr-{'4' * 32}/assessments/<<assessment>>",
                    {
                        "assessment": {"trace_id": "tr-" + "4" * 32, "assessment_id": "<<assessment>>", "feedback": {"value": False}},
                        "update_mask": "feedback",
                    },
                ),
                get(f"{v3}/tr-{'4' * 32}"),
                get(f"3:traces/tr-{'4' * 32}/assessments/none"),
                post(
                    f"3:traces/tr-{'0' * 32}/assessments",
                    {
                        "assessment": {
                            "assessment_name": "good",
                            "trace_id": "tr-" + "0" * 32,
                            "source": {"source_type": "HUMAN"},
                            "feedback": {"value": 1},
                        }
                    },
                ),
                delete(f"3:traces/tr-{'4' * 32}/assessments/<<assessment>>"),
                get(f"3:traces/tr-{'4' * 32}/assessments/<<assessment>>"),
            ],
        ),
        Case(
            "traces/otlp",
            [
                EXPERIMENT,
                Step(
                    "POST", "/v1/traces", size=10, headers={"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "<<exp>>"}
                ),
                Step("POST", "/v1/traces", size=0, headers={"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "<<exp>>"}),
                Step("POST", "/v1/traces", size=0, headers={"Content-Type": "application/x-protobuf"}),
                Step("POST", "/v1/traces", json={}, headers={"x-mlflow-experiment-id": "<<exp>>"}),
                Step("GET", "/v1/traces"),
            ],
        ),
    ]


def _rest() -> list[Case]:
    one = "tr-" + "5" * 32
    return [
        Case(
            "traces/rest",
            [
                EXPERIMENT,
                post("3:traces", trace_info(one)),
                post("traces/link-prompts", {"trace_id": one, "prompt_versions": [{"name": "p", "version": "1"}]}),
                post("traces/link-prompts", {}),
                patch(f"traces/{one}/tags", {"key": "old", "value": "2"}),
                delete(f"traces/{one}/tags", {"key": "old"}),
                delete(f"traces/{one}/tags", {"key": "old"}),
                get(f"3:traces/{one}"),
                post(
                    "3:traces/metrics",
                    {
                        "experiment_ids": ["<<exp>>"],
                        "view_type": "TRACES",
                        "metric_name": "trace_count",
                        "aggregations": [{"aggregation_type": "COUNT"}],
                    },
                ),
                post("3:traces/metrics", {}),
                post(
                    "3:traces/calculate-filter-correlation",
                    {"experiment_ids": ["<<exp>>"], "filter_string1": "tags.team = 'a'", "filter_string2": "status = 'OK'"},
                ),
                post("3:traces/calculate-filter-correlation", {}),
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_traces(), *_rest()]
