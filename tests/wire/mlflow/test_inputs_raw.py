"""What runs read and made over the wire, by raw requests to the application itself: shapes, and what is said of wrong requests."""

from __future__ import annotations

import json

import pytest

from andon.core.actors import Actor
from andon.registry import lineage, set_tag, tags_of
from andon.registry.lineage import Edge
from andon.tracking import create_run, delete_run
from andon.tracking.inputs import DescribedInput, described_inputs_in
from andon.tracking.logged_models import run_models_in
from andon.wire.mlflow.rendering_inputs import inputs_json, outputs_json
from tests.wire.mlflow.asking import Asking

ANA = Actor("person", "ana")
RUNS = "/api/2.0/mlflow/runs"
SUMMARIES = "/ajax-api/2.0/mlflow/experiments/search-datasets"
MODEL = {"artifact_path": "m", "flavors": {"sklearn": {"code": None, "config": {"x": 1}}}, "utc_time_created": "2026-01-01", "run_id": "r"}


@pytest.fixture
def asking(store):
    asking = Asking(store)
    yield asking
    asking.close()


@pytest.fixture
def run(store):
    return create_run(store, actor=ANA).id


def _dataset(**more):
    return {"name": "d", "digest": "x", "source_type": "local", "source": "{}"} | more


def _shown(store, run):
    with store.ledger.read() as connection:
        described, models = described_inputs_in(connection, [run]).get(run, []), run_models_in(connection, [run]).get(run, [])
    return inputs_json(described, models), outputs_json(models)


def test_data_is_shown_as_it_was_told(asking, store, run):
    context, other = {"key": "mlflow.data.context", "value": "train"}, {"key": "k", "value": "v"}
    told = [
        {"tags": [context, other], "dataset": _dataset(schema="s", profile="p")},
        {"dataset": _dataset(digest="y")},
        {"tags": [other], "dataset": _dataset(name="", source="", source_type="")},
    ]
    body = {"run_id": run, "datasets": [*told, {"dataset": _dataset(source="later")}]}
    assert asking.done("POST", f"{RUNS}/log-inputs", body) == {}
    assert asking.done("POST", f"{RUNS}/log-inputs", {"run_id": run, "datasets": [{"dataset": _dataset(schema="")}]}) == {}
    assert _shown(store, run) == ({"dataset_inputs": told}, {})


def test_little_is_told_and_kept_so(asking, store, run):
    for body in (
        {},
        {"datasets": []},
        {"datasets": [{"dataset": {"name": "d"}}]},
        {"datasets": [{}]},
        {"datasets": [{"tags": []}], "models": []},
    ):
        assert asking.done("POST", f"{RUNS}/log-inputs", {"run_id": run} | body) == {}
    nothing = {"name": "", "digest": "", "source_type": "", "source": ""}
    assert _shown(store, run)[0]["dataset_inputs"] == [{"dataset": nothing | {"name": "d"}}, {"dataset": nothing}]


def test_a_run_that_told_nothing_shows_nothing(store, run):
    assert _shown(store, run) == ({}, {})


@pytest.mark.parametrize(
    ("message", "item"),
    [
        ("'name' exceeds the maximum length of 500 characters", {"dataset": _dataset(name="n" * 501)}),
        ("'digest' exceeds the maximum length of 36 characters", {"dataset": _dataset(digest="n" * 37)}),
        ("'source' exceeds the maximum length of 65535 characters", {"dataset": _dataset(source="n" * 65_536)}),
        ("'schema' exceeds the maximum length of 1048575 characters", {"dataset": _dataset(schema="n" * 1_048_576)}),
        ("'key' exceeds the maximum length of 255 characters", {"dataset": _dataset(), "tags": [{"key": "k" * 256, "value": "1"}]}),
        ("'value' exceeds the maximum length of 500 characters", {"dataset": _dataset(), "tags": [{"key": "k", "value": "1" * 501}]}),
        ("NUL", {"dataset": _dataset(name="\x00")}),
        ("'datasets", {"dataset": 5}),
        ("'datasets", 1),
    ],
)
def test_data_that_cannot_be_kept(asking, store, run, message, item):
    body = {"run_id": run, "datasets": [{"dataset": _dataset()}, item]}
    asking.refused("POST", f"{RUNS}/log-inputs", body, status=400, code="INVALID_PARAMETER_VALUE", message=message)
    assert _shown(store, run) == ({}, {})


