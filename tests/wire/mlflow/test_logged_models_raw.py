"""Logged models over the wire, by raw requests to the application itself: shapes, and what is said of wrong requests."""

from __future__ import annotations

import json
import math

import pytest

from andon.core.actors import Actor
from andon.registry import Parent, register
from andon.tracking import Artifact, create_experiment, create_run, delete_experiment
from andon.tracking.artifacts import write_files_in
from andon.tracking.logged_models import ModelPoint, log_model_points_in
from tests.wire.mlflow.asking import Asking

ANA = Actor("person", "ana")
AT = "/api/2.0/mlflow/logged-models"


@pytest.fixture
def asking(store):
    asking = Asking(store)
    yield asking
    asking.close()


@pytest.fixture
def model(asking):
    return asking.done("POST", AT, {"experiment_id": "0", "name": "trees"})["model"]["info"]["model_id"]


def test_a_new_model(asking, store, clock):
    run = create_run(store, actor=ANA).id
    body = {
        "experiment_id": "0",
        "name": "trees",
        "model_type": "agent",
        "source_run_id": run,
        "params": [{"key": "a", "value": "1"}, {"key": "b"}],
        "tags": [{"key": "t", "value": "v"}],
    }
    made = asking.done("POST", AT, body)["model"]
    model, now_ms = made["info"]["model_id"], clock.now_us() // 1000
    assert made == {
        "info": {
            "model_id": model,
            "experiment_id": "0",
            "name": "trees",
            "creation_timestamp_ms": now_ms,
            "last_updated_timestamp_ms": now_ms,
            "artifact_uri": f"mlflow-artifacts:/0/models/{model}/artifacts",
            "status": "LOGGED_MODEL_PENDING",
            "model_type": "agent",
            "source_run_id": run,
            "tags": [{"key": "t", "value": "v"}],
        },
        "data": {"params": [{"key": "a", "value": "1"}, {"key": "b", "value": ""}]},
    }
    assert asking.done("GET", f"{AT}/{model}") == {"model": made}
    assert asking.done("GET", f"/ajax-api/2.0/mlflow/logged-models/{model}") == {"model": made}


def test_one_that_says_little(asking):
    made = asking.done("POST", AT, {"experiment_id": "0"})["model"]
    assert (made["info"]["model_type"], made["info"]["source_run_id"], made["data"]) == ("", "", {})
    assert made["info"]["name"]


def test_the_experiments_own_place_is_where_its_files_are(asking, store):
    number = create_experiment(store, "elsewhere", location="s3://bucket/a?region=x", actor=ANA).id
    info = asking.done("POST", AT, {"experiment_id": str(number)})["model"]["info"]
    assert info["artifact_uri"] == f"s3://bucket/a/models/{info['model_id']}/artifacts?region=x"


@pytest.mark.parametrize(
    ("status", "code", "message", "body"),
    [
        (400, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'experiment_id'", {}),
        (400, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'experiment_id'", {"experiment_id": ""}),
        (400, "INVALID_PARAMETER_VALUE", "Invalid experiment ID 'x'. Experiment ID must be a valid integer.", {"experiment_id": "x"}),
        (400, "INVALID_PARAMETER_VALUE", "Invalid experiment ID '٣'", {"experiment_id": "٣"}),
        (400, "INVALID_PARAMETER_VALUE", "Invalid experiment ID", {"experiment_id": "9" * 19}),
        (400, "INVALID_PARAMETER_VALUE", "'experiment_id'", {"experiment_id": 0}),
        (404, "RESOURCE_DOES_NOT_EXIST", "No Experiment with id=999 exists", {"experiment_id": "999"}),
        (400, "INVALID_PARAMETER_VALUE", "Invalid model name ('a/b') provided. Model name must be a non-empty", {"name": "a/b"}),
        (400, "INVALID_PARAMETER_VALUE", "'name' exceeds the maximum length of 500 characters", {"name": "x" * 501}),
        (400, "INVALID_PARAMETER_VALUE", "'name'", {"name": 5}),
        (400, "INVALID_PARAMETER_VALUE", "'name': a NUL", {"name": "a\x00"}),
        (400, "INVALID_PARAMETER_VALUE", "'params'", {"params": "x"}),
        (400, "BAD_REQUEST", "twice in 'params'", {"params": [{"key": "a", "value": "1"}, {"key": "a", "value": "1"}]}),
        (400, "BAD_REQUEST", "twice in 'tags'", {"tags": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}),
        (400, "INVALID_PARAMETER_VALUE", "'key'", {"tags": [{"value": "1"}]}),
    ],
)
def test_what_cannot_be_made(asking, status, code, message, body):
    given = body if "experiment_id" in body or not body else {"experiment_id": "0"} | body
    asking.refused("POST", AT, given, status=status, code=code, message=message)


def test_a_deleted_experiment_takes_none(asking, store):
    number = create_experiment(store, "gone", actor=ANA).id
    delete_experiment(store, number, actor=ANA)
    said = f"The experiment {number} must be in the 'active' state. Current state is deleted."
    asking.refused("POST", AT, {"experiment_id": str(number)}, status=400, code="INVALID_PARAMETER_VALUE", message=said)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("LOGGED_MODEL_READY", "READY"),
        (2, "READY"),
        ("2", "READY"),
        (2.0, "READY"),
        (3, "UPLOAD_FAILED"),
        ("LOGGED_MODEL_PENDING", "PENDING"),
    ],
)
def test_finalizing(asking, clock, model, given, shown):
    clock.advance(1_000_000)
    made = asking.done("PATCH", f"{AT}/{model}", {"model_id": model, "status": given})["model"]["info"]
    assert made["status"] == f"LOGGED_MODEL_{shown}"
    assert made["last_updated_timestamp_ms"] - made["creation_timestamp_ms"] == 1000
    assert asking.done("GET", f"{AT}/{model}")["model"]["info"] == made


