"""Cases made from a table of endpoints: each message spoiled in each way, and random sequences of messages that mostly make sense.

Nothing is drawn from the clock or the machine: the same cases each time.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from tests.wire.mlflow.differential.cases import Case, Step, get, post
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT, MODEL, RUN, run, trace_info, version


class Endpoint(NamedTuple):
    """A request that is taken. ``message`` is the query of a GET, else the JSON body."""

    method: str
    path: str
    message: dict[str, Any]

    def step(self, message: Any = None, **bind: str) -> Step:
        """As a request, with another message if given."""
        said = self.message if message is None else message
        if self.method == "GET":
            return msgspec.structs.replace(get(self.path, **said), bind=bind)
        return msgspec.structs.replace(post(self.path, said, **bind), method=self.method)


TRACE = "tr-<<mark>>"
WORLD = [
    EXPERIMENT,
    RUN,
    post(
        "runs/log-batch",
        {
            "run_id": "<<run>>",
            "metrics": [{"key": "m", "value": 1, "timestamp": 1}],
            "params": [{"key": "p", "value": "1"}],
            "tags": [{"key": "t", "value": "1"}],
        },
    ),
    run("gone"),
    post("runs/delete", {"run_id": "<<gone>>"}),
    MODEL,
    version(),
    post("registered-models/alias", {"name": "<<case>>", "alias": "champion", "version": "1"}),
    post("logged-models", {"experiment_id": "<<exp>>", "name": "lm"}, model="model.info.model_id"),
]
"""What each case of spoiled messages begins with."""

TAG = {"key": "k", "value": "v"}
ENDPOINTS = [
    Endpoint("POST", "experiments/create", {"name": "<<case>> new", "artifact_location": "s3://b/x", "tags": [TAG]}),
    Endpoint("GET", "experiments/get", {"experiment_id": "<<exp>>"}),
    Endpoint("GET", "experiments/get-by-name", {"experiment_name": "<<case>>"}),
    Endpoint(
        "POST", "experiments/search", {"filter": "name = '<<case>>'", "max_results": 10, "order_by": ["name"], "view_type": "ACTIVE_ONLY"}
    ),
    Endpoint("POST", "experiments/update", {"experiment_id": "<<exp>>", "new_name": "<<case>> renamed"}),
    Endpoint("POST", "experiments/set-experiment-tag", {"experiment_id": "<<exp>>", **TAG}),
    Endpoint("POST", "experiments/delete-experiment-tag", {"experiment_id": "<<exp>>", "key": "k"}),
    Endpoint("POST", "experiments/delete", {"experiment_id": "<<exp>>"}),
    Endpoint("POST", "experiments/restore", {"experiment_id": "<<exp>>"}),
    Endpoint("POST", "runs/create", {"experiment_id": "<<exp>>", "run_name": "n", "start_time": 5, "user_id": "ana", "tags": [TAG]}),
    Endpoint("GET", "runs/get", {"run_id": "<<run>>"}),
    Endpoint("POST", "runs/update", {"run_id": "<<run>>", "status": "FINISHED", "end_time": 9, "run_name": "r"}),
    Endpoint("POST", "runs/log-metric", {"run_id": "<<run>>", "key": "k", "value": 1.5, "timestamp": 3, "step": 4}),
    Endpoint("POST", "runs/log-parameter", {"run_id": "<<run>>", **TAG}),
    Endpoint("POST", "runs/set-tag", {"run_id": "<<run>>", **TAG}),
    Endpoint("POST", "runs/delete-tag", {"run_id": "<<run>>", "key": "t"}),
    Endpoint(
        "POST",
        "runs/log-batch",
        {
            "run_id": "<<run>>",
            "metrics": [{"key": "b", "value": 1.5, "timestamp": 3, "step": 4}],
            "params": [{"key": "pb", "value": "v"}],
            "tags": [TAG],
        },
    ),
    Endpoint(
        "POST",
        "runs/log-inputs",
        {
            "run_id": "<<run>>",
            "datasets": [{"tags": [TAG], "dataset": {"name": "d", "digest": "g", "source_type": "local", "source": "s"}}],
        },
    ),
    Endpoint("POST", "runs/outputs", {"run_id": "<<run>>", "models": [{"model_id": "<<model>>", "step": 1}]}),
    Endpoint(
        "POST",
        "runs/search",
        {
            "experiment_ids": ["<<exp>>"],
            "filter": "params.p = '1'",
            "run_view_type": "ALL",
            "max_results": 5,
            "order_by": ["metrics.m DESC"],
        },
    ),
    Endpoint("GET", "metrics/get-history", {"run_id": "<<run>>", "metric_key": "m", "max_results": 5}),
    Endpoint("GET", "metrics/get-history-bulk-interval", {"run_ids": ["<<run>>"], "metric_key": "m", "max_results": 5}),
    Endpoint("GET", "artifacts/list", {"run_id": "<<run>>", "path": "a"}),
    Endpoint("POST", "runs/delete", {"run_id": "<<run>>"}),
    Endpoint("POST", "runs/restore", {"run_id": "<<run>>"}),
    Endpoint("POST", "registered-models/create", {"name": "<<case>> new", "description": "d", "tags": [TAG]}),
    Endpoint("GET", "registered-models/get", {"name": "<<case>>"}),
    Endpoint("PATCH", "registered-models/update", {"name": "<<case>>", "description": "d"}),
    Endpoint("GET", "registered-models/search", {"filter": "name = '<<case>>'", "max_results": 10, "order_by": ["name"]}),
    Endpoint("POST", "registered-models/get-latest-versions", {"name": "<<case>>", "stages": ["None"]}),
    Endpoint("POST", "registered-models/set-tag", {"name": "<<case>>", **TAG}),
    Endpoint("DELETE", "registered-models/delete-tag", {"name": "<<case>>", "key": "k"}),
    Endpoint("POST", "registered-models/alias", {"name": "<<case>>", "alias": "a", "version": "1"}),
    Endpoint("GET", "registered-models/alias", {"name": "<<case>>", "alias": "champion"}),
    Endpoint("DELETE", "registered-models/alias", {"name": "<<case>>", "alias": "a"}),
    Endpoint(
        "POST",
        "model-versions/create",
        {"name": "<<case>>", "source": "s3://b/m", "run_id": "<<run>>", "description": "d", "tags": [TAG], "run_link": "http://x/y"},
    ),
    Endpoint("GET", "model-versions/get", {"name": "<<case>>", "version": "1"}),
    Endpoint("GET", "model-versions/get-download-uri", {"name": "<<case>>", "version": "1"}),
    Endpoint("PATCH", "model-versions/update", {"name": "<<case>>", "version": "1", "description": "d"}),
    Endpoint("GET", "model-versions/search", {"filter": "name = '<<case>>'", "max_results": 10, "order_by": ["version_number"]}),
    Endpoint("POST", "model-versions/set-tag", {"name": "<<case>>", "version": "1", **TAG}),
    Endpoint("DELETE", "model-versions/delete-tag", {"name": "<<case>>", "version": "1", "key": "k"}),
    Endpoint(
        "POST",
        "model-versions/transition-stage",
        {"name": "<<case>>", "version": "1", "stage": "Staging", "archive_existing_versions": False},
    ),
    Endpoint("POST", "registered-models/rename", {"name": "<<case>>", "new_name": "<<case>> renamed"}),
    Endpoint("DELETE", "model-versions/delete", {"name": "<<case>>", "version": "1"}),
    Endpoint("DELETE", "registered-models/delete", {"name": "<<case>>"}),
    Endpoint(
        "POST",
        "logged-models",
        {"experiment_id": "<<exp>>", "name": "x", "model_type": "T", "source_run_id": "<<run>>", "params": [TAG], "tags": [TAG]},
    ),
    Endpoint("PATCH", "logged-models/<<model>>", {"model_id": "<<model>>", "status": "LOGGED_MODEL_READY"}),
    Endpoint("PATCH", "logged-models/<<model>>/tags", {"model_id": "<<model>>", "tags": [TAG]}),
    Endpoint("POST", "logged-models/<<model>>/params", {"model_id": "<<model>>", "params": [{"key": "new", "value": "v"}]}),
    Endpoint("POST", "logged-models/search", {"experiment_ids": ["<<exp>>"], "filter": "name = 'lm'", "max_results": 5}),
    Endpoint("POST", "3:traces", trace_info("tr-" + "7" * 32)),
    Endpoint(
        "POST",
        "3:traces/search",
        {
            "locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "<<exp>>"}}],
            "filter": "status = 'OK'",
            "max_results": 5,
            "order_by": ["timestamp_ms"],
        },
    ),
    Endpoint("PATCH", "3:traces/tr-" + "7" * 32 + "/tags", dict(TAG)),
]

SPOILED: list[tuple[str, Any]] = [
    ("null", None),
    ("number", 7),
    ("fraction", 1.5),
    ("truth", True),
    ("list", ["a"]),
    ("object", {"a": 1}),
    ("empty", ""),
    ("word", "wörd ☃"),
    ("digits", "12"),
    ("negative", -3),
    ("huge", 2**70),
    ("nan", "NaN"),
]


def _places(message: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the leaves and branches of a message are, such as ``("tags", 0, "key")``."""
    if isinstance(message, dict):
        for name, value in message.items():
            yield (*at, name)
            yield from _places(value, (*at, name))
    elif isinstance(message, list):
        for number, value in enumerate(message):
            yield from _places(value, (*at, number))


