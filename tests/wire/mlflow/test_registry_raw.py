"""The registry over the wire, by raw requests to the application itself: shapes, and what is said of wrong requests."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest

from andon.core.actors import Actor
from andon.core.clocks import ManualClock
from andon.models import ModelManifest
from andon.operations import showing
from andon.registry import Parent, entries, get, lineage, moves, register, resolve, tags_of
from andon.registry.check import check_registry
from andon.store import memory_store, open_store
from andon.tracking import create_run
from tests.wire.mlflow.asking import Asking

ANA = Actor("person", "ana")
MODELS, VERSIONS = "/api/2.0/mlflow/registered-models", "/api/2.0/mlflow/model-versions"
PROMPT = {"key": "mlflow.prompt.is_prompt", "value": "true"}


@pytest.fixture(params=["memory", "postgres"])
def store(request, tmp_path):
    if request.param == "memory":
        with memory_store(ManualClock(1_700_000_000_000_000)) as opened:
            yield opened
        return
    with open_store(tmp_path / ".andon", ledger=request.getfixturevalue("postgres_url")) as opened:
        yield opened


@pytest.fixture
def asking(store):
    asking = Asking(store)
    yield asking
    asking.close()


@pytest.fixture
def model(asking):
    asking.done("POST", f"{MODELS}/create", {"name": "bikes"})
    return "bikes"


def make(asking, name="bikes", source="s3://bucket/m", **more):
    return asking.done("POST", f"{VERSIONS}/create", {"name": name, "source": source, **more})["model_version"]


def at(path, **query):
    return f"{path}?{urlencode(query, doseq=True)}"


def version(asking, number, name="bikes"):
    return asking.done("GET", at(f"{VERSIONS}/get", name=name, version=number))["model_version"]


def stage(asking, number, to, *, archive=False):
    body = {"name": "bikes", "version": str(number), "stage": to, "archive_existing_versions": archive}
    return asking.done("POST", f"{VERSIONS}/transition-stage", body)["model_version"]


def alias(asking, name, number):
    asking.done("POST", f"{MODELS}/alias", {"name": "bikes", "alias": name, "version": str(number)})


def found(asking, path, **query):
    said = asking.done("GET", at(path, **query))
    key = "registered_models" if path.startswith(MODELS) else "model_versions"
    rows = said.get(key, [])
    return [row["name"] for row in rows] if key == "registered_models" else [int(row["version"]) for row in rows]


# --- names


def test_a_new_name(asking, store):
    tags = [{"key": "k", "value": "v"}, {"key": "k", "value": "w"}, {"key": "empty"}]
    made = asking.done("POST", f"{MODELS}/create", {"name": "bikes", "tags": tags, "description": "counts"})["registered_model"]
    assert made["creation_timestamp"] == made["last_updated_timestamp"]
    shown = {key: value for key, value in made.items() if not key.endswith("timestamp")}
    assert shown == {
        "name": "bikes",
        "description": "counts",
        "tags": [{"key": "empty", "value": ""}, {"key": "k", "value": "w"}],
    }
    assert asking.done("GET", f"{MODELS}/get?name=bikes") == {"registered_model": made}
    (entry,) = entries(store)
    assert (entry.kind, entry.name, entry.head) == ("model", "bikes", 0)


def test_a_name_of_the_clients_own(asking, store):
    asking.done("POST", f"{MODELS}/create", {"name": "My Model (é)"})
    make(asking, "My Model (é)")
    (entry,) = entries(store)
    assert (entry.title, entry.head) == ("My Model (é)", 1)
    assert asking.done("GET", f"{MODELS}/get?name={quote('My Model (é)')}")["registered_model"]["name"] == "My Model (é)"
    assert showing.show(store, f"model:{entry.name}").entry.title == "My Model (é)"
    assert found(asking, f"{VERSIONS}/search", filter="name = 'My Model (é)'") == [1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Missing value for required parameter 'name'"),
        ({"name": ""}, "Missing value for required parameter 'name'"),
        ({"name": "  "}, "'name'"),
        ({"name": 5}, "'name'"),
        ({"name": "a/b"}, "Invalid model name 'a/b'"),
        ({"name": "a:b"}, "Invalid model name 'a:b'"),
        ({"name": ".."}, "'name'"),
        ({"name": "n", "tags": "no"}, "'tags'"),
        ({"name": "n", "tags": [{"key": "a//b", "value": "v"}]}, "'key'"),
        ({"name": "n", "tags": [{"key": "k" * 251, "value": "v"}]}, "'key' exceeds the maximum length of 250 characters"),
        ({"name": "n", "tags": [{"key": "k", "value": "v" * 100_001}]}, "'value' exceeds the maximum length of 100000 characters"),
        ({"name": "n", "tags": [{"key": "andon.stage", "value": "Production"}]}, "andon.stage"),
    ],
)
def test_a_name_that_cannot_be(asking, store, body, message):
    asking.refused("POST", f"{MODELS}/create", body, status=400, code="INVALID_PARAMETER_VALUE", message=message)
    assert entries(store) == []


def test_a_name_is_taken_once(asking, model):
    asking.done("POST", f"{MODELS}/create", {"name": "hello", "tags": [PROMPT]})
    taken = {"status": 400, "code": "RESOURCE_ALREADY_EXISTS"}
    asking.refused("POST", f"{MODELS}/create", {"name": model}, **taken, message="Registered Model (name=bikes) already exists.")
    asking.refused("POST", f"{MODELS}/create", {"name": "hello", "tags": [PROMPT]}, **taken, message="Prompt (name=hello) already exists.")
    asking.refused("POST", f"{MODELS}/create", {"name": "hello"}, **taken, message="already taken by a prompt")
    asking.refused("POST", f"{MODELS}/create", {"name": model, "tags": [PROMPT]}, **taken, message="already taken by a registered model")


def test_a_name_that_is_not_there(asking):
    missing = {"status": 404, "code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=nope not found"}
    asking.refused("GET", f"{MODELS}/get?name=nope", **missing)
    asking.refused("PATCH", f"{MODELS}/update", {"name": "nope", "description": "d"}, **missing)
    asking.refused("POST", f"{MODELS}/rename", {"name": "nope", "new_name": "n"}, **missing)
    asking.refused("DELETE", f"{MODELS}/delete", {"name": "nope"}, **missing)
    asking.refused("POST", f"{MODELS}/get-latest-versions", {"name": "nope"}, **missing)
    asking.refused("POST", f"{MODELS}/set-tag", {"name": "nope", "key": "k", "value": "v"}, **missing)
    asking.refused("POST", f"{VERSIONS}/create", {"name": "nope", "source": "s3://b/m"}, **missing)
    asking.refused("GET", f"{MODELS}/alias?name=nope&alias=a", **missing)


def test_a_name_that_moves(asking, store, model):
    make(asking)
    alias(asking, "champion", 1)
    asking.done("POST", f"{MODELS}/create", {"name": "other"})
    asking.refused("POST", f"{MODELS}/rename", {"name": model, "new_name": "other"}, status=400, code="RESOURCE_ALREADY_EXISTS")
    asking.refused("POST", f"{MODELS}/rename", {"name": model}, status=400, code="INVALID_PARAMETER_VALUE", message="'new_name'")
    assert asking.done("POST", f"{MODELS}/rename", {"name": model, "new_name": model})["registered_model"]["name"] == model
    made = asking.done("POST", f"{MODELS}/rename", {"name": model, "new_name": "Bikes 2"})["registered_model"]
    assert (made["name"], made["latest_versions"][0]["name"]) == ("Bikes 2", "Bikes 2")
    asking.refused("GET", f"{MODELS}/get?name={model}", status=404, code="RESOURCE_DOES_NOT_EXIST")
    assert version(asking, 1, "Bikes 2")["aliases"] == ["champion"]
    assert str(resolve(store, "model:bikes@champion")) == "model:bikes@1"  # the address stays: releases pin it


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "\0"])
def test_a_name_that_no_engine_can_keep(asking, model, name):
    for method, path, body in (
        ("POST", f"{MODELS}/create", {"name": name}),
        ("POST", f"{MODELS}/rename", {"name": model, "new_name": name}),
        ("POST", f"{VERSIONS}/create", {"name": model, "source": f"s3://b/{name}"}),
        ("POST", f"{VERSIONS}/create", {"name": model, "source": "s3://b/m", "run_id": name}),
        ("POST", f"{VERSIONS}/create", {"name": model, "source": "s3://b/m", "model_id": name}),
        ("POST", f"{VERSIONS}/create", {"name": model, "source": "s3://b/m", "description": name}),
        ("POST", f"{MODELS}/set-tag", {"name": model, "key": "k", "value": name}),
        ("PATCH", f"{MODELS}/update", {"name": model, "description": name}),
    ):
        asking.refused(method, path, body, status=400, code="INVALID_PARAMETER_VALUE")
    asking.refused("DELETE", f"{MODELS}/delete", {"name": name}, status=404, code="RESOURCE_DOES_NOT_EXIST")


def test_a_description(asking, model):
    body = {"name": model, "description": "new"}
    assert asking.done("PATCH", f"{MODELS}/update", body)["registered_model"]["description"] == "new"
    assert "description" not in asking.done("PATCH", f"{MODELS}/update", {"name": model})["registered_model"]


def test_tags_of_a_name(asking, store, model):
    asking.done("POST", f"{MODELS}/set-tag", {"name": model, "key": "t", "value": "1"})
    asking.done("POST", f"{MODELS}/set-tag", {"name": model, "key": "t", "value": "2"})
    assert tags_of(store, "model:bikes") == {"t": "2"}
    for _ in range(2):
        assert asking.done("DELETE", f"{MODELS}/delete-tag", {"name": model, "key": "t"}) == {}
    assert tags_of(store, "model:bikes") == {}
    asking.refused("POST", f"{MODELS}/set-tag", {"name": model}, status=400, code="INVALID_PARAMETER_VALUE", message="'key'")
    asking.refused("POST", f"{MODELS}/set-tag", {"name": model, **PROMPT}, status=400, code="INVALID_PARAMETER_VALUE", message="stays one")


def test_a_deleted_name(asking, store, model):
    make(asking)
    make(asking)
    alias(asking, "champion", 2)
    assert asking.done("DELETE", f"{MODELS}/delete", {"name": model}) == {}
    asking.refused("GET", f"{MODELS}/get?name={model}", status=404, code="RESOURCE_DOES_NOT_EXIST")
    asking.refused("GET", at(f"{VERSIONS}/get", name=model, version=1), status=404, code="RESOURCE_DOES_NOT_EXIST")
    assert found(asking, f"{MODELS}/search") == []
    assert found(asking, f"{VERSIONS}/search") == []
    asking.done("POST", f"{MODELS}/create", {"name": model})
    assert make(asking)["version"] == "3"  # numbers go on: an address never means two things
    assert check_registry(store) == []


# --- versions


def test_a_new_version(asking, store, model):
    run = create_run(store, actor=ANA).id
    made = make(asking, run_id=run, run_link="http://l", description="d", tags=[{"key": "q", "value": "1"}])
    assert made["creation_timestamp"] == made["last_updated_timestamp"]
    assert {key: value for key, value in made.items() if not key.endswith("timestamp")} == {
        "name": "bikes",
        "version": "1",
        "current_stage": "None",
        "description": "d",
        "source": "s3://bucket/m",
        "run_id": run,
        "run_link": "http://l",
        "status": "READY",
        "tags": [{"key": "q", "value": "1"}],
    }
    assert version(asking, 1) == made
    assert [(edge.parent, edge.role) for edge in lineage(store, "model:bikes@1", "up").edges] == [(f"run:{run}", "run")]
    manifest = get(store, "model:bikes@1").manifest
    assert (manifest["files"], manifest["facts"]) == (None, {"source": "s3://bucket/m"})


def test_the_same_again_is_the_next_version(asking, store, model):
    assert [make(asking)["version"] for _ in range(3)] == ["1", "2", "3"]
    assert check_registry(store) == []


def test_a_run_that_is_not_here_is_kept_as_text(asking, store, model):
    assert make(asking, run_id="elsewhere")["run_id"] == "elsewhere"
    assert lineage(store, "model:bikes@1").edges == ()
    assert check_registry(store) == []


@pytest.mark.parametrize(
    ("source", "more", "field"),
    [
        ("/tmp/x", {}, "run_id"),
        ("file:///tmp/x", {"run_id": "r"}, "run_id"),
        ("file:///tmp/x", {"model_id": "m-1"}, "model_id"),
        ("a b#c?d", {}, "run_id"),
        ("http://169.254.169.254/latest", {}, "http"),
        ("https://h/a/../b", {}, "https"),
        ("ftp://h/a", {}, "ftp"),
        ("mlflow-artifacts://evil:80/0/r/artifacts/m", {"run_id": "r"}, "mlflow-artifacts"),
        ("s3://bucket/a/../b", {}, "relative path"),
        ("s3://bucket/a/%2e%2e/b", {}, "relative path"),
        ("s3://bucket/a/%252e%252e/b", {}, "relative path"),
        ("s3://bucket/%00", {}, "relative path"),
        ("weird:thing", {}, "relative path"),
        ("runs:/r/m", {}, "run_id"),
        ("runs:/r/m", {"run_id": "other"}, "run_id"),
        ("runs://h/r/m", {"run_id": "r"}, "run_id"),
        ("runs:/r/m", {"model_id": "m-1", "run_id": "r"}, "model_id"),
        ("models:/m-1", {}, "model_id"),
        ("models:/m-1", {"model_id": "m-2"}, "model_id"),
        ("models://h/bikes/1", {}, "active model registry"),
        ("models:/", {}, "model_id"),
        ("models:/bikes", {}, "model_id"),
        ("models:/bikes@nope", {}, "alias nope"),
        ("mlflow-artifacts:/0/r/artifacts/m", {}, "run_id"),
        ("mlflow-artifacts:/0/r/artifacts/m", {"run_id": "r"}, "run_id"),
        ("mlflow-artifacts:/0/models/m-1/artifacts", {"model_id": "m-1"}, "model_id"),
        ("http://[bad", {}, "source"),
    ],
)
def test_a_source_that_is_refused(asking, store, model, source, more, field):
    body = {"name": model, "source": source, **more}
    asking.refused("POST", f"{VERSIONS}/create", body, status=400, code="INVALID_PARAMETER_VALUE", message=field)
    assert entries(store)[0].head == 0


def test_a_source_of_another_run_is_refused(asking, store, model):
    mine, other = create_run(store, actor=ANA).id, create_run(store, actor=ANA).id
    for path in (f"0/{other}/artifacts/m", f"0/{mine}/artifactsx/m", f"0/{mine}/artifacts/../../{other}/artifacts/m"):
        body = {"name": model, "source": f"mlflow-artifacts:/{path}", "run_id": mine}
        asking.refused("POST", f"{VERSIONS}/create", body, status=400, code="INVALID_PARAMETER_VALUE")
    made = make(asking, source=f"mlflow-artifacts:/0/{mine}/artifacts/m", run_id=mine)
    assert made["run_id"] == mine
    assert get(store, "model:bikes@1").manifest["origin"] == f"run:{mine}/m"


def test_a_version_of_a_version(asking, store, model):
    run = create_run(store, actor=ANA).id
    make(asking, run_id=run)
    alias(asking, "champion", 1)
    asking.done("POST", f"{MODELS}/create", {"name": "copies"})
    for source in ("models:/bikes/1", "models:/bikes@champion", "models:/bikes/latest"):
        made = make(asking, "copies", source)
        assert (made["source"], made["run_id"]) == ("models:/bikes/1", run)
    uri = asking.done("GET", at(f"{VERSIONS}/get-download-uri", name="copies", version=1))
    assert uri == {"artifact_uri": "s3://bucket/m"}
    assert ("model:bikes@1", "model") in {(edge.parent, edge.role) for edge in lineage(store, "model:copies@1", "up").edges}
    body = {"name": "copies", "source": "models:/bikes/1", "run_id": "another"}
    asking.refused("POST", f"{VERSIONS}/create", body, status=400, code="INVALID_PARAMETER_VALUE", message="must match")
    for source in ("models:/bikes/9", "models:/nope/1"):
        asking.refused("POST", f"{VERSIONS}/create", {"name": "copies", "source": source}, status=404, code="RESOURCE_DOES_NOT_EXIST")


def test_a_version_that_is_not_there(asking, model):
    make(asking)
    for number in ("9", "0", "-1", "9" * 30):
        asking.refused("GET", at(f"{VERSIONS}/get", name=model, version=number), status=404, code="RESOURCE_DOES_NOT_EXIST")
    for path in ("get", "get-download-uri"):
        path = at(f"{VERSIONS}/{path}", name=model, version="x")
        asking.refused("GET", path, status=400, code="INVALID_PARAMETER_VALUE", message="Parameter 'version' must be an integer, got 'x'.")
    asking.refused("GET", at(f"{VERSIONS}/get", name=model), status=400, code="INVALID_PARAMETER_VALUE", message="'version'")
    asking.refused(
        "PATCH", f"{VERSIONS}/update", {"name": model, "version": 1}, status=400, code="INVALID_PARAMETER_VALUE", message="'version'"
    )
    body = {"name": model, "version": "7", "key": "k", "value": "v"}
    asking.refused("POST", f"{VERSIONS}/set-tag", body, status=404, code="RESOURCE_DOES_NOT_EXIST", message="version=7) not found")


def test_a_versions_description_and_tags(asking, store, model):
    make(asking)
    body = {"name": model, "version": "1", "description": "hello"}
    assert asking.done("PATCH", f"{VERSIONS}/update", body)["model_version"]["description"] == "hello"
    assert "description" not in asking.done("PATCH", f"{VERSIONS}/update", {"name": model, "version": "1"})["model_version"]
    asking.done("POST", f"{VERSIONS}/set-tag", {"name": model, "version": "1", "key": "k", "value": "v"})
    assert tags_of(store, "model:bikes@1") == {"k": "v"}
    for _ in range(2):
        assert asking.done("DELETE", f"{VERSIONS}/delete-tag", {"name": model, "version": "1", "key": "k"}) == {}
    assert "tags" not in version(asking, 1)


def test_a_deleted_version(asking, store, model):
    make(asking)
    make(asking)
    alias(asking, "champion", 2)
    asking.done("DELETE", f"{VERSIONS}/delete", {"name": model, "version": "2"})
    missing = {"status": 404, "code": "RESOURCE_DOES_NOT_EXIST", "message": "Model Version (name=bikes, version=2) not found"}
    asking.refused("GET", at(f"{VERSIONS}/get", name=model, version=2), **missing)
    asking.refused("DELETE", f"{VERSIONS}/delete", {"name": model, "version": "2"}, **missing)
    path = at(f"{MODELS}/alias", name=model, alias="champion")
    asking.refused("GET", path, status=400, code="INVALID_PARAMETER_VALUE", message="Registered model alias champion not found.")
    assert found(asking, f"{VERSIONS}/search") == [1]
    assert make(asking)["version"] == "3"
    assert check_registry(store) == []


def test_a_version_that_a_release_needs_is_not_deleted(asking, store, model):
    make(asking)
    register(store, "release", "bikes", {}, actor=ANA, parents=[Parent("model:bikes@1", "model")])
    for path, body in ((f"{VERSIONS}/delete", {"name": model, "version": "1"}), (f"{MODELS}/delete", {"name": model})):
        asking.refused("DELETE", path, body, status=409, code="RESOURCE_CONFLICT", message="release")
    assert version(asking, 1)["version"] == "1"


# --- stages and aliases


def test_stages(asking, store, model):
    for _ in range(3):
        make(asking)
    assert stage(asking, 1, "production")["current_stage"] == "Production"
    assert stage(asking, 2, "Production", archive=True)["current_stage"] == "Production"
    assert version(asking, 1)["current_stage"] == "Archived"
    assert "tags" not in version(asking, 1)  # ours, and not the client's
    shown = asking.done("GET", f"{MODELS}/get?name={model}")["registered_model"]["latest_versions"]
    assert [(item["version"], item["current_stage"]) for item in shown] == [("1", "Archived"), ("2", "Production"), ("3", "None")]
    for method, more in (("GET", {"stages": ["Production", "none"]}), ("POST", {"stages": ["Production", "none"]})):
        path = f"{MODELS}/get-latest-versions"
        said = asking.done("GET", at(path, name=model, **more)) if method == "GET" else asking.done("POST", path, {"name": model, **more})
        assert [item["version"] for item in said["model_versions"]] == ["2", "3"]
    stage(asking, 2, "None")
    assert tags_of(store, "model:bikes@2") == {"andon.stage": "None"}
    wrong = {"status": 400, "code": "INVALID_PARAMETER_VALUE", "message": "Invalid Model Version stage: bogus"}
    asking.refused("POST", f"{VERSIONS}/transition-stage", {"name": model, "version": "2", "stage": "bogus"}, **wrong)
    asking.refused("GET", at(f"{MODELS}/get-latest-versions", name=model, stages="bogus"), **wrong)
    body = {"name": model, "version": "2", "stage": "archived", "archive_existing_versions": True}
    asking.refused("POST", f"{VERSIONS}/transition-stage", body, status=500, code="INTERNAL_ERROR", message="not an Active stage")


@pytest.mark.parametrize("name", ["champion", "Champion_2", "3", "_x", "-", "чемпион", "alias-x33"])
def test_an_alias_is_ours_too(asking, store, model, name):
    make(asking)
    make(asking)
    alias(asking, name, 1)
    alias(asking, name, 2)
    assert version(asking, 2)["aliases"] == [name]
    shown = asking.done("GET", f"{MODELS}/get?name={model}")["registered_model"]
    assert shown["aliases"] == [{"alias": name, "version": "2"}]
    assert asking.done("GET", at(f"{MODELS}/alias", name=model, alias=name))["model_version"]["version"] == "2"
    told = moves(store, "model:bikes")
    assert [(move.source, move.target) for move in told] == [(None, "model:bikes@1"), ("model:bikes@1", "model:bikes@2")]
    assert str(resolve(store, told[0].address)) == "model:bikes@2"
    for _ in range(2):
        assert asking.done("DELETE", f"{MODELS}/alias", {"name": model, "alias": name}) == {}
    assert "aliases" not in version(asking, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("latest", "is reserved"),
        ("LATEST", "is reserved"),
        ("v3", "Version alias name 'v3' is reserved."),
        ("a b", "Invalid alias name: 'a b'"),
        ("x" * 256, "255"),
        ("é" * 200, "120 bytes"),
        ("", "'alias'"),
    ],
)
def test_an_alias_that_cannot_be(asking, model, name, message):
    make(asking)
    body = {"name": model, "alias": name, "version": "1"}
    asking.refused("POST", f"{MODELS}/alias", body, status=400, code="INVALID_PARAMETER_VALUE", message=message)


def test_latest_is_computed(asking, model):
    path = at(f"{MODELS}/alias", name=model, alias="latest")
    asking.refused("GET", path, status=404, code="RESOURCE_DOES_NOT_EXIST", message="Latest version not found for model bikes.")
    for _ in range(3):
        make(asking)
    stage(asking, 3, "Archived")
    assert asking.done("GET", path)["model_version"]["version"] == "3"


def test_the_newest_without_a_stage_among_many(asking, model):
    for _ in range(55):
        make(asking)
    for number in (*range(1, 4), *range(4, 56)):
        if number != 30:
            stage(asking, number, "Archived")
    shown = asking.done("GET", f"{MODELS}/get?name={model}")["registered_model"]["latest_versions"]
    assert [(item["version"], item["current_stage"]) for item in shown] == [("55", "Archived"), ("30", "None")]


def test_what_andon_registered_itself_is_there(asking, store):
    run = create_run(store, actor=ANA)
    files = store.blobs.put(b"x")
    manifest = ModelManifest(format="onnx", files=files, entry="m.onnx", signature={"inputs": [], "outputs": []})  # type: ignore[arg-type]
    register(store, "model", "native", manifest, actor=ANA, parents=[Parent(run.address, "run")])
    shown = version(asking, 1, "native")
    assert (shown["run_id"], shown["source"]) == (run.id, "andon:/model:native@1")
    body = {"name": "native", "version": "1", "description": "d"}
    assert asking.done("PATCH", f"{VERSIONS}/update", body)["model_version"]["run_id"] == run.id
    assert found(asking, f"{MODELS}/search") == ["native"]


# --- searching


@pytest.fixture
def several(asking):
    for name, tag in (("alpha", "x"), ("Beta", "y"), ("gamma_1", "x")):
        asking.done("POST", f"{MODELS}/create", {"name": name, "tags": [{"key": "team", "value": tag}]})
    asking.done("POST", f"{MODELS}/create", {"name": "hello", "tags": [PROMPT]})
    text = [PROMPT, {"key": "mlflow.prompt.text", "value": "Hi {{x}}"}]
    make(asking, "hello", "dummy-source", tags=text)
    make(asking, "alpha", run_id="r1", tags=[{"key": "q", "value": "1"}])
    make(asking, "alpha", "s3://bucket/n", run_id="r2")
    make(asking, "Beta", run_id="r2")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["alpha", "Beta", "gamma_1"]),
        ("name = 'alpha'", ["alpha"]),
        ("name != 'alpha'", ["Beta", "gamma_1"]),
        ("name LIKE 'b%'", []),
        ("name ILIKE 'b%'", ["Beta"]),
        ("name LIKE '%_1'", ["gamma_1"]),
        ("name IN ('alpha', 'Beta', 'nope')", ["alpha", "Beta"]),
        ("name NOT IN ('alpha')", ["Beta", "gamma_1"]),
        ("tags.team = 'x'", ["alpha", "gamma_1"]),
        ("tag.team != 'x' AND name ILIKE '%a'", ["Beta"]),
        ("tags.nope != 'x'", []),
        ("tags.`mlflow.prompt.is_prompt` = 'true'", ["hello"]),
        ("tags.`mlflow.prompt.is_prompt` != 'true'", ["alpha", "Beta", "gamma_1"]),
        ("name = 'hello'", []),
    ],
)
def test_names_that_match(asking, several, text, names):
    assert sorted(found(asking, f"{MODELS}/search", filter=text), key=str.lower) == names


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("name = 'alpha'", [2, 1]),
        ("name = 'nope'", []),
        ("name = 'alpha' and version_number > 1", [2]),
        ("name = 'alpha' and version_number = '1'", [1]),
        ("run_id = 'r1'", [1]),
        ("run_id IN ('r1', 'nope')", [1]),
        ("name LIKE 'alph%' and run_id NOT IN ('r1')", [2]),
        ("source_path LIKE '%/n'", [2]),
        ("tags.q = '1'", [1]),
        ("name = 'hello'", []),
        ("name = 'hello' and tags.`mlflow.prompt.is_prompt` = 'true'", [1]),
        ("version_number > 9223372036854775807000", []),
    ],
)
def test_versions_that_match(asking, several, text, numbers):
    assert found(asking, f"{VERSIONS}/search", filter=text, order_by="version_number DESC") == numbers


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (MODELS, {"filter": "bogus = 'z'"}),
        (MODELS, {"filter": "name > 'z'"}),
        (MODELS, {"filter": "name = z"}),
        (MODELS, {"filter": "nonsense"}),
        (MODELS, {"filter": "name = 'a' OR name = 'b'"}),
        (MODELS, {"filter": "metrics.a = 'b'"}),
        (MODELS, {"filter": "tags.k IN ('a')"}),
        (MODELS, {"max_results": "1001"}),
        (MODELS, {"max_results": "x"}),
        (MODELS, {"page_token": "zzz"}),
        (MODELS, {"page_token": "eyJvZmZzZXQiOiAtMX0="}),
        (MODELS, {"order_by": "creation_timestamp"}),
        (MODELS, {"order_by": "name sideways"}),
        (VERSIONS, {"filter": "version_number = 1.5"}),
        (VERSIONS, {"filter": "version_number = 'x'"}),
        (VERSIONS, {"filter": "source_path IN ('a')"}),
        (VERSIONS, {"filter": "run_id = 5"}),
        (VERSIONS, {"max_results": "0"}),
        (VERSIONS, {"max_results": "200001"}),
        (VERSIONS, {"order_by": "run_id"}),
    ],
)
def test_a_search_that_cannot_be(asking, several, path, query):
    asking.refused("GET", at(f"{path}/search", **query), status=400, code="INVALID_PARAMETER_VALUE")


def test_pages_hold_everything_once(asking, store, model):
    for _ in range(7):
        make(asking)
    seen, token = [], ""
    while True:
        said = asking.done("GET", at(f"{VERSIONS}/search", max_results=3, page_token=token, order_by="version_number ASC"))
        seen += [int(item["version"]) for item in said["model_versions"]]
        if not (token := said.get("next_page_token", "")):
            break
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert found(asking, f"{MODELS}/search", max_results=0) == []


def test_what_changed_last_comes_first(asking, store, model):
    for _ in range(3):
        make(asking)
        if isinstance(store.clock, ManualClock):
            store.clock.advance(1_000_000)
    asking.done("PATCH", f"{VERSIONS}/update", {"name": model, "version": "2", "description": "d"})
    assert found(asking, f"{VERSIONS}/search")[0] == 2
    assert found(asking, f"{VERSIONS}/search", order_by="creation_timestamp ASC") == [1, 2, 3]