@pytest.mark.parametrize("status", [None, "", "NOPE", 0, 9, -1, 2.5, "LOGGED_MODEL_STATUS_UNSPECIFIED"])
def test_a_status_that_there_is_not(asking, model, status):
    body = {"model_id": model, "status": status}
    asking.refused("PATCH", f"{AT}/{model}", body, status=400, code="INVALID_PARAMETER_VALUE", message="status")
    assert asking.done("GET", f"{AT}/{model}")["model"]["info"]["status"] == "LOGGED_MODEL_PENDING"


def test_a_body_without_the_id_is_refused_as_the_protocols_server_does(asking, model):
    said = "Missing value for required parameter 'model_id'"
    for method, path, body in (("PATCH", "", {"status": 2}), ("POST", "/params", {"params": []})):
        asking.refused(method, f"{AT}/{model}{path}", body, status=400, code="INVALID_PARAMETER_VALUE", message=said)


def test_tags(asking, model):
    at = f"{AT}/{model}/tags"
    assert asking.done("PATCH", at, {"tags": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}, {"key": "b/ü c", "value": ""}]}) == {}
    assert asking.done("PATCH", at, {}) == {}
    tags = asking.done("GET", f"{AT}/{model}")["model"]["info"]["tags"]
    assert tags == [{"key": "a", "value": "2"}, {"key": "b/ü c", "value": ""}]
    assert asking.done("DELETE", f"{at}/b/ü c") == {}
    said = f"No tag with key 'b/ü c' found for model with ID '{model}'."
    asking.refused("DELETE", f"{at}/b/ü c", status=404, code="RESOURCE_DOES_NOT_EXIST", message=said)
    asking.refused("PATCH", at, {"tags": "x"}, status=400, code="INVALID_PARAMETER_VALUE", message="'tags'")
    asking.refused("PATCH", at, {"tags": [{"key": "", "value": "x"}]}, status=400, code="INVALID_PARAMETER_VALUE", message="'key'")


def test_params(asking, model):
    at = f"{AT}/{model}/params"
    long = "x" * 100_000
    assert asking.done("POST", at, {"model_id": model, "params": [{"key": "a", "value": "1"}, {"key": "long", "value": long}]}) == {}
    assert asking.done("POST", at, {"model_id": model, "params": [{"key": "a", "value": "1"}]}) == {}
    body = {"model_id": model, "params": [{"key": "c", "value": "3"}, {"key": "a", "value": "2"}]}
    asking.refused("POST", at, body, status=400, code="BAD_REQUEST", message="'a' has another value already")
    params = asking.done("GET", f"{AT}/{model}")["model"]["data"]["params"]
    assert params == [{"key": "a", "value": "1"}, {"key": "long", "value": long}]


