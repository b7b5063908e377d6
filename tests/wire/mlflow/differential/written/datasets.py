"""Evaluation datasets."""

from __future__ import annotations

import json

from tests.wire.mlflow.differential.cases import Case, delete, get, patch, post
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT

NONE = "d-" + "0" * 32


def _datasets() -> list[Case]:
    sets, one = "3:datasets", "3:datasets/<<set>>"
    records = [{"inputs": {"q": "why"}, "expectations": {"a": "so"}, "tags": {"t": "1"}}, {"inputs": {"q": "how"}}]
    return [
        Case(
            "datasets/life",
            [
                EXPERIMENT,
                post("experiments/create", {"name": "<<case>> b"}, exp2="experiment_id"),
                post(
                    sets + "/create",
                    {"name": "<<case>>", "experiment_ids": ["<<exp>>"], "tags": json.dumps({"team": "a"})},
                    set="dataset.dataset_id",
                ),
                post(sets + "/create", {}),
                get(one),
                get(f"{sets}/{NONE}"),
                post(one + "/records", {"dataset_id": "<<set>>", "records": json.dumps(records)}),
                post(one + "/records", {"dataset_id": "<<set>>", "records": json.dumps(records)}),
                post(one + "/records", {"dataset_id": "<<set>>", "records": "junk"}),
                post(one + "/records", {"dataset_id": "<<set>>"}),
                get(one + "/records", max_results=10),
                delete(one + "/records", {"dataset_id": "<<set>>", "dataset_record_ids": ["dr-" + "0" * 32]}),
                get(one),
                patch(one + "/tags", {"dataset_id": "<<set>>", "tags": json.dumps({"team": "b", "more": "1"})}),
                patch(one + "/tags", {}),
                delete(one + "/tags/more"),
                delete(one + "/tags/more"),
                get(one),
                get(one + "/experiment-ids"),
                post(one + "/add-experiments", {"dataset_id": "<<set>>", "experiment_ids": ["<<exp2>>"]}),
                get(one + "/experiment-ids"),
                post(one + "/remove-experiments", {"dataset_id": "<<set>>", "experiment_ids": ["<<exp>>"]}),
                get(one + "/experiment-ids"),
                *[
                    post(sets + "/search", {"experiment_ids": ["<<exp2>>"]} | more)
                    for more in (
                        {},
                        {"filter_string": "name = '<<case>>'"},
                        {"filter_string": "tags.team = 'b'"},
                        {"filter_string": "tags.team = 'a'"},
                        {"filter_string": "garbage"},
                        {"order_by": ["name"]},
                        {"max_results": 1},
                    )
                ],
                get(sets + "/search", experiment_ids=["<<exp2>>"]),
                delete(one),
                get(one),
                delete(one),
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_datasets()]
