"""Every GET of the own API, over a seeded line and over nothing at all."""

from __future__ import annotations

import pytest

from andon.registry import get
from andon.store import Store
from tests.browser.seeding import INCIDENT
from tests.unit.api.conftest import Client

PATHS = (
    "/health",
    "/api/v1/line",
    "/api/v1/services",
    "/api/v1/services/bikes",
    "/api/v1/services/answers",
    "/api/v1/services/bikes/history",
    "/api/v1/releases/bikes/3",
    "/api/v1/releases/bikes/latest",
    "/api/v1/runs",
    "/api/v1/runs?experiment=bikes&status=failed&limit=2",
    "/api/v1/entries/model",
    "/api/v1/entries/policy?prefix=gate/",
    "/api/v1/show?address=model:bikes",
    "/api/v1/show?address=service:bikes",
    "/api/v1/show?address=service:bikes@production",
    "/api/v1/show?address=experiment:bikes",
    "/api/v1/lineage?address=model:bikes&direction=up",
    "/api/v1/diff?a=release:bikes@1&b=release:bikes@3",
    "/api/v1/incidents?service=bikes",
    f"/api/v1/incidents/{INCIDENT}",
    "/api/v1/verdicts?subject=service:bikes&check=live-quality&status=fail",
    "/schema",
    "/schema/openapi.json",
)