def test_a_deleted_model_is_shown_to_those_who_ask_for_it(asking, model):
    assert asking.done("DELETE", f"{AT}/{model}") == {}
    assert asking.done("DELETE", f"{AT}/{model}") == {}
    said = f"Logged model with ID '{model}' not found."
    for query in ("", "?allow_deleted=false", "?allow_deleted=1"):
        asking.refused("GET", f"{AT}/{model}{query}", status=404, code="RESOURCE_DOES_NOT_EXIST", message=said)
    asking.refused("GET", f"{AT}/{model}/artifacts/directories", status=404, code="RESOURCE_DOES_NOT_EXIST", message=said)
    assert asking.done("GET", f"{AT}/{model}?allow_deleted=true")["model"]["info"]["model_id"] == model
    assert asking.done("PATCH", f"{AT}/{model}", {"model_id": model, "status": 2})["model"]["info"]["status"] == "LOGGED_MODEL_READY"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("PATCH", "", {"model_id": "m-0", "status": 2}),
        ("PATCH", "/tags", {"tags": [{"key": "a", "value": "1"}]}),
        ("DELETE", "/tags/a", None),
        ("POST", "/params", {"model_id": "m-0", "params": [{"key": "a", "value": "1"}]}),
        ("GET", "/artifacts/directories", None),
    ],
)
def test_one_that_is_not_there(asking, method, path, body):
    said = "Logged model with ID 'm-0' not found."
    asking.refused(method, f"{AT}/m-0{path}", body, status=404, code="RESOURCE_DOES_NOT_EXIST", message=said)


def test_files(asking, store, model):
    digest = store.blobs.put(b"abc")
    paths = ("MLmodel", "data/model.pkl", "data/deep/x")
    files = [Artifact(path=path, digest=digest, size_bytes=3, media_type="text/plain", at_us=0) for path in paths]
    store.ledger.write(lambda c: write_files_in(c, f"logged-model:{model}", files, actor=ANA))
    at, root = f"{AT}/{model}/artifacts/directories", f"mlflow-artifacts:/0/models/{model}/artifacts"
    assert asking.done("GET", at) == {
        "root_uri": root,
        "files": [{"path": "MLmodel", "is_dir": False, "file_size": 3}, {"path": "data", "is_dir": True}],
    }
    inside = [{"path": "data/deep", "is_dir": True}, {"path": "data/model.pkl", "is_dir": False, "file_size": 3}]
    assert asking.done("GET", f"{at}?artifact_directory_path=data/") == {"root_uri": root, "files": inside}
    assert asking.done("GET", f"{at}?artifact_directory_path=none") == {"root_uri": root}
    for path in ("../x", "/etc", "a/../../b", "%252e%252e/x", "a\\b"):
        query = f"?artifact_directory_path={path}"
        asking.refused("GET", at + query, status=400, code="INVALID_PARAMETER_VALUE", message="Invalid path")


def test_what_was_measured_of_it(asking, store, model):
    run = create_run(store, actor=ANA).id
    points = [
        ModelPoint(model, "acc", 0.5, 1, 123_000, "rides", "d1"),
        ModelPoint(model, "acc", 0.6, 2, 124_000),
        ModelPoint(model, "loss", math.nan, 0, 1_000),
        ModelPoint(model, "loss", math.inf, 0, 2_000),
    ]
    store.ledger.write(lambda c: log_model_points_in(c, run, points))
    about = {"model_id": model, "run_id": run}
    assert asking.done("GET", f"{AT}/{model}")["model"]["data"]["metrics"] == [
        {"key": "acc", "value": 0.5, "timestamp": 123, "step": 1, "dataset_name": "rides", "dataset_digest": "d1"} | about,
        {"key": "acc", "value": 0.6, "timestamp": 124, "step": 2} | about,
        {"key": "loss", "value": "NaN", "timestamp": 1, "step": 0} | about,
        {"key": "loss", "value": 1.7976931348623157e308, "timestamp": 2, "step": 0} | about,
    ]


def test_the_versions_that_were_made_from_it(asking, store, model):
    def told():
        info = asking.done("GET", f"{AT}/{model}")["model"]["info"]
        return info.get("registrations"), {tag["key"]: tag["value"] for tag in info.get("tags", [])}

    def is_told(value):
        asking.done("PATCH", f"{AT}/{model}/tags", {"tags": [{"key": "mlflow.modelVersions", "value": value}]})

    assert told() == (None, {})
    for n in range(2):
        register(store, "model", "bikes", {"n": n}, actor=ANA, parents=[Parent(f"logged-model:{model}", "logged-model")])
    versions = [{"name": "bikes", "version": "1"}, {"name": "bikes", "version": "2"}]
    assert told() == (versions, {"mlflow.modelVersions": '[{"name": "bikes", "version": 1}, {"name": "bikes", "version": 2}]'})
    is_told('[{"name": "x", "version": 9}, {"name": "bikes", "version": "2"}]')
    assert json.loads(told()[1]["mlflow.modelVersions"]) == [
        {"name": "x", "version": 9},
        {"name": "bikes", "version": "2"},
        {"name": "bikes", "version": 1},
    ]
    for broken in ("{", "5"):
        is_told(broken)
        assert told() == (versions, {"mlflow.modelVersions": broken})
