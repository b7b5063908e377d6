"""Evaluation datasets over the wire, by raw requests to the application itself: shapes, and what is said of wrong requests."""

from __future__ import annotations

import json

import pytest

from andon.core.actors import Actor
from andon.tracking import create_experiment
from tests.wire.mlflow.asking import Asking

ANA = Actor("person", "ana")
AT = "/api/3.0/mlflow/datasets"


@pytest.fixture
def asking(store):
    asking = Asking(store)
    yield asking
    asking.close()


@pytest.fixture
def dataset(asking):
    return asking.done("POST", f"{AT}/create", {"name": "qa"})["dataset"]["dataset_id"]


def _upsert(asking, dataset, records):
    return asking.done("POST", f"{AT}/{dataset}/records", {"records": json.dumps(records)})


def _records(asking, dataset, query=""):
    return json.loads(asking.done("GET", f"{AT}/{dataset}/records{query}")["records"])


def test_a_new_dataset(asking, store, clock):
    number = str(create_experiment(store, "bikes", actor=ANA).id)
    body = {"name": "qa", "experiment_ids": [number, number], "tags": json.dumps({"t": "1", "mlflow.user": "bob", "n": 5, "z": None})}
    made = asking.done("POST", f"{AT}/create", body)["dataset"]
    now_ms = clock.now_us() // 1000
    shown = {
        "dataset_id": made["dataset_id"],
        "name": "qa",
        "tags": made["tags"],
        "digest": made["digest"],
        "created_time": now_ms,
        "last_update_time": now_ms,
        "created_by": "bob",
        "last_updated_by": "bob",
    }
    assert made == shown | {"experiment_ids": [number]}
    assert json.loads(made["tags"]) == {"t": "1", "mlflow.user": "bob", "n": "5"}
    got = asking.done("GET", f"{AT}/{made['dataset_id']}")["dataset"]
    assert got | {"tags": json.loads(got["tags"])} == shown | {"tags": json.loads(made["tags"])}
    assert asking.done("GET", f"{AT}/{made['dataset_id']}/experiment-ids") == {"experiment_ids": [number]}


