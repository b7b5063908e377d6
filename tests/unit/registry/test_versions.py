"""Versions: appended once, never changed, gone only with a tombstone."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, insert, select

from andon.core.addresses import VERSIONED_KINDS, Address
from andon.core.digests import digest_bytes, digest_json
from andon.core.errors import Conflict, Gone, InvalidAddress, InvalidInput, NotFound, Pinned
from andon.registry import Parent, delete, entries, get, manifest_of, move_alias, register, remove_alias, resolve, versions
from andon.store import Store
from andon.store import schema as s
from tests.conftest import ANA
from tests.unit.registry.conftest import Add

BLOB = digest_bytes(b"model")


def _count(store: Store, table: Any) -> int:
    with store.ledger.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


@pytest.mark.parametrize("kind", sorted(VERSIONED_KINDS))
def test_every_kind_counts_its_versions_from_one(add: Add, store: Store, kind: str) -> None:
    assert [add(kind, "a", {"n": n}).address for n in (1, 2, 3)] == [Address(kind, "a", n) for n in (1, 2, 3)]
    assert add(kind, "b", {}).address.version == 1
    assert [version.manifest for version in versions(store, f"{kind}:a")] == [{"n": 3}, {"n": 2}, {"n": 1}]


def test_a_version_says_all_about_itself(add: Add, store: Store) -> None:
    made = add("model", "bikes", {"depth": 6}, reason="first")
    assert get(store, "model:bikes@1") == get(store, "model:bikes") == made
    assert (made.digest, made.actor, made.reason) == (digest_json({"depth": 6}), "person:ana", "first")
    assert made.created_us == store.clock.now_us()


def test_registering_the_heads_manifest_again_is_nothing(add: Add, store: Store) -> None:
    first = add("model", "bikes", {"a": 1, "b": 2})
    assert add("model", "bikes", {"b": 2, "a": 1}, reason="again") == first
    assert _count(store, s.versions) == 1


def test_going_back_is_a_step_forward(add: Add) -> None:
    assert [add("prompt", "answer", {"text": text}).address.version for text in ("old", "new", "old")] == [1, 2, 3]


def test_a_key_makes_a_second_call_the_first(add: Add, store: Store) -> None:
    first = add("model", "bikes", {"n": 1}, idempotency_key="job-1")
    add("model", "bikes", {"n": 2})
    assert add("model", "bikes", {"n": 1}, idempotency_key="job-1") == first
    with pytest.raises(Conflict) as caught:
        add("model", "bikes", {"n": 3}, idempotency_key="job-1")
    assert caught.value.fields["field"] == "idempotency_key"
    assert add("model", "other", {"n": 3}, idempotency_key="job-1").address.version == 1  # keys are each name's own
    assert add("model", "bikes", {"n": 2}, idempotency_key="job-2").address.version == 3  # a new key is a new intent
    assert _count(store, s.versions) == 4


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"kind": "run"}, InvalidAddress, "kind"),
        ({"kind": "modle"}, InvalidAddress, "kind"),
        ({"name": "Bikes"}, InvalidAddress, "name"),
        ({"name": "../x"}, InvalidAddress, "name"),
        ({"manifest": {"x": float("nan")}}, InvalidInput, "$.x"),
        ({"manifest": "x" * (4 * 1024 * 1024)}, InvalidInput, "manifest"),
        ({"reason": "a\x00b"}, InvalidInput, "reason"),
        ({"reason": "x" * 20_000}, InvalidInput, "reason"),
        ({"idempotency_key": ""}, InvalidInput, "idempotency_key"),
        ({"idempotency_key": "k" * 501}, InvalidInput, "idempotency_key"),
        ({"blobs": ["sha256:0"]}, InvalidInput, "digest"),
        ({"parents": [Parent("dataset:nope@1", "data")]}, NotFound, None),
        ({"parents": [Parent("nonsense", "data")]}, InvalidAddress, None),
    ],
)
def test_what_is_wrong_is_refused_whole(store: Store, change: dict[str, Any], kind: type[Exception], field: str | None) -> None:
    with pytest.raises(kind) as caught:
        register(store, **({"kind": "model", "name": "bikes", "manifest": {}, "actor": ANA} | change))
    assert caught.value.fields.get("field") == field  # type: ignore[attr-defined]
    for table in (s.entries, s.versions, s.edges, s.blob_refs):
        assert _count(store, table) == 0, "something of it was written"


def test_suggestions_for_what_is_not_there(add: Add, store: Store) -> None:
    add("model", "bikes")
    add("model", "bikes-hourly")
    add("dataset", "rides")
    move_alias(store, "model:bikes@champion", "model:bikes@1", actor=ANA)
    for address, says in {
        "model:bike": "did you mean model:bikes",
        "model:rides": "did you mean dataset:rides, model:bikes?",
        "model:zzz": "run `andon ls model`",
        "model:bikes@7": "has no version like that: versions 1 to 1, aliases @champion",
        "model:bikes@challenger": "has no alias like that: versions 1 to 1, aliases @champion",
        "model:bikes-hourly@x": "aliases none",
        "service:bike": "run `andon ls service`",
    }.items():
        with pytest.raises(NotFound) as caught:
            get(store, address)
        assert says in str(caught.value)
    with pytest.raises(NotFound):
        versions(store, "model:nope")
    with pytest.raises(InvalidAddress, match="a run has no versions"):
        resolve(store, "run:abc")


def test_a_service_is_suggested_by_its_channels(add: Add, store: Store) -> None:
    add("release", "bikes")
    move_alias(store, "service:bikes@production", "release:bikes@1", actor=ANA)
    with pytest.raises(NotFound, match="did you mean service:bikes"):
        get(store, "service:bike@production")
    with pytest.raises(NotFound, match="service:bikes has no alias like that: aliases @production"):
        get(store, "service:bikes@shadow")


def test_listing(add: Add, store: Store) -> None:
    for name in ("a", "b", "b_x"):
        add("model", name)
    add("dataset", "b", {"n": 1})
    add("dataset", "b", {"n": 2})
    move_alias(store, "dataset:b@sound", "dataset:b@1", actor=ANA)
    assert [(entry.kind, entry.name, entry.head) for entry in entries(store)] == [
        ("dataset", "b", 2),
        ("model", "a", 1),
        ("model", "b", 1),
        ("model", "b_x", 1),
    ]
    assert [entry.name for entry in entries(store, "model", prefix="b_")] == ["b_x"]
    assert entries(store, "dataset")[0].aliases == {"sound": "dataset:b@1"}
    assert len(entries(store, limit=2)) == 2
    assert [version.address.version for version in versions(store, "dataset:b", limit=1)] == [2]
    assert [version.address.version for version in versions(store, "dataset:b", before=2)] == [1]
    assert versions(store, "dataset:b", before=1) == []


def test_deletion_leaves_a_tombstone(add: Add, store: Store) -> None:
    add("model", "bikes", {"n": 1}, blobs=[BLOB])
    second = add("model", "bikes", {"n": 2}, idempotency_key="k")
    tombstone = delete(store, "model:bikes@2", actor=ANA, reason="privacy")
    assert (tombstone.manifest, tombstone.deleted_by, tombstone.deleted_why) == (None, "person:ana", "privacy")
    with pytest.raises(Gone) as caught:
        get(store, "model:bikes@2")
    assert caught.value.fields["why"] == "privacy"
    with pytest.raises(Gone):
        delete(store, "model:bikes@2", actor=ANA, reason="again")
    assert get(store, "model:bikes@latest").address.version == 1
    assert versions(store, "model:bikes")[0] == tombstone
    # Numbers never come back, and neither the head's digest nor the key of what was deleted counts any more.
    assert add("model", "bikes", {"n": 2}, idempotency_key="k").address.version == 3
    assert second.digest == tombstone.digest
    assert _count(store, s.blob_refs) == 1
    delete(store, "model:bikes@1", actor=ANA, reason="old")
    assert _count(store, s.blob_refs) == 0


def test_when_all_are_deleted_it_says_so(add: Add, store: Store) -> None:
    add("model", "bikes")
    delete(store, "model:bikes", actor=ANA, reason="x")
    with pytest.raises(NotFound, match="every version of model:bikes was deleted"):
        get(store, "model:bikes")
    assert add("model", "bikes").address.version == 2


def test_what_is_pinned_stays(add: Add, store: Store) -> None:
    add("model", "bikes")
    move_alias(store, "model:bikes@champion", "model:bikes@1", actor=ANA)
    with pytest.raises(Pinned, match="an alias points") as caught:
        delete(store, "model:bikes@1", actor=ANA, reason="x")
    assert "andon alias model:bikes@champion" in str(caught.value)
    remove_alias(store, "model:bikes@champion", actor=ANA)
    add("release", "bikes", {}, parents=[Parent("model:bikes@1", "model")])
    with pytest.raises(Pinned) as caught:
        delete(store, "model:bikes@1", actor=ANA, reason="x")
    assert caught.value.fields["release"] == "release:bikes@1"
    move_alias(store, "service:bikes@production", "release:bikes@1", actor=ANA)
    with pytest.raises(Pinned, match="an alias points"):
        delete(store, "release:bikes@1", actor=ANA, reason="x")
    remove_alias(store, "service:bikes@production", actor=ANA)
    delete(store, "release:bikes@1", actor=ANA, reason="x")
    assert delete(store, "model:bikes@1", actor=ANA, reason="x").deleted_us is not None


def test_a_manifest_as_a_record(add: Add) -> None:
    version = add("dataset", "rides", {"address": "dataset:rides@1", "role": "data"})
    assert manifest_of(version, Parent) == Parent("dataset:rides@1", "data")
    with pytest.raises(InvalidInput, match="not a Parent"):
        manifest_of(add("dataset", "rides", {"address": 3}), Parent)


def test_two_writers_of_the_same_key_make_one_version(shared_store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def make(n: int) -> int | None:
        made = register(shared_store, "model", "bikes", {"n": n % 4}, actor=ANA, idempotency_key=f"k{n % 4}")
        return made.address.version

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(make, range(80)))
    assert sorted(set(found)) == [1, 2, 3, 4]
    assert all(found[n] == found[n % 4] for n in range(80))


def test_a_row_beside_the_kernel_is_refused_by_the_database(add: Add, store: Store) -> None:
    add("model", "bikes")
    row = {"kind": "model", "name": "bikes", "version": 1, "digest": "x", "created_us": 0, "actor": "a", "reason": ""}
    with pytest.raises(Conflict):
        store.ledger.write(lambda c: c.execute(insert(s.versions).values(row)))
