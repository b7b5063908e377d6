"""Experiments: their life, their names, their search."""

from __future__ import annotations

from tests.wire.mlflow.differential.cases import Case, get, post
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT, RUN, run


def _experiments() -> list[Case]:
    full = {
        "name": "<<case>>",
        "artifact_location": "s3://bucket/there",
        "tags": [{"key": "team", "value": "a"}, {"key": "u", "value": "✓"}],
    }
    return [
        Case(
            "experiments/life",
            [
                post("experiments/create", full, exp="experiment_id"),
                get("experiments/get", experiment_id="<<exp>>"),
                get("experiments/get-by-name", experiment_name="<<case>>"),
                post("experiments/create", {"name": "<<case>>"}),
                post("experiments/update", {"experiment_id": "<<exp>>", "new_name": "<<case>>-2"}),
                get("experiments/get", experiment_id="<<exp>>"),
                post("experiments/set-experiment-tag", {"experiment_id": "<<exp>>", "key": "team", "value": "b"}),
                post("experiments/set-experiment-tag", {"experiment_id": "<<exp>>", "key": "more", "value": ""}),
                post("experiments/delete-experiment-tag", {"experiment_id": "<<exp>>", "key": "u"}),
                post("experiments/delete-experiment-tag", {"experiment_id": "<<exp>>", "key": "u"}),
                get("experiments/get", experiment_id="<<exp>>"),
                post("experiments/delete", {"experiment_id": "<<exp>>"}),
                get("experiments/get", experiment_id="<<exp>>"),
                get("experiments/get-by-name", experiment_name="<<case>>-2"),
                post("experiments/create", {"name": "<<case>>-2"}),
                post("experiments/delete", {"experiment_id": "<<exp>>"}),
                post("experiments/update", {"experiment_id": "<<exp>>", "new_name": "<<case>>-3"}),
                post("experiments/set-experiment-tag", {"experiment_id": "<<exp>>", "key": "k", "value": "v"}),
                post("runs/create", {"experiment_id": "<<exp>>"}),
                post("experiments/restore", {"experiment_id": "<<exp>>"}),
                post("experiments/restore", {"experiment_id": "<<exp>>"}),
                get("experiments/get", experiment_id="<<exp>>"),
            ],
        ),
        Case(
            "experiments/missing",
            [
                get("experiments/get-by-name", experiment_name="<<case>> none"),
                get("experiments/get", experiment_id="99999999"),
                get("experiments/get", experiment_id="abc"),
                get("experiments/get"),
                get("experiments/get-by-name"),
                post("experiments/delete", {"experiment_id": "99999999"}),
                post("experiments/restore", {"experiment_id": "99999999"}),
                post("experiments/update", {"experiment_id": "99999999", "new_name": "x"}),
                post("experiments/update", {"experiment_id": "0"}),
                post("experiments/set-experiment-tag", {"experiment_id": "99999999", "key": "k", "value": "v"}),
                post("runs/create", {"experiment_id": "99999999"}),
                post("runs/create", {"experiment_id": "abc"}),
            ],
        ),
        Case("experiments/default", [get("experiments/get", experiment_id="0"), get("experiments/get-by-name", experiment_name="Default")]),
        Case(
            "experiments/taken-name",
            [
                EXPERIMENT,
                post("experiments/create", {"name": "<<case>> b"}, exp2="experiment_id"),
                post("experiments/update", {"experiment_id": "<<exp2>>", "new_name": "<<case>>"}),
                get("experiments/get", experiment_id="<<exp2>>"),
            ],
        ),
        Case(
            "experiments/odd-names",
            [
                post("experiments/create", {"name": name})
                for name in (
                    " <<case>> ",
                    "<<case>> " + "x" * 490,
                    "<<case>> " + "x" * 600,
                    "<<case>>\n2",
                    "<<case>> ☃ 雪",
                    "<<case>>/../b",
                    "<<case>>#?%",
                )
            ],
        ),
        Case(
            "experiments/odd-locations",
            [
                post("experiments/create", {"name": f"<<case>> {number}", "artifact_location": location})
                for number, location in enumerate(
                    ("", "s3://b/a?x=1", "mlflow-artifacts:/a/../b", "mlflow-artifacts:/x#y", "file:///tmp/../etc")
                )
            ],
        ),
        Case(
            "experiments/deletes-runs",
            [
                EXPERIMENT,
                RUN,
                run("second", start_time=2000),
                post("runs/delete", {"run_id": "<<second>>"}),
                post("experiments/delete", {"experiment_id": "<<exp>>"}),
                get("runs/get", run_id="<<run>>"),
                post("runs/log-metric", {"run_id": "<<run>>", "key": "a", "value": 1, "timestamp": 1}),
                post("runs/search", {"experiment_ids": ["<<exp>>"], "run_view_type": "ALL"}),
                post("experiments/restore", {"experiment_id": "<<exp>>"}),
                post("runs/search", {"experiment_ids": ["<<exp>>"], "order_by": ["attributes.run_name"]}),
                post("runs/search", {"experiment_ids": ["<<exp>>"], "order_by": ["attributes.run_name"], "run_view_type": "DELETED_ONLY"}),
            ],
        ),
    ]