def test_a_tag_comes_once(asking, run):
    item = {"dataset": _dataset(), "tags": [{"key": "k", "value": "1"}, {"key": "k", "value": "2"}]}
    asking.refused("POST", f"{RUNS}/log-inputs", {"run_id": run, "datasets": [item]}, status=400, code="BAD_REQUEST", message="twice")


@pytest.mark.parametrize("path", ["log-inputs", "outputs", "log-model"])
def test_a_run_that_is_not_there(asking, store, run, path):
    more = {"models": [], "model_json": json.dumps(MODEL)}
    delete_run(store, run, actor=ANA)
    gone = f"The run {run} must be in the 'active' state. Current state is deleted."
    for given, status, code, said in (
        ("nope", 404, "RESOURCE_DOES_NOT_EXIST", "Run with id=nope not found"),
        (run, 400, "INVALID_PARAMETER_VALUE", gone),
        ("", 400, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'run_id'"),
        (None, 400, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'run_id'"),
        ("a/b", 400, "INVALID_PARAMETER_VALUE", "Invalid value \"a/b\" for parameter 'run_id' supplied."),
        (5, 400, "INVALID_PARAMETER_VALUE", "'run_id'"),
    ):
        asking.refused("POST", f"{RUNS}/{path}", {"run_id": given} | more, status=status, code=code, message=said)


def test_models_in_and_out(asking, store, run):
    made = asking.done("POST", "/api/2.0/mlflow/logged-models", {"experiment_id": "0"})["model"]["info"]["model_id"]
    for _ in range(2):
        assert asking.done("POST", f"{RUNS}/log-inputs", {"run_id": run, "models": [{"model_id": "m-a"}, {"model_id": "m-a"}]}) == {}
        body = {"run_id": run, "models": [{"model_id": made, "step": 3}, {"model_id": "m-z"}]}
        assert asking.done("POST", f"{RUNS}/outputs", body) == {}
    assert asking.done("POST", f"{RUNS}/outputs", {"run_id": run, "models": []}) == {}
    inputs, outputs = _shown(store, run)
    assert inputs == {"model_inputs": [{"model_id": "m-a"}]}
    assert outputs == {"model_outputs": [{"model_id": made, "step": 3}, {"model_id": "m-z", "step": 0}]}
    assert lineage(store, f"run:{run}").edges == (Edge(f"logged-model:{made}", f"run:{run}", "run"),)


def test_outputs_that_cannot_be(asking, store, run):
    asking.done("POST", f"{RUNS}/outputs", {"run_id": run, "models": [{"model_id": "m-z", "step": 3}]})
    for models, code, said in (
        ([{"model_id": "m-y"}, {"model_id": "m-z", "step": 4}], "BAD_REQUEST", "another step"),
        ("x", "INVALID_PARAMETER_VALUE", "'models'"),
        ([{"model_id": "x" * 501}], "INVALID_PARAMETER_VALUE", ""),
        (None, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'models'"),
    ):
        asking.refused("POST", f"{RUNS}/outputs", {"run_id": run, "models": models}, status=400, code=code, message=said)
    assert _shown(store, run)[1] == {"model_outputs": [{"model_id": "m-z", "step": 3}]}


def test_the_older_list_of_models(asking, store, run):
    for more in ({}, {"artifact_path": "two", "model_uuid": "u", "signature": {}}):
        assert asking.done("POST", f"{RUNS}/log-model", {"run_id": run, "model_json": json.dumps(MODEL | more)}) == {}
    kept = json.loads(tags_of(store, f"run:{run}")["mlflow.log-model.history"])
    entry = {
        "run_id": "r",
        "artifact_path": "m",
        "utc_time_created": "2026-01-01",
        "model_uuid": None,
        "flavors": {"sklearn": {"code": None}},
    }
    assert kept == [entry, entry | {"artifact_path": "two", "model_uuid": "u"}]
    assert list(kept[0]) == list(entry)


def test_the_older_list_is_as_long_as_it_gets(asking, store, run):
    for n in range(3):
        big = MODEL | {"artifact_path": str(n), "flavors": {"x": "y" * 9_000}}
        asking.done("POST", f"{RUNS}/log-model", {"run_id": run, "model_json": json.dumps(big)})
    kept = json.loads(tags_of(store, f"run:{run}")["mlflow.log-model.history"])
    assert [item["artifact_path"] for item in kept] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "Malformed model info."),
        ("[" * 100_000, "Malformed model info."),
        ("{}", "Model json is missing mandatory fields: ['artifact_path', 'flavors', 'run_id', 'utc_time_created']"),
        (json.dumps({key: value for key, value in MODEL.items() if key != "run_id"}), "missing mandatory fields: ['run_id']"),
        ("[]", "missing mandatory fields"),
        ("3", "missing mandatory fields"),
        ("", "Missing value for required parameter 'model_json'"),
        (None, "Missing value for required parameter 'model_json'"),
    ],
)
def test_what_is_no_model(asking, store, run, given, said):
    asking.refused(
        "POST", f"{RUNS}/log-model", {"run_id": run, "model_json": given}, status=400, code="INVALID_PARAMETER_VALUE", message=said
    )
    assert tags_of(store, f"run:{run}") == {}