def test_records_are_shown_as_they_were_told(asking, clock, dataset):
    told = [
        {
            "inputs": {"q": "a"},
            "outputs": "x",
            "expectations": {"e": 1},
            "tags": {"mlflow.user": "ana", "t": "1"},
            "source": {"source_type": "trace", "source_data": {"trace_id": "tr-1"}},
        },
        {"inputs": {"q": "b"}, "outputs": None},
        {},
    ]
    assert _upsert(asking, dataset, told) == {"inserted_count": 3, "updated_count": 0}
    assert _upsert(asking, dataset, told[1:]) == {"inserted_count": 0, "updated_count": 2}
    for nothing in ([], {}):
        assert _upsert(asking, dataset, nothing) == {"inserted_count": 0, "updated_count": 0}
    one, two, three = _records(asking, dataset)
    times = {"created_time": clock.now_us() // 1000, "last_update_time": clock.now_us() // 1000}
    about = {"dataset_id": dataset} | times
    source = {"source": {"source_type": "TRACE", "source_data": {"trace_id": "tr-1"}}, "source_type": "TRACE", "source_id": "tr-1"}
    by = {"created_by": "ana", "last_updated_by": "ana"}
    assert one == told[0] | source | about | by | {"dataset_record_id": one["dataset_record_id"]}
    assert two == {"inputs": {"q": "b"}, "tags": {}} | about | {"dataset_record_id": two["dataset_record_id"]}
    assert three == {"inputs": {}, "tags": {}, "outputs": {}} | about | {"dataset_record_id": three["dataset_record_id"]}
    shown = asking.done("GET", f"{AT}/{dataset}")["dataset"]
    assert json.loads(shown["profile"]) == {"num_records": 3}
    fields = {"inputs": {"q": "string"}, "outputs": "string", "expectations": {"e": "integer"}, "version": "1.0"}
    assert json.loads(shown["schema"]) == fields


def test_records_in_pages(asking, dataset):
    _upsert(asking, dataset, [{"inputs": {"n": n}} for n in range(5)])
    seen, token = [], ""
    for _ in range(3):
        page = asking.done("GET", f"{AT}/{dataset}/records?max_results=2{token}")
        seen += [record["inputs"]["n"] for record in json.loads(page["records"])]
        token = f"&page_token={page.get('next_page_token')}"
    assert (seen, page.get("next_page_token")) == ([0, 1, 2, 3, 4], None)
    body = {"max_results": 2}
    assert len(json.loads(asking.done("GET", f"{AT}/{dataset}/records", body)["records"])) == 2
    for query in ("?max_results=-1", "?max_results=50001", "?page_token=junk"):
        asking.refused("GET", f"{AT}/{dataset}/records{query}", status=400, code="INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ("", "Missing value for required parameter 'records'"),
        (None, "Missing value for required parameter 'records'"),
        ("{", "'records': it is not JSON"),
        ("[" * 100_000, "'records': it is not JSON"),
        ("5", "'records'"),
        ('{"a": 1}', "'records'"),
        ("[5]", "'records[0]'"),
        ('[{}, {"inputs": null}]', "'records[1]': its 'inputs'"),
        ('[{"inputs": 5}]', "its 'inputs'"),
        ('[{"tags": []}]', "its 'tags'"),
        ('[{"expectations": "x"}]', "its 'expectations'"),
        ('[{"source": "x"}]', "its 'source'"),
        ('[{"source": {"x": 1}}]', "its 'source'"),
        ('[{"source": {"source_type": "HUMAN", "source_data": 5}}]', "'source_data'"),
        (
            '[{"source": {"source_type": "nope"}}]',
            "Invalid dataset record source type: NOPE. Valid source types: ['UNSPECIFIED', 'TRACE', ",
        ),
    ],
)
def test_records_that_cannot_be(asking, dataset, records, said):
    asking.refused("POST", f"{AT}/{dataset}/records", {"records": records}, status=400, code="INVALID_PARAMETER_VALUE", message=said)
    assert _records(asking, dataset) == []


def test_deleting_records(asking, dataset):
    _upsert(asking, dataset, [{"inputs": {"n": n}} for n in range(2)])
    first = _records(asking, dataset)[0]["dataset_record_id"]
    body = {"dataset_record_ids": [first, first, "dr-0"]}
    assert asking.done("DELETE", f"{AT}/{dataset}/records", body) == {"deleted_count": 1}
    assert asking.done("DELETE", f"{AT}/{dataset}/records", {}) == {"deleted_count": 0}
    assert [record["inputs"] for record in _records(asking, dataset)] == [{"n": 1}]


def test_tags(asking, dataset):
    at = f"{AT}/{dataset}/tags"
    assert asking.done("PATCH", at, {"tags": '{"a/b": "1", "c": true, "d": null}'}) == {}
    assert json.loads(asking.done("GET", f"{AT}/{dataset}")["dataset"]["tags"]) == {"a/b": "1", "c": "true"}
    for _ in range(2):
        assert asking.done("DELETE", f"{at}/a/b") == {}
    assert json.loads(asking.done("GET", f"{AT}/{dataset}")["dataset"]["tags"]) == {"c": "true"}
    for body, said in (({}, "Missing value"), ({"tags": "{"}, "not JSON"), ({"tags": "5"}, "an object"), ({"tags": '{"": "x"}'}, "'key'")):
        asking.refused("PATCH", at, body, status=400, code="INVALID_PARAMETER_VALUE", message=said)


