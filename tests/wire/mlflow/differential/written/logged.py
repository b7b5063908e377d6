"""Logged models."""

from __future__ import annotations

from typing import Any

from tests.wire.mlflow.differential.cases import Case, delete, get, patch, post
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT, MODEL, RUN, version


def _logged() -> list[Case]:
    here = {"experiment_id": "<<exp>>", "name": "lm"}
    logged = post(
        "logged-models",
        here
        | {"source_run_id": "<<run>>", "model_type": "Agent", "params": [{"key": "a", "value": "1"}], "tags": [{"key": "t", "value": "1"}]},
        model="model.info.model_id",
    )
    searches: list[dict[str, Any]] = [
        {},
        {"filter": "name = 'lm'"},
        {"filter": "name LIKE 'l%'"},
        {"filter": "metrics.acc > 0.5"},
        {"filter": "metrics.acc > 0.95"},
        {"filter": "params.a = '1'"},
        {"filter": "tags.t = '1'"},
        {"filter": "attributes.name = 'none'"},
        {"filter": "source_run_id = '<<run>>'"},
        {"filter": "model_type = 'Agent'"},
        {"filter": "status = 'READY'"},
        {"filter": "garbage"},
        {"filter": "creation_timestamp > 0"},
        {"order_by": [{"field_name": "metrics.acc", "ascending": False}]},
        {"order_by": [{"field_name": "name"}]},
        {"order_by": [{"field_name": "nothing"}]},
        {"order_by": ["name"]},
        {"datasets": [{"dataset_name": "d"}], "filter": "metrics.acc > 0.5"},
        {"max_results": 1},
        {"max_results": 0},
        {"max_results": 51},
        {"page_token": "junk"},
        {"filter": "metrics.acc > 'x'"},
        {"filter": "model_id = '<<model>>'"},
    ]
    return [
        Case(
            "logged/life",
            [
                EXPERIMENT,
                RUN,
                logged,
                get("logged-models/<<model>>"),
                patch("logged-models/<<model>>", {"model_id": "<<model>>", "status": "LOGGED_MODEL_READY"}),
                patch("logged-models/<<model>>", {"status": "LOGGED_MODEL_UPLOAD_FAILED"}),
                patch("logged-models/<<model>>", {"status": "NOTHING"}),
                patch("logged-models/<<model>>", {}),
                patch("logged-models/<<model>>", {"status": "LOGGED_MODEL_READY"}),
                patch("logged-models/<<model>>/tags", {"tags": [{"key": "t", "value": "2"}, {"key": "u", "value": ""}]}),
                patch("logged-models/<<model>>/tags", {}),
                delete("logged-models/<<model>>/tags/u"),
                delete("logged-models/<<model>>/tags/u"),
                post("logged-models/<<model>>/params", {"params": [{"key": "b", "value": "2"}]}),
                post("logged-models/<<model>>/params", {"params": [{"key": "b", "value": "3"}]}),
                post("logged-models/<<model>>/params", {"params": [{"key": "c", "value": "x" * 7000}]}),
                post("runs/outputs", {"run_id": "<<run>>", "models": [{"model_id": "<<model>>", "step": 3}]}),
                post("runs/outputs", {"run_id": "<<run>>", "models": [{"model_id": "<<model>>", "step": 3}]}),
                post("runs/log-inputs", {"run_id": "<<run>>", "models": [{"model_id": "<<model>>"}]}),
                post(
                    "runs/log-metric",
                    {
                        "run_id": "<<run>>",
                        "key": "acc",
                        "value": 0.9,
                        "timestamp": 5,
                        "step": 1,
                        "model_id": "<<model>>",
                        "dataset_name": "d",
                        "dataset_digest": "abc",
                    },
                ),
                post(
                    "runs/log-batch",
                    {"run_id": "<<run>>", "metrics": [{"key": "f1", "value": 0.8, "timestamp": 5, "step": 1, "model_id": "<<model>>"}]},
                ),
                get("logged-models/<<model>>"),
                get("runs/get", run_id="<<run>>"),
                *[post("logged-models/search", {"experiment_ids": ["<<exp>>"]} | more) for more in searches],
                post("logged-models/search", {}),
                post("logged-models/search", {"experiment_ids": ["99999999"]}),
                version("<<case>>", source="models:/<<model>>"),
                MODEL,
                version(source="models:/<<model>>", model_id="<<model>>", run_id="<<run>>"),
                get("model-versions/get", name="<<case>>", version="1"),
                get("model-versions/get-download-uri", name="<<case>>", version="1"),
                get("logged-models/<<model>>"),
                get("logged-models/<<model>>/artifacts/directories"),
                post("runs/log-model", {"run_id": "<<run>>", "model_json": "{}"}),
                post(
                    "runs/log-model",
                    {
                        "run_id": "<<run>>",
                        "model_json": '{"run_id": "<<run>>", "artifact_path": "model", "utc_time_created": "2024-01-01 00:00:00",'
                        ' "flavors": {"python_function": {}}, "model_uuid": "a"}',
                    },
                ),
                get("runs/get", run_id="<<run>>"),
                delete("logged-models/<<model>>"),
                get("logged-models/<<model>>"),
                delete("logged-models/<<model>>"),
                post("logged-models/search", {"experiment_ids": ["<<exp>>"]}),
            ],
        ),
        Case(
            "logged/odd",
            [
                EXPERIMENT,
                RUN,
                post("logged-models", {"experiment_id": "<<exp>>"}),
                post("logged-models", {"name": "x"}),
                post("logged-models", {"experiment_id": "99999999", "name": "x"}),
                post("logged-models", here | {"source_run_id": "0" * 32}),
                *[post("logged-models", here | {"name": name}) for name in ("", "a/b", "a:b", "a.b", "x" * 501, "☃", 'a"b', "a%b")],
                post("logged-models", here | {"params": [{"key": "k", "value": "x" * 7000}]}),
                post("logged-models", here | {"params": [{"key": "k", "value": "1"}, {"key": "k", "value": "2"}]}),
                post("logged-models", here | {"tags": [{"key": "k", "value": "x" * 9000}]}),
                *[step for verb in (get, delete) for step in [verb("logged-models/m-" + "0" * 32)]],
                patch("logged-models/m-" + "0" * 32, {"status": "LOGGED_MODEL_READY"}),
                patch("logged-models/m-" + "0" * 32 + "/tags", {"tags": [{"key": "a", "value": "b"}]}),
                delete("logged-models/m-" + "0" * 32 + "/tags/a"),
                post("logged-models/m-" + "0" * 32 + "/params", {"params": [{"key": "a", "value": "b"}]}),
                post("runs/outputs", {"run_id": "<<run>>", "models": [{"model_id": "m-" + "0" * 32, "step": 0}]}),
                post("runs/outputs", {"run_id": "<<run>>"}),
                get("logged-models/m-" + "0" * 32 + "/artifacts/directories"),
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_logged()]
