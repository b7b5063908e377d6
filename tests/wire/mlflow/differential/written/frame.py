"""Bodies, content types, methods, and what is asked of the server itself."""

from __future__ import annotations

from tests.wire.mlflow.differential.cases import Case, Step, delete, get
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT


def _frame() -> list[Case]:
    def bare(method: str, path: str, text: str | None = None, **headers: str) -> Step:
        return Step(
            method, "/api/2.0/mlflow/" + path, text=text, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    bodies = [
        None,
        "",
        "{}",
        "null",
        "[]",
        "5",
        '"{}"',
        "{",
        "not json",
        '{"name": "<<case>>"',
        '{"name": "a", "name": "<<case>>-d"}',
        '"{\\"name\\": \\"<<case>>-q\\"}"',
        "\ufeff{}",
        '{"name": NaN}',
        "[" * 2000,
    ]
    return [
        Case("frame/bodies", [bare("POST", "experiments/create", body) for body in bodies]),
        Case(
            "frame/types",
            [
                bare("POST", "experiments/create", '{"name": "frame-types-1"}', Content_Type="text/plain"),
                bare("POST", "experiments/create", '{"name": "frame-types-2"}', Content_Type="application/json; charset=utf-8"),
                bare("POST", "experiments/create", '{"name": "frame-types-3"}', Content_Type="application/x-www-form-urlencoded"),
                bare("POST", "experiments/create", '{"name": "frame-types-4"}', Content_Type=""),
                bare("POST", "experiments/create", '{"name": "frame-types-5"}', Content_Type="application/vnd.api+json"),
            ],
        ),
        Case(
            "frame/methods",
            [
                bare("GET", "experiments/create"),
                bare("PUT", "experiments/create", "{}"),
                bare("DELETE", "experiments/get"),
                bare("POST", "experiments/get", "{}"),
                bare("GET", "nothing"),
                bare("POST", "nothing", "{}"),
                bare("GET", "runs/create"),
                bare("PATCH", "runs/create", "{}"),
                bare("GET", ""),
                Step("GET", "/api/4.0/mlflow/experiments/get"),
                Step("GET", "/api/2.0/mlflow/experiments/get/"),
                Step("POST", "/api/3.0/mlflow/runs/create", json={}),
            ],
        ),
        Case(
            "frame/server",
            [
                Step("GET", "/health"),
                Step("GET", "/version"),
                get("3:server-info"),
                Step("GET", "/ajax-api/3.0/mlflow/server-info"),
                Step("HEAD", "/health"),
            ],
        ),
        Case(
            "frame/queries",
            [
                EXPERIMENT,
                get("experiments/get", experiment_id="<<exp>>", unknown="1"),
                get("experiments/get", experiment_id=["<<exp>>", "0"]),
                get("experiments/get", experimentId="<<exp>>"),
                Step("GET", "/api/2.0/mlflow/experiments/get", json={"experiment_id": "<<exp>>"}),
                Step("GET", "/ajax-api/2.0/mlflow/experiments/get", query=[("experiment_id", "<<exp>>")]),
                Step("POST", "/api/2.0/mlflow/experiments/update", query=[("experiment_id", "<<exp>>"), ("new_name", "by-query")], json={}),
                delete("experiments/delete", {"experiment_id": "<<exp>>"}),
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_frame()]
