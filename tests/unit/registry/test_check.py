"""The checker: silent on a ledger that is whole, and it names each kind of damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete as sql_delete
from sqlalchemy import insert, update

from andon.core.digests import digest_bytes
from andon.registry import Parent, delete, link_in, move_alias, register, remove_alias, set_tag
from andon.registry.check import Problem, check_registry
from andon.store import Store, open_store, streams
from andon.store import schema as s
from tests.conftest import ANA

BLOB = digest_bytes(b"x")


@pytest.fixture
def whole(shared_store: Store) -> Store:
    """A ledger with some of everything."""
    store = shared_store
    for n in (1, 2, 3):
        register(store, "model", "bikes", {"n": n}, actor=ANA, blobs=[BLOB])
    register(store, "release", "bikes", {}, actor=ANA, parents=[Parent("model:bikes@2", "model")])
    delete(store, "model:bikes@1", actor=ANA, reason="x")
    move_alias(store, "model:bikes@champion", "model:bikes@2", actor=ANA)
    move_alias(store, "model:bikes@champion", "model:bikes@3", actor=ANA)
    move_alias(store, "model:bikes@old", "model:bikes@3", actor=ANA)
    remove_alias(store, "model:bikes@old", actor=ANA)
    set_tag(store, "model:bikes", "k", "v", actor=ANA)
    set_tag(store, "model:bikes", "gone", "v", actor=ANA)
    set_tag(store, "model:bikes", "gone", None, actor=ANA)
    for n in range(3):
        store.ledger.write(lambda c, n=n: streams.append(c, "service:bikes", "deployed", {"n": n}, at_us=n, actor=ANA))
    return store


def test_a_whole_ledger_has_no_problems(whole: Store) -> None:
    assert check_registry(whole) == []


Damage = Callable[[Any], object]
v, a, m = s.versions.c, s.aliases.c, s.alias_moves.c
third = (v.kind == "model") & (v.version == 3)
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "a version is gone": (
        lambda c: c.execute(sql_delete(s.versions).where((v.kind == "model") & (v.version == 2))),
        "model:bikes",
        "not 1 to 3",
    ),
    "all versions are gone": (lambda c: c.execute(sql_delete(s.versions).where(v.kind == "release")), "release:bikes", "no version"),
    "a head is behind": (
        lambda c: c.execute(update(s.entries).where(s.entries.c.kind == "model").values(head=2)),
        "model:bikes",
        "not 1 to 2",
    ),
    "an entry is gone": (lambda c: c.execute(sql_delete(s.entries).where(s.entries.c.kind == "release")), "release:bikes", "no entry"),
    "a manifest changed": (lambda c: c.execute(update(s.versions).where(third).values(manifest=b"{}")), "model:bikes@3", "hash"),
    "a manifest is gone": (lambda c: c.execute(update(s.versions).where(third).values(manifest=None)), "model:bikes@3", "gone"),
    "a tombstone holds its manifest": (
        lambda c: c.execute(update(s.versions).where((v.kind == "model") & (v.version == 1)).values(manifest=b"1")),
        "model:bikes@1",
        "still there",
    ),
    "an alias moved without a trace": (
        lambda c: c.execute(update(s.aliases).where(a.alias == "champion").values(target="model:bikes@2")),
        "model:bikes@champion",
        "its last move to model:bikes@3",
    ),
    "an alias points to a tombstone": (
        lambda c: c.execute(update(s.aliases).where(a.alias == "champion").values(target="model:bikes@1")),
        "model:bikes@champion",
        "does not live",
    ),
    "an alias is gone": (lambda c: c.execute(sql_delete(s.aliases).where(a.alias == "old")), "model:bikes@old", "points nowhere"),
    "a move is gone": (
        lambda c: c.execute(sql_delete(s.alias_moves).where((m.alias == "champion") & (m.revision == 1))),
        "model:bikes@champion",
        "a gap before move 2",
    ),
    "a tag changed without a trace": (lambda c: c.execute(update(s.tags).values(value="w")), "model:bikes", "journal says"),
    "a tag is gone": (lambda c: c.execute(sql_delete(s.tags)), "model:bikes", "nowhere else"),
    "lineage to nothing": (lambda c: link_in(c, "model:bikes@3", "dataset:nope@1", "data", now_us=1), "dataset:nope@1", "not known"),
    "lineage to no run": (lambda c: link_in(c, "model:bikes@3", "run:nope", "run", now_us=1), "run:nope", "not known"),
    "lineage to no address": (lambda c: link_in(c, "model:bikes@3", "nonsense", "run", now_us=1), "nonsense", "not known"),
    "bytes kept by the dead": (
        lambda c: c.execute(insert(s.blob_refs).values(owner="model:bikes@1", digest=BLOB)),
        "model:bikes@1",
        "keeps bytes",
    ),
    "bytes kept by no run": (lambda c: c.execute(insert(s.blob_refs).values(owner="run:nope", digest=BLOB)), "run:nope", "keeps bytes"),
    "an event is gone": (lambda c: c.execute(sql_delete(s.events).where(s.events.c.n == 2)), "service:bikes", "not 1 to 3"),
    "the first event is gone": (lambda c: c.execute(sql_delete(s.events).where(s.events.c.n == 1)), "service:bikes", "not 1 to 3"),
}


def test_each_damage_is_named(whole: Store) -> None:
    class UndoneError(Exception):
        pass

    from andon.registry.check import check_registry_in

    for name, (damage, subject, says) in DAMAGES.items():
        found: list[Problem] = []

        def work(connection: Any, damage: Damage = damage, found: list[Problem] = found) -> None:
            damage(connection)
            found += check_registry_in(connection)
            raise UndoneError

        with pytest.raises(UndoneError):
            whole.ledger.write(work)
        assert any(problem.subject == subject and says in problem.problem for problem in found), (name, found)
        assert all(problem.next_step for problem in found)
    assert check_registry(whole) == []


def test_damaged_pages_are_found(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for n in range(300):
            register(store, "model", f"m{n}", {"text": "x" * 2000}, actor=ANA)
    file = tmp_path / "ledger.db"
    with file.open("r+b") as raw:
        size = file.stat().st_size
        raw.seek(4096 * 200)  # beyond the first pages of every table and index: those are read when the file is opened
        raw.write(b"\xff" * (size - 4096 * 250))
    with open_store(tmp_path) as store:
        found = check_registry(store)
    assert found
    assert all(problem.subject == "ledger" and "damaged" in problem.problem for problem in found)
    assert "backup" in found[0].next_step
