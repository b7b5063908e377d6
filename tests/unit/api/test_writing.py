"""The writes: what they do, and what they refuse with nothing half-done."""

from __future__ import annotations

import pytest

from andon.registry import aliases_of, tags_of
from andon.releases import service_state
from andon.store import Store
from tests.unit.api.conftest import Client

SERVICE = "/api/v1/services/bikes"


def test_rollback_moves_production_and_rejects_what_was_left(client: Client, seeded: Store) -> None:
    answer = client.post(
        f"{SERVICE}/rollback",
        json={"reason": "mornings are wrong", "expected": "release:bikes@3"},
        headers={"x-andon-actor": "person:cleo"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "channel": "production",
        "release": "release:bikes@1",
        "previous": "release:bikes@3",
        "made": False,
        "rollout": "",
    }
    state = service_state(seeded, "bikes")
    assert state.rejections["release:bikes@3"].actor == "person:cleo"
    refused = client.post(f"{SERVICE}/deploy", json={"release": "release:bikes@3", "reason": "again"})
    assert refused.status_code == 403
    assert refused.json()["error"]["fields"]["why"] == "mornings are wrong"


def test_a_stale_page_cannot_roll_back_what_it_has_not_seen(client: Client, seeded: Store) -> None:
    answer = client.post(f"{SERVICE}/rollback", json={"reason": "x", "expected": "release:bikes@1"})
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "alias-moved"
    assert service_state(seeded, "bikes").current() == "release:bikes@3"


def test_a_refused_release_is_deployed_only_by_a_waiver(client: Client, seeded: Store) -> None:
    deploy = {"release": "release:bikes@2", "reason": "we need it"}
    assert client.post(f"{SERVICE}/deploy", json=deploy).json()["error"]["code"] == "gate-refused"
    waived = client.post("/api/v1/releases/bikes/2/waive", json={"reason": "the gate's data is wrong", "lasting": "12h"})
    assert waived.status_code == 200, waived.text
    assert client.post(f"{SERVICE}/deploy", json=deploy).status_code == 200
    assert aliases_of(seeded, "service:bikes")["production"] == "release:bikes@2"
    assert client.post("/api/v1/releases/bikes/2/waive", json={"reason": "x"}, headers={"x-andon-actor": "token:ci"}).status_code == 403


def test_an_alias_race_has_one_winner(client: Client, seeded: Store) -> None:
    move = {"address": "model:bikes@candidate", "to": "model:bikes@1", "expected": "model:bikes@2", "reason": "back"}
    assert client.post("/api/v1/aliases", json=move).status_code == 200
    lost = client.post("/api/v1/aliases", json=move | {"to": "model:bikes@2"})
    assert lost.status_code == 409
    assert lost.json()["error"]["fields"] == {"alias": "model:bikes@candidate", "expected": "model:bikes@2", "found": "model:bikes@1"}
    assert client.post("/api/v1/aliases", json={"address": "model:bikes@candidate", "to": None}).json()["target"] is None
    assert "candidate" not in aliases_of(seeded, "model:bikes")
    channel = client.post("/api/v1/aliases", json={"address": "service:bikes@production", "to": "release:bikes@1"})
    assert channel.status_code == 400


def test_tags_labels_and_deletion(client: Client, seeded: Store) -> None:
    assert client.post("/api/v1/tags", json={"address": "model:bikes@1", "key": "team", "value": "mobility"}).json()["done"] == "set"
    assert tags_of(seeded, "model:bikes@1") == {"team": "mobility"}
    assert client.post("/api/v1/tags", json={"address": "model:bikes@1", "key": "team", "value": None}).json()["done"] == "removed"
    labels = {"labels": [{"request_id": "r1", "label": 4.5, "event_time": "2011-09-09T00:00:00Z"}, {"request_id": "r2", "label": "cat"}]}
    assert client.post(f"{SERVICE}/labels", json=labels).json() == {"done": "recorded", "detail": 2}
    assert client.delete("/api/v1/versions?address=model:bikes@1&reason=old").json()["error"]["code"] == "pinned"
    assert client.delete("/api/v1/versions?address=prompt:answer@1&reason=unused").json()["detail"] == "prompt:answer@1"
    assert client.get("/api/v1/show?address=prompt:answer@1").status_code == 410
    assert client.delete("/api/v1/versions?address=prompt:answer&reason=unused").status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (f"{SERVICE}/rollback", {}, "reason"),
        (f"{SERVICE}/rollback", {"reason": ""}, "reason"),
        (f"{SERVICE}/rollback", {"reason": "x", "colour": 1}, "colour"),
        (f"{SERVICE}/rollback", {"reason": "x", "only": ["weather"]}, "only[0]"),
        (f"{SERVICE}/rollback", {"reason": 7}, "reason"),
        (f"{SERVICE}/deploy", {"reason": "x", "release": "release:fraud@1"}, "release"),
        (f"{SERVICE}/deploy", {"reason": "x", "release": "release:bikes@1", "event_time": "yesterday"}, "event_time"),
        (f"{SERVICE}/labels", {"labels": [{"request_id": "a", "label": 1}, {"request_id": "", "label": 1}]}, "labels[1].request_id"),
        ("/api/v1/aliases", {"address": "model:bikes@latest", "to": "model:bikes@1"}, "alias"),
        ("/api/v1/tags", {"address": "model:bikes@1", "key": "", "value": "x"}, "key"),
        ("/api/v1/releases/bikes/2/waive", {"reason": "x", "lasting": "for ever"}, "duration"),
    ],
)
def test_bad_input_names_the_field(client: Client, seeded: Store, path: str, body: dict[str, object], field: str) -> None:
    before = seeded.ledger.changes()
    answer = client.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["fields"]["field"] == field
    assert seeded.ledger.changes() == before or path.endswith("waive")


@pytest.mark.parametrize("body", [b"{nope", b"[1]", b"", b"\xff\xfe", b'{"reason": NaN}'])
def test_wrong_json_is_a_clear_400(client: Client, body: bytes) -> None:
    answer = client.post(f"{SERVICE}/rollback", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "invalid-input"


@pytest.mark.parametrize(("actor", "status"), [("controller:incidents", 403), ("nobody", 400), ("person:", 400), ("person:a\tb", 400)])
def test_the_actor_of_a_write_is_checked(client: Client, actor: str, status: int) -> None:
    answer = client.post(f"{SERVICE}/rollback", json={"reason": "x"}, headers={"x-andon-actor": actor})
    assert answer.status_code == status, answer.text


def test_what_a_page_calls_deployable_is_what_deploy_accepts(client: Client, seeded: Store) -> None:
    client.post(f"{SERVICE}/rollback", json={"reason": "so that one is rejected"})
    client.post("/api/v1/releases/answers/1/waive", json={"reason": "so that one is waived", "lasting": "1h"})
    seen = set()
    for service in ("bikes", "answers", "power"):
        for row in client.get(f"/api/v1/services/{service}").json()["releases"]:
            answer = client.post(f"/api/v1/services/{service}/deploy", json={"release": row["address"], "reason": "to see"})
            assert (answer.status_code == 200) == row["deployable"], (row, answer.text)
            seen.add((row["state"].split(":")[0], row["deployable"]))
    assert {deployable for _, deployable in seen} == {True, False}
    assert len(seen) >= 4