def test_a_list_that_somebody_broke_is_left_as_it_is(asking, store, run):
    set_tag(store, f"run:{run}", "mlflow.log-model.history", "{", actor=ANA)
    body = {"run_id": run, "model_json": json.dumps(MODEL)}
    asking.refused("POST", f"{RUNS}/log-model", body, status=400, code="INVALID_PARAMETER_VALUE", message="not a list in JSON")
    assert tags_of(store, f"run:{run}") == {"mlflow.log-model.history": "{"}


def test_the_datasets_of_experiments(asking, store, run):
    other = create_run(store, experiment="other", actor=ANA)
    context = [{"key": "mlflow.data.context", "value": "train"}]
    for which, told in (
        (run, {"dataset": _dataset(), "tags": context}),
        (run, {"dataset": _dataset(name="a")}),
        (other.id, {"dataset": _dataset()}),
    ):
        asking.done("POST", f"{RUNS}/log-inputs", {"run_id": which, "datasets": [told]})
    here = [
        {"experiment_id": "0", "name": "a", "digest": "x"},
        {"experiment_id": "0", "name": "d", "digest": "x", "context": "train"},
    ]
    there = [{"experiment_id": str(other.experiment_id), "name": "d", "digest": "x"}]
    assert asking.done("POST", SUMMARIES, {"experiment_ids": ["0"] * 20}) == {"dataset_summaries": here}
    assert asking.done("POST", SUMMARIES, {"experiment_ids": [there[0]["experiment_id"], "0"]}) == {"dataset_summaries": here + there}
    assert asking.done("POST", SUMMARIES, {"experiment_ids": ["999"]}) == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "SearchDatasets request must specify at least one experiment_id."),
        ({"experiment_ids": []}, "SearchDatasets request must specify at least one experiment_id."),
        ({"experiment_ids": ["1"] * 21}, "cannot specify more than 20 experiment_ids. Received 21 experiment_ids."),
        ({"experiment_ids": ["x"]}, "Invalid experiment ID 'x'"),
        ({"experiment_ids": "0"}, "'experiment_ids'"),
    ],
)
def test_datasets_of_what(asking, body, said):
    asking.refused("POST", SUMMARIES, body, status=400, code="INVALID_PARAMETER_VALUE", message=said)


def test_an_empty_schema_is_left_out_as_the_protocols_server_does():
    shown = inputs_json([DescribedInput(name="d", digest="x", schema="", profile="", context="")])
    assert shown == {
        "dataset_inputs": [
            {
                "tags": [{"key": "mlflow.data.context", "value": ""}],
                "dataset": {"name": "d", "digest": "x", "source_type": "", "source": ""},
            }
        ]
    }