def test_experiments(asking, store, dataset):
    number = str(create_experiment(store, "bikes", actor=ANA).id)
    add, remove = f"{AT}/{dataset}/add-experiments", f"{AT}/{dataset}/remove-experiments"
    assert asking.done("POST", add, {"experiment_ids": ["0", number]})["dataset"]["dataset_id"] == dataset
    assert asking.done("POST", remove, {"experiment_ids": ["0", "x", "999"]})["dataset"]["dataset_id"] == dataset
    assert asking.done("GET", f"{AT}/{dataset}/experiment-ids") == {"experiment_ids": [number]}
    for text in ("999", "x"):
        said = f"No Experiment with id={text}"
        asking.refused("POST", add, {"experiment_ids": [text]}, status=404, code="RESOURCE_DOES_NOT_EXIST", message=said)
        asking.refused(
            "POST", f"{AT}/create", {"name": "x", "experiment_ids": [text]}, status=404, code="RESOURCE_DOES_NOT_EXIST", message=said
        )


def test_searching(asking, dataset):
    other = asking.done("POST", f"{AT}/create", {"name": "other", "experiment_ids": ["0"]})["dataset"]["dataset_id"]
    for body, found in (
        ({"order_by": ["name ASC"]}, [other, dataset]),
        ({"filter_string": "name = 'qa'"}, [dataset]),
        ({"experiment_ids": ["0"]}, [other]),
        ({"experiment_ids": [], "filter_string": "name LIKE 'o%'"}, [other]),
    ):
        assert [item["dataset_id"] for item in asking.done("POST", f"{AT}/search", body)["datasets"]] == found
    assert asking.done("POST", f"{AT}/search", {"filter_string": "name = 'none'"}) == {}
    first = asking.done("GET", f"{AT}/search?max_results=1&order_by=name")
    assert [item["dataset_id"] for item in first["datasets"]] == [other]
    then = asking.done("GET", f"{AT}/search?max_results=1&order_by=name&page_token={first['next_page_token']}")
    assert [item["dataset_id"] for item in then["datasets"]] == [dataset]
    for body in ({"filter_string": "junk"}, {"max_results": 0}, {"order_by": ["nope"]}, {"page_token": "junk"}, {"experiment_ids": ["x"]}):
        asking.refused("POST", f"{AT}/search", body, status=400, code="INVALID_PARAMETER_VALUE")


def test_one_that_is_not_there(asking):
    gone = {"status": 404, "code": "RESOURCE_DOES_NOT_EXIST"}
    asking.refused("GET", f"{AT}/d-0", **gone, message="Evaluation dataset with id 'd-0' not found")
    asking.refused("PATCH", f"{AT}/d-0/tags", {"tags": "{}"}, **gone, message="Could not find evaluation dataset with ID d-0")
    for path in ("add-experiments", "remove-experiments"):
        asking.refused("POST", f"{AT}/d-0/{path}", {"experiment_ids": ["0"]}, **gone, message="Dataset 'd-0' not found")
    asking.refused("POST", f"{AT}/d-0/records", {"records": "[{}]"}, status=400, code="BAD_REQUEST", message="not found")
    assert asking.done("GET", f"{AT}/d-0/records") == {"records": "[]"}
    assert asking.done("GET", f"{AT}/d-0/experiment-ids") == {}
    assert asking.done("DELETE", f"{AT}/d-0/tags/a") == {}
    assert asking.done("DELETE", f"{AT}/d-0") == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "Missing value for required parameter 'name'"),
        ({"name": ""}, "Missing value for required parameter 'name'"),
        ({"name": 5}, "'name'"),
        ({"name": "x" * 1_001}, "'name'"),
        ({"name": "x", "tags": "{"}, "'tags': it is not JSON"),
        ({"name": "x", "tags": {"a": "1"}}, "'tags'"),
        ({"name": "x", "experiment_ids": "0"}, "'experiment_ids'"),
    ],
)
def test_datasets_that_cannot_be(asking, body, said):
    asking.refused("POST", f"{AT}/create", body, status=400, code="INVALID_PARAMETER_VALUE", message=said)
    assert asking.done("POST", f"{AT}/search", {}) == {}
