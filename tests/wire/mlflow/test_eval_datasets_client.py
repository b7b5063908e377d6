"""Evaluation datasets with the stock client, against a server on each engine."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture
def datasets(andon_server, client):
    """``mlflow.genai.datasets``, pointed at Andon; the tracking URI is as it was afterwards."""
    import mlflow
    import mlflow.genai.datasets

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(andon_server.url)
    yield mlflow.genai.datasets
    mlflow.set_tracking_uri(before)


def test_a_life(datasets, client):
    from mlflow.exceptions import MlflowException

    made = datasets.create_dataset(name="qa", experiment_id=["0"], tags={"team": "bikes"})
    assert (made.name, made.tags["team"], made.experiment_ids) == ("qa", "bikes", ["0"])
    records = [
        {"inputs": {"question": "how many?"}, "expectations": {"answer": "three"}},
        {"inputs": {"question": "where?"}, "outputs": {"text": "here"}},
    ]
    made.merge_records(records)
    made.merge_records([{"inputs": {"question": "how many?"}, "expectations": {"lang": "en"}}])
    got = datasets.get_dataset(dataset_id=made.dataset_id)
    frame = got.to_df()
    assert list(frame["inputs"]) == [record["inputs"] for record in records]
    assert frame["expectations"][0] == {"answer": "three", "lang": "en"}
    assert list(frame["source_type"]) == ["HUMAN", "CODE"]
    datasets.set_dataset_tags(dataset_id=made.dataset_id, tags={"team": "cars", "v": "2"})
    datasets.delete_dataset_tag(dataset_id=made.dataset_id, key="v")
    assert datasets.get_dataset(dataset_id=made.dataset_id).tags["team"] == "cars"
    assert [found.dataset_id for found in datasets.search_datasets(experiment_ids=["0"], filter_string="tags.team = 'cars'")] == [
        made.dataset_id
    ]
    number = client.create_experiment("more")
    datasets.add_dataset_to_experiments(dataset_id=made.dataset_id, experiment_ids=[number])
    assert datasets.get_dataset(dataset_id=made.dataset_id).experiment_ids == ["0", number]
    datasets.remove_dataset_from_experiments(dataset_id=made.dataset_id, experiment_ids=["0"])
    assert datasets.get_dataset(dataset_id=made.dataset_id).experiment_ids == [number]
    assert got.delete_records([frame["dataset_record_id"][0]]) == 1
    assert len(datasets.get_dataset(dataset_id=made.dataset_id).to_df()) == 1
    assert datasets.get_dataset(name="qa").dataset_id == made.dataset_id
    datasets.delete_dataset(dataset_id=made.dataset_id)
    with pytest.raises(MlflowException, match="not found") as caught:
        datasets.get_dataset(dataset_id=made.dataset_id)
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_more_records_than_a_page(datasets):
    made = datasets.create_dataset(name="many")
    made.merge_records([{"inputs": {"n": n}} for n in range(2_500)])
    frame = datasets.get_dataset(dataset_id=made.dataset_id).to_df()
    assert [item["n"] for item in frame["inputs"]] == list(range(2_500))
