"""Runs searched: the filter's grammar, orders, pages, views."""

from __future__ import annotations

from typing import Any

from tests.wire.mlflow.differential.cases import Case, post
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT, run


def _search() -> list[Case]:
    runs = []
    for n in range(6):
        runs.append(run(f"run{n}", start_time=1000 + n * 10, user_id="ana" if n % 2 else "bo"))
        batch: dict[str, Any] = {
            "run_id": f"<<run{n}>>",
            "params": [{"key": "lr", "value": str(n / 10)}, {"key": "net", "value": f"N{n % 3}"}],
            "tags": [{"key": "team", "value": "ab"[n % 2]}, {"key": "sp ace", "value": "x"}],
        }
        batch["metrics"] = [{"key": "acc", "value": [0.5, 0.9, "NaN", 0.1, "Infinity", -1][n], "timestamp": 1, "step": 0}]
        if n != 3:
            batch["metrics"].append({"key": "loss/val", "value": n, "timestamp": 1, "step": 0})
        runs.append(post("runs/log-batch", batch))
        if n < 4:
            runs.append(
                post(
                    "runs/update",
                    {"run_id": f"<<run{n}>>", "status": ["FINISHED", "FAILED", "KILLED", "SCHEDULED"][n], "end_time": 2000 - n},
                )
            )
    filters = [
        "metrics.acc > 0.4",
        "metrics.acc >= 0.9",
        "metrics.acc < 0",
        "metrics.acc != 0.5",
        "metrics.acc = 0.1",
        "metric.acc > 0.4",
        "metrics.`loss/val` <= 2",
        'metrics."loss/val" > 3',
        "metrics.acc > '0.4'",
        "metrics.acc LIKE '1'",
        "metrics.none > 0",
        "metrics.acc = nan",
        "metrics.acc > -2 and metrics.acc < 0.2",
        "params.lr = '0.1'",
        "params.lr = 0.1",
        "params.net LIKE 'N%'",
        "params.net ILIKE 'n1'",
        "params.net != 'N1'",
        "params.net IN ('N0', 'N2')",
        "params.net NOT IN ('N0')",
        "params.net > 'N0'",
        'param.lr = "0.2"',
        "parameters.lr = '0.3'",
        "tags.team = 'a'",
        "tag.team != 'a'",
        "tags.`sp ace` = 'x'",
        "tags.\"sp ace\" = 'x'",
        "tags.team LIKE '%'",
        "tags.none = '1'",
        "tags.none IS NULL",
        "tags.team IS NOT NULL",
        "params.lr IS NULL",
        "attributes.status = 'FINISHED'",
        "attribute.status != 'RUNNING'",
        "status = 'FAILED'",
        "status LIKE 'F%'",
        "status IN ('FAILED', 'KILLED')",
        "attributes.run_name = 'run3'",
        "attributes.`run name` = 'run3'",
        "run_name LIKE 'run%'",
        "run_name ILIKE 'RUN1'",
        "attributes.run_id = '<<run2>>'",
        "run_id IN ('<<run2>>', '<<run4>>')",
        "run_id NOT IN ('<<run2>>')",
        "attributes.start_time > 1020",
        "start_time = 1030",
        "start_time >= '1030'",
        "attributes.end_time < 1999",
        "attributes.created > 1020",
        "attributes.user_id = 'ana'",
        "attributes.artifact_uri LIKE '%art%'",
        "attributes.nothing = 'x'",
        "attributes.start_time LIKE '1'",
        "",
        "  ",
        "garbage",
        "metrics.acc >",
        "metrics.acc > 0.1 or metrics.acc < 0",
        "acc > 0.1",
        "metrics.acc > 0.4 AND params.net = 'N0' AND tags.team = 'a'",
        "metrics.acc>0.4 and status='FINISHED'",
        "params.`lr` = '0.1' AND",
        "(metrics.acc > 0.1)",
        "metrics.acc > 1e-1",
        "metrics.acc > .4",
        "metrics.acc BETWEEN 0 AND 1",
        "tags.team = 'a''b'",
        "tags.team = 'it\\'s'",
        "tags.mlflow.runName = 'run1'",
        "tags.mlflow.user = 'ana'",
        "params.lr = ''",
        "metrics.acc > 0.4; drop table runs",
        "params.net = 'N1' -- comment",
        "not params.net = 'N1'",
        "model.name = 'x'",
        "dataset.nothing = 'x'",
        "inputs.name = 'x'",
        "metrics = 5",
        "metrics. = 5",
        "tags.'team' = 'a'",
    ]
    orders = [
        ["metrics.acc"],
        ["metrics.acc DESC"],
        ["metrics.acc ASC", "start_time"],
        ["params.lr DESC"],
        ["params.none", "attributes.start_time DESC"],
        ["tags.team", "start_time ASC"],
        ["attributes.run_name DESC"],
        ["start_time"],
        ["attributes.status", "run_name"],
        ["metrics.`loss/val`"],
        ["metrics.`loss/val` DESC"],
        ["end_time DESC", "start_time"],
        ["end_time"],
        ["nothing"],
        ["metrics.acc sideways"],
        ["metrics"],
        [""],
        ["attributes.nothing"],
        ["start_time", "start_time"],
        ["metrics.acc desc, start_time"],
        ["created"],
        ["attributes.end_time"],
        ["attributes.user_id", "start_time"],
    ]
    here: dict[str, Any] = {"experiment_ids": ["<<exp>>"]}
    return [
        Case(
            "search/runs",
            [
                EXPERIMENT,
                *runs,
                *[post("runs/search", here | {"filter": text, "order_by": ["start_time"]}) for text in filters],
                *[post("runs/search", here | {"order_by": order}) for order in orders],
                post("runs/search", here | {"max_results": 4}, page="next_page_token"),
                post("runs/search", here | {"max_results": 4, "page_token": "<<page>>"}),
                post("runs/search", here | {"max_results": 6}),
                post("runs/search", here | {"max_results": 4, "page_token": "junk"}),
                post("runs/search", here | {"max_results": 2, "order_by": ["metrics.acc DESC"]}, page="next_page_token"),
                post(
                    "runs/search",
                    here | {"max_results": 2, "order_by": ["metrics.acc DESC"], "page_token": "<<page>>"},
                    page="next_page_token",
                ),
                post("runs/search", here | {"max_results": 2, "order_by": ["metrics.acc DESC"], "page_token": "<<page>>"}),
                *[post("runs/search", here | {"max_results": size}) for size in (0, -1, 50000, 50001, "2", "x")],
                post("runs/delete", {"run_id": "<<run1>>"}),
                *[
                    post("runs/search", here | {"run_view_type": view, "order_by": ["start_time"]})
                    for view in ("ACTIVE_ONLY", "DELETED_ONLY", "ALL", "NONE", 3)
                ],
                post("runs/search", {"experiment_ids": []}),
                post("runs/search", {"experiment_ids": ["99999999"]}),
                post("runs/search", {"experiment_ids": ["abc"]}),
                post("runs/search", {"experiment_ids": "<<exp>>"}),
                post("runs/search", {"experimentIds": ["<<exp>>"], "maxResults": 1, "orderBy": ["start_time"]}),
                post("/ajax-api/2.0/mlflow/runs/search", here | {"max_results": 1}),
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_search()]
