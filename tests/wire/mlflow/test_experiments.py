"""Experiments, by the stock client and over bare HTTP."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.mlflow.servers import AndonServer
from tests.wire.mlflow.test_runs_raw import CHARACTERS, DOCS, ask, post

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.usefixtures("stock")
EXISTS, GONE, WRONG = "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"


@pytest.fixture
def name() -> str:
    """A name that no experiment has."""
    return f"e {uuid.uuid4()} é🎈"


def test_an_experiment_comes_back_as_it_was_made(client: MlflowClient, name: str) -> None:
    number = client.create_experiment(name, tags={"mlflow.note.content": "a\nb 🎈" + "x" * 19_000})
    for found in (client.get_experiment(number), client.get_experiment_by_name(name)):
        assert found is not None
        assert (found.experiment_id, found.name, found.lifecycle_stage) == (number, name, "active")
        assert found.artifact_location == f"mlflow-artifacts:/{number}"
        assert found.tags == {"mlflow.note.content": "a\nb 🎈" + "x" * 19_000}
        assert found.creation_time == found.last_update_time > 1_700_000_000_000
    assert client.get_experiment("0").name == "Default"
    assert client.get_experiment_by_name("nobody's") is None


def test_names_are_taken_once(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    number, other = client.create_experiment(name), client.create_experiment(name + "2")
    with pytest.raises(MlflowException, match="already exists") as caught:
        client.create_experiment(name)
    assert caught.value.error_code == EXISTS
    with pytest.raises(MlflowException, match="already exists") as caught:
        client.rename_experiment(other, name)
    assert caught.value.error_code == "BAD_REQUEST"
    client.delete_experiment(number)
    with pytest.raises(MlflowException):  # also while it is deleted
        client.create_experiment(name)


def test_a_rename_keeps_runs_and_tags(client: MlflowClient, name: str) -> None:
    number = client.create_experiment(name, tags={"team": "rides"})
    run = client.create_run(number).info.run_id
    client.rename_experiment(number, name + " renamed")
    found = client.get_experiment(number)
    assert (found.name, found.tags) == (name + " renamed", {"team": "rides"})
    assert client.get_run(run).info.experiment_id == number
    assert client.get_experiment_by_name(name) is None


def test_deleting_hides_the_runs_too(client: MlflowClient, name: str, andon_server: AndonServer) -> None:
    from mlflow.exceptions import MlflowException

    number = client.create_experiment(name)
    run = client.create_run(number).info.run_id
    client.delete_experiment(number)
    assert client.get_experiment(number).lifecycle_stage == "deleted"
    assert client.get_run(run).info.lifecycle_stage == "deleted"
    for write in (lambda: client.create_run(number), lambda: client.set_experiment_tag(number, "a", "b")):
        with pytest.raises(MlflowException, match=f"The experiment {number} must be in the 'active' state. Current state is deleted"):
            write()
    status, answer = post(andon_server, "/experiments/update", {"experiment_id": number, "new_name": "x"})
    assert (status, answer) == (500, {"error_code": "INVALID_STATE", "message": "Cannot rename a non-active experiment."})
    assert post(andon_server, "/experiments/delete", {"experiment_id": number})[0] == 404
    client.restore_experiment(number)
    assert client.get_run(run).info.lifecycle_stage == "active"
    assert post(andon_server, "/experiments/restore", {"experiment_id": number})[0] == 404


def test_tags_of_experiments(client: MlflowClient, name: str, andon_server: AndonServer) -> None:
    number = client.create_experiment(name)
    client.set_experiment_tag(number, "a/b", "1")
    client.set_experiment_tag(number, "a/b", "2")
    assert client.get_experiment(number).tags == {"a/b": "2"}
    client.delete_experiment_tag(number, "a/b")
    assert client.get_experiment(number).tags == {}
    status, answer = post(andon_server, "/experiments/delete-experiment-tag", {"experiment_id": number, "key": "a/b"})
    assert (status, answer["error_code"], answer["message"]) == (404, GONE, f"No tag with name: a/b in experiment with id {number}")


def test_a_location_of_the_clients_own(client: MlflowClient, name: str) -> None:
    number = client.create_experiment(name, artifact_location="s3://bucket/folder/")
    assert client.get_experiment(number).artifact_location == "s3://bucket/folder/"
    run = client.create_run(number).info
    assert run.artifact_uri == f"s3://bucket/folder/{run.run_id}/artifacts"


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        ("create", {}, WRONG, f"Missing value for required parameter 'name'.{DOCS}"),
        ("create", {"name": ""}, WRONG, f"Missing value for required parameter 'name'.{DOCS}"),
        ("create", {"name": 5}, WRONG, f"Invalid value 5 for parameter 'name' supplied:  Hint: Value was of type 'int'.{DOCS}"),
        ("create", {"name": "x" * 501}, WRONG, "'name' exceeds the maximum length of 500 characters"),
        ("create", {"name": "q", "artifact_location": "s3://b#x"}, WRONG, "'artifact_location' URL can't include fragments or params."),
        ("create", {"name": "q", "artifact_location": "s3://b?x=../y"}, WRONG, "Invalid query string"),
        ("create", {"name": "q", "artifact_location": "runs:/x"}, WRONG, "Artifact location cannot be a runs:/ URI. Given: 'runs:/x'"),
        (
            "create",
            {"name": "q", "tags": [{"key": "\x01", "value": ""}]},
            WRONG,
            f"Invalid value \"\\u0001\" for parameter 'key' supplied: {CHARACTERS}",
        ),
        (
            "create",
            {"name": "q", "tags": [{"key": "k", "value": "x" * 20_001}]},
            WRONG,
            "'value' exceeds the maximum length of 20000 characters",
        ),
        ("update", {"experiment_id": "0"}, WRONG, f"Missing value for required parameter 'new_name'.{DOCS}"),
        ("update", {"experiment_id": "0", "new_name": "x" * 501}, WRONG, "'name' exceeds the maximum length of 500 characters"),
        ("delete", {}, WRONG, f"Missing value for required parameter 'experiment_id'.{DOCS}"),
        ("delete", {"experiment_id": "x"}, WRONG, "Invalid experiment ID 'x'. Experiment ID must be a valid integer."),
        ("delete", {"experiment_id": "99999"}, GONE, "No Experiment with id=99999 exists"),
        ("delete", {"experiment_id": "9" * 30}, GONE, f"No Experiment with id={'9' * 30} exists"),
        ("set-experiment-tag", {"experiment_id": "0", "value": "x"}, WRONG, f"Missing value for required parameter 'key'.{DOCS}"),
        ("set-experiment-tag", {"experiment_id": "0", "key": "k" * 251}, WRONG, "'key' exceeds the maximum length of 250 characters"),
    ],
)
def test_what_is_wrong_is_said(andon_server: AndonServer, path: str, body: Any, code: str, message: str) -> None:
    status, answer = post(andon_server, f"/experiments/{path}", body)
    assert (status, answer) == (404 if code == GONE else 400, {"error_code": code, "message": message})
    assert ask(andon_server, "GET", "/experiments/get-by-name?experiment_name=q")[0] == 404  # nothing is half made


def test_custom_views_are_limited(andon_server: AndonServer, name: str) -> None:
    number = post(
        andon_server, "/experiments/create", {"name": name, "tags": [{"key": f"mlflow.customView.view{n}", "value": ""} for n in range(50)]}
    )
    body = {"experiment_id": number[1]["experiment_id"], "key": "mlflow.customView.view0", "value": "changed"}
    assert post(andon_server, "/experiments/set-experiment-tag", body) == (200, {})
    status, answer = post(andon_server, "/experiments/set-experiment-tag", {**body, "key": "mlflow.customView.view50"})
    assert (status, answer["error_code"]) == (400, WRONG)
    assert "the maximum number of custom views per experiment is 50" in answer["message"]