def _with(message: dict[str, Any], place: tuple[Any, ...], value: Any = msgspec.UNSET) -> dict[str, Any]:
    """A copy with the value at ``place`` replaced, or left out."""
    copied = copy.deepcopy(message)
    inside: Any = copied
    for part in place[:-1]:
        inside = inside[part]
    if value is msgspec.UNSET:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return copied


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {name[0] + name.title().replace("_", "")[1:]: _camel(item) for name, item in value.items()}
    return [_camel(item) for item in value] if isinstance(value, list) else value


def spoiled() -> list[Case]:
    """A case for each endpoint: each field left out, and of the wrong kind in each way that its place in the table selects."""
    cases = []
    for number, endpoint in enumerate(ENDPOINTS):
        steps = [
            endpoint.step({}),
            endpoint.step(
                {**endpoint.message, "unknown_field": "x", "mlflow": {"a": 1}}
                if endpoint.method != "GET"
                else {**endpoint.message, "unknown": "x"}
            ),
        ]
        if endpoint.method != "GET":
            steps.append(msgspec.structs.replace(endpoint.step(), json=msgspec.UNSET, text=json.dumps(list(endpoint.message))))
        for position, place in enumerate(_places(endpoint.message)):
            steps.append(endpoint.step(_with(endpoint.message, place)))
            if endpoint.method == "GET":
                steps += [endpoint.step(_with(endpoint.message, place, value)) for value in ("", "wörd ☃", "-3", ["a", "b"])]
            else:  # four of twelve ways for each place, others at the next: every way meets every kind of field somewhere
                steps += [
                    endpoint.step(_with(endpoint.message, place, SPOILED[(number + position + 3 * way) % len(SPOILED)][1]))
                    for way in range(4)
                ]
        steps.append(endpoint.step())
        if endpoint.method != "GET":
            steps.append(endpoint.step(_camel(endpoint.message)))  # last: only we take all of it, and then the two are not alike any more
        name = endpoint.path.replace("<<model>>", "model").replace("3:", "v3/").replace("7" * 32, "trace")
        cases.append(Case(f"spoiled/{endpoint.method.lower()}/{name}", [*WORLD, *steps]))
    return cases