def _experiment_search() -> list[Case]:
    made = [
        post(
            "experiments/create",
            {"name": f"Find-{n}", "tags": [{"key": "n", "value": str(n)}, {"key": "find", "value": "yes"}]},
            **{f"exp{n}": "experiment_id"},
        )
        for n in range(5)
    ]
    only = "tags.find = 'yes'"
    filters = [
        "name = 'Find-1'",
        "name LIKE 'Find-%'",
        "name ILIKE 'find-%'",
        "attribute.name LIKE '%nd-3'",
        "tags.n = '2'",
        "tags.n != '2' AND tags.find = 'yes'",
        "tags.`n` = '3'",
        "creation_time > 0 AND name LIKE 'Find%'",
        "last_update_time < 5 AND name LIKE 'Find%'",
        "experiment_id = '<<exp2>>'",
        "name IN ('Find-1', 'Find-2')",
        "name = 5",
        "nme = 'x'",
        "tags.n > '2'",
        "name LIKE",
        "name = 'a' OR name = 'b'",
        "tags.n = 2",
        "garbage",
        "name = 'Find-1' AND",
        "name != 'Find-1' AND tags.find = 'yes'",
        "tags.n LIKE '%' AND name ILIKE 'FIND-4'",
    ]
    orders = [
        ["name"],
        ["name DESC"],
        ["creation_time ASC"],
        ["last_update_time DESC", "name"],
        ["experiment_id"],
        ["nothing"],
        ["name SIDEWAYS"],
        ["tags.n"],
    ]
    return [
        Case(
            "experiments/search",
            [
                *made,
                post("experiments/delete", {"experiment_id": "<<exp4>>"}),
                *[
                    post("experiments/search", {"max_results": 50, "filter": text, "view_type": "ALL", "order_by": ["name"]})
                    for text in filters
                ],
                *[post("experiments/search", {"max_results": 50, "filter": only, "order_by": order}) for order in orders],
                *[
                    post("experiments/search", {"max_results": 50, "filter": only, "view_type": view})
                    for view in ("ACTIVE_ONLY", "DELETED_ONLY", "ALL", "SOME", 2)
                ],
                *[post("experiments/search", {"filter": only, "max_results": size}) for size in (0, -1, 50001, "7")],
                post("experiments/search", {"filter": only}),
                get("experiments/search", filter=only, max_results=2, order_by=["name"], view_type="ALL"),
                post(
                    "experiments/search",
                    {"filter": only, "max_results": 2, "order_by": ["name"], "view_type": "ALL"},
                    page="next_page_token",
                ),
                post(
                    "experiments/search",
                    {"filter": only, "max_results": 2, "order_by": ["name"], "view_type": "ALL", "page_token": "<<page>>"},
                    page="next_page_token",
                ),
                post(
                    "experiments/search",
                    {"filter": only, "max_results": 2, "order_by": ["name"], "view_type": "ALL", "page_token": "<<page>>"},
                ),
                post("experiments/search", {"filter": only, "max_results": 2, "page_token": "no token"}),
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_experiments(), *_experiment_search()]
