"""The registry by the stock client: what its own calls give, and what the registry has afterwards."""

from __future__ import annotations

import json

import pytest

from andon import registry
from andon.models import ModelManifest
from andon.store import open_store
from andon.tracking.logged_models import get_logged_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of the client's and its libraries'


@pytest.fixture
def named(request, client):
    """A registered model for this test alone."""
    name = f"{request.node.name[:60]} model".translate({ord(sign): "-" for sign in "[]/:"})
    client.create_registered_model(name, tags={"team": "rides"}, description="counts")
    return name


def test_names_versions_tags_and_aliases(client, named):
    assert client.get_registered_model(named).tags == {"team": "rides"}
    first = client.create_model_version(named, "s3://bucket/m", description="d", tags={"mae": "3"})
    second = client.create_model_version(named, "s3://bucket/m")
    assert (first.version, second.version) == ("1", "2")
    client.set_registered_model_alias(named, "Champion_2", "1")
    client.set_registered_model_alias(named, "Champion_2", "2")
    assert client.get_model_version_by_alias(named, "Champion_2").version == "2"
    assert client.get_model_version_by_alias(named, "latest").version == "2"
    assert client.get_registered_model(named).aliases == {"Champion_2": "2"}
    client.delete_registered_model_alias(named, "Champion_2")
    client.set_model_version_tag(named, "1", "checked", "yes")
    client.delete_model_version_tag(named, "1", "mae")
    client.update_model_version(named, "1", "another")
    got = client.get_model_version(named, "1")
    assert (got.tags, got.description, got.aliases, got.status) == ({"checked": "yes"}, "another", [], "READY")
    assert client.get_model_version_download_uri(named, "1") == "s3://bucket/m"
    client.set_registered_model_tag(named, "team", "demand")
    client.delete_registered_model_tag(named, "team")
    assert client.get_registered_model(named).tags == {}
    assert client.update_registered_model(named, "new").description == "new"


def test_stages(client, named):
    for _ in range(3):
        client.create_model_version(named, "s3://bucket/m")
    client.transition_model_version_stage(named, "1", "Production")
    moved = client.transition_model_version_stage(named, "2", "Production", archive_existing_versions=True)
    assert moved.current_stage == "Production"
    assert client.get_model_version(named, "1").current_stage == "Archived"
    latest = {item.current_stage: item.version for item in client.get_latest_versions(named)}
    assert latest == {"Archived": "1", "Production": "2", "None": "3"}
    assert [item.version for item in client.get_latest_versions(named, ["Production"])] == ["2"]


def test_deleting(client, named):
    from mlflow.exceptions import MlflowException

    client.create_model_version(named, "s3://bucket/m")
    client.delete_model_version(named, "1")
    with pytest.raises(MlflowException) as caught:
        client.get_model_version(named, "1")
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert client.create_model_version(named, "s3://bucket/m").version == "2"
    renamed = f"{named} again"
    client.rename_registered_model(named, renamed)
    client.delete_registered_model(renamed)
    with pytest.raises(MlflowException) as caught:
        client.get_registered_model(renamed)
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_paging(client, named):
    for _ in range(5):
        client.create_model_version(named, "s3://bucket/m")
    page, seen = client.search_model_versions(f"name = '{named}'", max_results=2), []
    while True:
        seen += [int(item.version) for item in page]
        if not page.token:
            break
        page = client.search_model_versions(f"name = '{named}'", max_results=2, page_token=page.token)
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert [item.name for item in client.search_registered_models(f"name = '{named}'")] == [named]


def test_a_copy_of_a_version(client, named):
    client.create_model_version(named, "s3://bucket/m")
    copied = client.copy_model_version(f"models:/{named}/1", f"{named} copy")
    assert (copied.version, copied.source) == ("1", f"models:/{named}/1")
    assert client.get_model_version_download_uri(f"{named} copy", "1") == "s3://bucket/m"


@pytest.fixture
def logged(client, andon_server, named):
    """A tiny model of the client's own kind, logged by a run and registered."""
    import mlflow
    import pandas as pd

    def doubled(model_input: pd.DataFrame) -> pd.Series:
        return model_input["a"] * 2

    mlflow.set_tracking_uri(andon_server.url)
    example = pd.DataFrame({"a": [1.0, 2.0]})
    signature = mlflow.models.infer_signature(example, pd.Series([2.0, 4.0]))
    with mlflow.start_run() as run:
        model = mlflow.pyfunc.log_model(
            name="model", python_model=doubled, signature=signature, input_example=example, pip_requirements=["mlflow"]
        )
    return run.info.run_id, model, named


def test_a_logged_model_is_registered_with_its_lineage(client, andon_server, logged):
    import mlflow

    run, model, name = logged
    made = mlflow.register_model(model.model_uri, name)
    client.set_registered_model_alias(name, "champion", made.version)
    assert made.run_id == run
    with open_store(andon_server.home) as store:
        entry = next(item for item in registry.entries(store, "model") if item.title == name)
        version = registry.get(store, f"model:{entry.name}@champion")
        manifest = registry.manifest_of(version, ModelManifest)
        edges = {(edge.child, edge.parent, edge.role) for edge in registry.lineage(store, version.address, "up").edges}
        assert get_logged_model(store, model.model_id).registrations[0].address == str(version.address)
    address = f"model:{entry.name}@{made.version}"
    assert {(address, f"run:{run}", "run"), (address, f"logged-model:{model.model_id}", "logged-model")} <= edges
    assert (manifest.format, manifest.flags) == ("mlflow", ("pickle",))
    assert [column.name for column in manifest.signature.inputs] == ["a"]
    assert manifest.example == ({"a": 1.0}, {"a": 2.0})
    told = json.loads(client.get_logged_model(model.model_id).tags["mlflow.modelVersions"])
    assert {"name": name, "version": made.version} in told


def test_a_registered_model_loads_with_the_client(client, logged):
    import mlflow
    import pandas as pd

    _, model, name = logged
    made = mlflow.register_model(model.model_uri, name)
    client.set_registered_model_alias(name, "champion", made.version)
    for uri in (f"models:/{name}@champion", f"models:/{name}/{made.version}"):
        loaded = mlflow.pyfunc.load_model(uri)
        assert list(loaded.predict(pd.DataFrame({"a": [3.0]}))) == [6.0]


def test_a_path_of_a_run_is_registered(client, andon_server, logged):
    import mlflow

    run, model, name = logged
    made = mlflow.register_model(f"runs:/{run}/model", name)
    assert made.run_id == run
    with open_store(andon_server.home) as store:
        entry = next(item for item in registry.entries(store, "model") if item.title == name)
        manifest = registry.manifest_of(registry.get(store, f"model:{entry.name}@{made.version}"), ModelManifest)
    assert manifest.files is not None
    assert manifest.origin == f"logged-model:{model.model_id}"