def mixed(seeds: range) -> list[Case]:
    """Random sequences over a small pool of experiments, runs and models, so that deleted, renamed and repeated things meet."""
    return [Case(f"mixed/{seed}", list(_mixed(random.Random(seed)))) for seed in seeds]


def _mixed(draw: random.Random) -> Iterator[Step]:
    def experiment() -> str:
        return draw.choice(["<<expa>>", "<<expb>>"])

    def a_run() -> str:
        return draw.choice(["<<run1>>", "<<run2>>", "<<run3>>"])

    def name() -> str:
        return "<<case>> " + draw.choice("xyz")

    def key() -> str:
        return draw.choice(["a", "b", "mlflow.runName"])

    times = iter(range(1000, 100_000))
    yield post("experiments/create", {"name": "<<case>> x"}, expa="experiment_id")
    yield post("experiments/create", {"name": "<<case>> y"}, expb="experiment_id")
    for number in "123":
        made = {"experiment_id": experiment(), "start_time": next(times), "run_name": number, "user_id": draw.choice(["", "bo"])}
        yield post("runs/create", made, **{f"run{number}": "run.info.run_id"})
    verbs: list[Any] = [
        lambda: post(
            "runs/log-metric",
            {
                "run_id": a_run(),
                "key": key(),
                "value": draw.choice([1, -2.5, "NaN", 3e9]),
                "timestamp": draw.randint(0, 5),
                "step": draw.randint(0, 3),
            },
        ),
        lambda: post("runs/log-parameter", {"run_id": a_run(), "key": key(), "value": draw.choice("12")}),
        lambda: post("runs/set-tag", {"run_id": a_run(), "key": key(), "value": draw.choice("12")}),
        lambda: post("runs/delete-tag", {"run_id": a_run(), "key": key()}),
        lambda: post(
            "runs/log-batch",
            {
                "run_id": a_run(),
                "params": [{"key": key(), "value": draw.choice("12")}],
                "tags": [{"key": key(), "value": "3"}],
                "metrics": [{"key": "a", "value": draw.random(), "timestamp": 1, "step": draw.randint(0, 9)}],
            },
        ),
        lambda: post(
            "runs/update",
            {
                "run_id": a_run(),
                "status": draw.choice(["RUNNING", "FINISHED", "FAILED", "KILLED", "SCHEDULED"]),
                "end_time": draw.randint(2000, 2009),
            },
        ),
        lambda: post("runs/update", {"run_id": a_run(), "run_name": draw.choice("pq")}),
        lambda: post("runs/delete", {"run_id": a_run()}),
        lambda: post("runs/restore", {"run_id": a_run()}),
        lambda: get("runs/get", run_id=a_run()),
        lambda: get("metrics/get-history", run_id=a_run(), metric_key=key()),
        lambda: post(
            "runs/search",
            {
                "experiment_ids": ["<<expa>>", "<<expb>>"],
                "run_view_type": draw.choice(["ALL", "ACTIVE_ONLY", "DELETED_ONLY"]),
                "filter": draw.choice(
                    ["", "params.a = '1'", "tags.b = '3'", "metrics.a > 0", "status = 'RUNNING'", "attributes.run_name = 'p'"]
                ),
                "order_by": [draw.choice(["start_time", "metrics.a DESC", "params.a"])],
            },
        ),
        lambda: post("experiments/delete", {"experiment_id": experiment()}),
        lambda: post("experiments/restore", {"experiment_id": experiment()}),
        lambda: post("experiments/update", {"experiment_id": experiment(), "new_name": name()}),
        lambda: post("experiments/set-experiment-tag", {"experiment_id": experiment(), "key": key(), "value": draw.choice("12")}),
        lambda: get("experiments/get", experiment_id=experiment()),
        lambda: get("experiments/get-by-name", experiment_name=name()),
        lambda: post("registered-models/create", {"name": name(), "description": draw.choice(["", "d"])}),
        lambda: post("registered-models/rename", {"name": name(), "new_name": name()}),
        lambda: get("registered-models/get", name=name()),
        lambda: version(name(), run_id=a_run()),
        lambda: post("registered-models/alias", {"name": name(), "alias": draw.choice(["u", "v"]), "version": draw.choice("12")}),
        lambda: get("registered-models/alias", name=name(), alias=draw.choice(["u", "v"])),
        lambda: Step("DELETE", "/api/2.0/mlflow/registered-models/alias", json={"name": name(), "alias": draw.choice(["u", "v"])}),
        lambda: Step("DELETE", "/api/2.0/mlflow/model-versions/delete", json={"name": name(), "version": draw.choice("12")}),
        lambda: Step("DELETE", "/api/2.0/mlflow/registered-models/delete", json={"name": name()}),
        lambda: post("model-versions/set-tag", {"name": name(), "version": draw.choice("12"), "key": key(), "value": "1"}),
        lambda: post(
            "model-versions/transition-stage",
            {
                "name": name(),
                "version": draw.choice("12"),
                "stage": draw.choice(["Staging", "Production", "None"]),
                "archive_existing_versions": draw.choice([True, False]),
            },
        ),
        lambda: get("model-versions/search", filter=f"name = '{name()}'", order_by=["version_number"]),
    ]
    for _ in range(45):
        yield draw.choice(verbs)()


def cases() -> list[Case]:
    """All of them."""
    made = spoiled()
    # Without their filter these find what other cases made, so they go first, when nothing differs yet.
    return [
        *(case for case in made if case.name.endswith("/search")),
        *(case for case in made if not case.name.endswith("/search")),
        *mixed(range(12)),
    ]