@pytest.mark.parametrize("path", PATHS)
def test_it_answers(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.json()


@pytest.mark.parametrize(
    "path",
    ["/health", "/api/v1/line", "/api/v1/services", "/api/v1/runs", "/api/v1/entries/model", "/api/v1/incidents", "/api/v1/verdicts"],
)
def test_an_empty_store_is_an_empty_line(empty_client: Client, path: str) -> None:
    assert empty_client.get(path).status_code == 200


def test_the_line_says_which_light_and_why(client: Client) -> None:
    line = client.get("/api/v1/line").json()
    lights = {service["name"]: (service["light"], service["why"]) for service in line["services"]}
    assert lights["bikes"][0] == "red"
    assert lights["bikes"][1] == "A bad release: bikes@3"
    assert lights["fraud"] == ("yellow", "training is blocked: merchant_id has been null since Tuesday's import")
    assert lights["power"][0] == "green"
    assert lights["answers"] == ("grey", "nothing holds production")
    assert line["services"][0]["name"] == "bikes"
    stations = {station["key"]: station["count"] for station in line["stations"]}
    assert stations == {"runs": 8, "datasets": 3, "registry": 6, "gates": 6, "releases": 6, "serving": 3, "monitors": 114, "incidents": 1}
    newest = line["happenings"][0]
    assert (newest["what"], newest["address"]) == (f"incident:{INCIDENT} note", f"incident:{INCIDENT}")
    assert newest["reason"].startswith("Ben:")
    opened = next(one for one in line["happenings"] if one["what"].endswith(" opened"))
    assert opened["reason"] == "A bad release: bikes@3", "the sentence is on the incident's own page"


def test_a_release_says_what_differs_from_the_last_good_one(client: Client) -> None:
    release = client.get("/api/v1/releases/bikes/3").json()
    assert release["compared_with"] == "release:bikes@1"
    assert {pin["component"] for pin in release["pins"] if pin["changed"]} == {"code", "environment", "model"}
    assert {"before": "scikit-learn==1.9.1", "after": "scikit-learn==1.9.2", "path": "environment.requirements[scikit-learn]"} in release[
        "changes"
    ]
    assert release["light"] == "red"
    assert "incident is open" in release["state"]
    refused = client.get("/api/v1/releases/bikes/2").json()
    assert (refused["deployable"], refused["answer"], refused["why_not"]) == (False, 1, "the gate refused it")
    blocks = {row["verdict"]["check"]: row["blocks"] for row in refused["judged"]}
    assert blocks == {"mae-beats-baseline": True, "mae-not-worse": True, "mse-not-worse": False}


def test_a_service_shows_its_windows_traffic_and_way_back(client: Client) -> None:
    service = client.get("/api/v1/services/bikes").json()
    assert len(service["quality"]) == 44
    assert service["quality"][-1]["status"] == "fail"
    assert service["threshold"] == 1.4
    assert service["traffic"]["rows"] == 44 * 24
    assert service["traffic"]["by_release"] == {"release:bikes@1": 37 * 24, "release:bikes@3": 7 * 24}
    assert service["traffic"]["labels"] == 43 * 24
    assert service["rollback_target"] == "release:bikes@1"
    assert service["rollback_says"].startswith("Production moves from release:bikes@3 to release:bikes@1.")
    assert service["drift"]["status"] == "warn"
    assert {verdict["check"] for verdict in service["data_quality"]} == {"inputs/nulls", "inputs/range", "inputs/constant", "inputs/volume"}


def test_an_incident_reads_as_a_story(client: Client) -> None:
    incident = client.get(f"/api/v1/incidents/{INCIDENT}").json()
    assert incident["cause"] == "a bad release"
    assert incident["worst_slice"] == "hr in 7-9: 3.41 × expected loss (21 labels)"
    assert "0.57 × the loss" in incident["counterfactual"]
    assert incident["changed"] == [
        "service:bikes@production release:bikes@1 → release:bikes@3 on 2011-09-07: other code, environment, model"
    ]
    assert [row["type"] for row in incident["timeline"]] == ["open", "block-training", "note"]
    action = incident["actions"][0]
    assert (action["verb"], action["target"], action["recommended"]) == ("rollback", "release:bikes@1", True)


def test_a_runs_series_comes_by_step(client: Client) -> None:
    run = next(run for run in client.get("/api/v1/runs?experiment=bikes").json()["runs"] if run["name"] == "depth-6")
    series = client.get(f"/api/v1/runs/{run['id']}/series?key=mae").json()
    assert series["steps"] == list(range(120))
    assert series["values"][-1] == run["metrics"]["mae"]
    thinned = client.get(f"/api/v1/runs/{run['id']}/series?key=mae&limit=20").json()
    assert thinned["total"] == 120
    assert len(thinned["steps"]) <= 20
    assert max(thinned["values"]) == max(series["values"])
    assert min(thinned["values"]) == min(series["values"])
    missing = client.get(f"/api/v1/runs/{run['id']}/series?key=nope")
    assert missing.status_code == 404
    assert "it has learning_rate, mae, val/mae" in missing.json()["error"]["next_step"]


def test_a_run_names_what_is_missing_from_it(client: Client) -> None:
    runs = {run["name"]: run["id"] for run in client.get("/api/v1/runs").json()["runs"]}
    whole = client.get(f"/api/v1/runs/{runs['depth-6']}").json()["completeness"]
    assert all(item["present"] for item in whole)
    partial = {item["name"]: item for item in client.get(f"/api/v1/runs/{runs['depth-12-no-seed']}").json()["completeness"]}
    assert not partial["seeds"]["present"]
    assert not partial["data"]["present"]


def test_a_name_with_a_slash_is_one_path_segment(client: Client, seeded: Store) -> None:
    answer = client.get("/registry/policy/gate%2Fdefault", headers={"accept": "text/html"})
    assert answer.status_code == 200
    assert get(seeded, "policy:gate/default").digest[:15] in answer.text


def test_unknown_things_are_404_with_what_is_close(client: Client) -> None:
    error = client.get("/api/v1/services/bike").json()["error"]
    assert error == {
        "code": "not-found",
        "message": "There is nothing at that address.",
        "next_step": "did you mean service:bikes?",
        "fields": {"address": "service:bike"},
    }
    assert "did you mean model:bikes?" in client.get("/api/v1/show?address=model:bikez").json()["error"]["next_step"]
    assert client.get("/api/v1/releases/bikes/99").status_code == 404
    assert client.get("/api/v1/verdicts?subject=nonsense").json()["error"]["code"] == "invalid-address"


def test_the_schema_names_every_operation(client: Client) -> None:
    schema = client.get("/schema").json()
    assert {"/api/v1/services/{name}/rollback", "/api/v1/aliases", "/api/v1/events"} <= schema["paths"].keys()
    assert all(path.startswith(("/api/v1/", "/health", "/metrics")) for path in schema["paths"])
