"""Logged models and inputs with the stock client, against a server on each engine."""

from __future__ import annotations

import math

import pytest

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture
def fluent(andon_server, client):
    """The module ``mlflow`` itself, pointed at Andon, and as it was afterwards."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(andon_server.url)
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def run(client):
    return client.create_run("0").info.run_id


def test_a_life(client, run):
    from mlflow.entities import LoggedModelStatus
    from mlflow.exceptions import MlflowException

    made = client.create_logged_model("0", name="trees", source_run_id=run, tags={"t": "1"}, params={"depth": "6"}, model_type="agent")
    assert (made.status, made.model_type, made.tags, made.params) == (LoggedModelStatus.PENDING, "agent", {"t": "1"}, {"depth": "6"})
    assert made.model_uri == f"models:/{made.model_id}"
    assert made.artifact_location == f"mlflow-artifacts:/0/models/{made.model_id}/artifacts"
    client.set_logged_model_tags(made.model_id, {"t": "2", "u": "3"})
    client.delete_logged_model_tag(made.model_id, "u")
    ready = client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    assert ready.status == LoggedModelStatus.READY
    got = client.get_logged_model(made.model_id)
    assert (got.tags, got.params, got.source_run_id, got.status) == ({"t": "2"}, {"depth": "6"}, run, LoggedModelStatus.READY)
    assert got.last_updated_timestamp >= got.creation_timestamp
    with pytest.raises(MlflowException, match="No tag with key 'u' found") as caught:
        client.delete_logged_model_tag(made.model_id, "u")
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    client.delete_logged_model(made.model_id)
    with pytest.raises(MlflowException, match="not found") as caught:
        client.get_logged_model(made.model_id)
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_a_model_of_a_thousand_params_comes_in_batches(client):
    params = {f"p{n}": str(n) * 50 for n in range(1000)}
    made = client.create_logged_model("0", name="wide", params=params)
    assert client.get_logged_model(made.model_id).params == params


@pytest.mark.parametrize("name", ["a/b", "a:b", "a.b", "a%b", 'a"b', "a'b"])
def test_a_name_that_the_client_would_not_take_either(client, name):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="Invalid model name") as caught:
        client.create_logged_model("0", name=name)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_what_was_measured_of_it(client, run):
    model = client.create_logged_model("0", name="trees").model_id
    client.log_metric(run, "acc", 0.5, timestamp=10, step=1, model_id=model, dataset_name="rides", dataset_digest="d1")
    client.log_metric(run, "acc", 0.5, timestamp=10, step=1, model_id=model, dataset_name="rides", dataset_digest="d1")
    client.log_metric(run, "acc", math.nan, timestamp=11, step=2, model_id=model)
    kept = client.get_logged_model(model).metrics
    assert [(item.key, item.timestamp, item.step, item.dataset_name, item.dataset_digest, item.run_id) for item in kept] == [
        ("acc", 10, 1, "rides", "d1", run),
        ("acc", 11, 2, None, None, run),
    ]
    assert kept[0].value == 0.5
    assert math.isnan(kept[1].value)
    assert len(client.get_metric_history(run, "acc")) == 2


def test_data_that_went_into_a_run(client, run):
    import mlflow.data
    import pandas as pd
    from mlflow.entities import DatasetInput, InputTag

    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, None, 2.5]})
    dataset = mlflow.data.from_pandas(frame, source="rides.csv", name="rides", targets="b")
    tags = [InputTag("mlflow.data.context", "training"), InputTag("shard", "7")]
    client.log_inputs(run, datasets=[DatasetInput(dataset._to_mlflow_entity(), tags)])
    client.log_inputs(run, datasets=[DatasetInput(dataset._to_mlflow_entity(), [])])
    (shown,) = client.get_run(run).inputs.dataset_inputs
    assert shown.dataset.to_dictionary() == dataset._to_mlflow_entity().to_dictionary()
    assert {tag.key: tag.value for tag in shown.tags} == {"mlflow.data.context": "training", "shard": "7"}


def test_models_that_went_in_and_came_out(client, run):
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    old, new = (client.create_logged_model("0", name=name).model_id for name in ("old", "new"))
    client.log_inputs(run, models=[LoggedModelInput(old)])
    client.log_outputs(run, [LoggedModelOutput(new, 3)])
    shown = client.get_run(run)
    assert [item.model_id for item in shown.inputs.model_inputs] == [old]
    assert [item.to_dictionary() for item in shown.outputs.model_outputs] == [{"model_id": new, "step": 3}]


def test_nested_runs_and_their_models(fluent, client):
    import pandas as pd

    with fluent.start_run() as parent:
        fluent.log_input(fluent.data.from_pandas(pd.DataFrame({"a": [1]}), name="rides"), context="training")
        outer = fluent.initialize_logged_model(name="outer", model_type="agent")
        with fluent.start_run(nested=True) as child:
            inner = fluent.initialize_logged_model(name="inner")
            fluent.log_model_params({"depth": "6"}, model_id=inner.model_id)
            fluent.set_logged_model_tags(inner.model_id, {"t": "1"})
            fluent.log_metric("acc", 0.5, step=2, model_id=inner.model_id)
            assert fluent.finalize_logged_model(inner.model_id, "READY").status == "READY"
        fluent.finalize_logged_model(outer.model_id, "FAILED")
    mine = client.get_run(child.info.run_id)
    assert [item.model_id for item in mine.outputs.model_outputs] == []
    got = fluent.get_logged_model(inner.model_id)
    assert (got.source_run_id, got.params, got.tags["t"], got.metrics[0].value) == (child.info.run_id, {"depth": "6"}, "1", 0.5)
    assert client.get_logged_model(outer.model_id).status == "FAILED"
    (shown,) = client.get_run(parent.info.run_id).inputs.dataset_inputs
    assert [(tag.key, tag.value) for tag in shown.tags] == [("mlflow.data.context", "training")]


def test_a_model_with_files(fluent, client, tmp_path):
    import mlflow.pyfunc

    class Doubled(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return [2 * number for number in model_input]

    with fluent.start_run() as run:
        info = mlflow.pyfunc.log_model(name="doubled", python_model=Doubled(), pip_requirements=[])
    got = client.get_logged_model(info.model_id)
    assert (got.status, got.source_run_id) == ("READY", run.info.run_id)
    assert [item.model_id for item in client.get_run(run.info.run_id).outputs.model_outputs] == [info.model_id]
    assert "MLmodel" in {item.path for item in client.list_logged_model_artifacts(info.model_id)}
    assert mlflow.pyfunc.load_model(info.model_uri).predict([1, 2]) == [2, 4]


def test_searching(client):
    number = client.create_experiment("searched")
    run = client.create_run(number).info.run_id
    made = {}
    for n, name in enumerate(("a", "b", "c")):
        made[name] = client.create_logged_model(number, name=name, params={"n": str(n)}, tags={"even": str(n % 2 == 0)}).model_id
        client.log_metric(run, "acc", n / 10, timestamp=n, model_id=made[name], dataset_name="rides", dataset_digest=str(n))

    def names(filter_string=None, **more):
        return [model.name for model in client.search_logged_models([number], filter_string, **more)]

    assert names("params.n = '1'") == ["b"]
    assert sorted(names("tags.even = 'True' AND name != 'a'")) == ["c"]
    best = [{"field_name": "metrics.acc", "ascending": False, "dataset_name": "rides"}]
    assert names("metrics.acc > 0.05", order_by=best) == ["c", "b"]
    assert names("metrics.acc >= 0", datasets=[{"dataset_name": "rides", "dataset_digest": "0"}]) == ["a"]
    client.delete_logged_model(made["a"])
    page = client.search_logged_models([number], max_results=1, order_by=[{"field_name": "name"}])
    rest = client.search_logged_models([number], max_results=1, order_by=[{"field_name": "name"}], page_token=page.token)
    assert ([model.name for model in page], [model.name for model in rest], rest.token) == (["b"], ["c"], None)
    assert rest[0].metrics[0].value == 0.2


def test_a_registered_one_says_so(fluent, client):
    model = client.create_logged_model("0", name="to register").model_id
    client.create_registered_model("registered-from-logged")
    client.create_model_version("registered-from-logged", source=f"models:/{model}", model_id=model)
    tags = client.get_logged_model(model).tags
    assert tags["mlflow.modelVersions"] == '[{"name": "registered-from-logged", "version": 1}]'
