"""Names before and beside their versions."""

from __future__ import annotations

import pytest

from andon.core.errors import Conflict, Gone, InvalidAddress, NotFound, Pinned
from andon.operations import showing
from andon.registry import (
    Parent,
    create_entry_in,
    delete_entry_in,
    describe_entry_in,
    entries,
    entry_in,
    entry_titled_in,
    get,
    move_alias,
    moves,
    register,
    retitle_in,
    set_tag,
    tags_of,
    versions,
)
from andon.registry.check import check_registry
from andon.registry.entries import name_for
from andon.store import Store
from tests.conftest import ANA
from tests.unit.registry.conftest import Add


def make(store: Store, title: str, kind: str = "model", **options: str) -> str:
    """The address of a new entry."""
    now_us = store.clock.now_us()
    made = store.ledger.write(lambda c: create_entry_in(c, kind, title, now_us=now_us, actor=ANA, **options))
    return f"{made.kind}:{made.name}"


def drop(store: Store, address: str) -> None:
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: delete_entry_in(c, address, now_us=now_us, actor=ANA, reason="no longer needed"))


def titled(store: Store, title: str) -> str | None:
    with store.ledger.read() as connection:
        found = entry_titled_in(connection, ("model", "prompt"), title)
    return None if found is None else f"{found.kind}:{found.name}"


def test_a_title_that_fits_is_the_name(store: Store) -> None:
    assert make(store, "bikes", description="hourly counts") == "model:bikes"
    (entry,) = entries(store, "model")
    assert (entry.head, entry.title, entry.description) == (0, "bikes", "hourly counts")


def test_another_title_gets_a_name_of_its_own(store: Store) -> None:
    first, second = make(store, "My Model"), make(store, "my model")
    assert first == f"model:{name_for('My Model')}"
    assert second == f"model:{name_for('my model')}"
    assert first != second
    assert titled(store, "My Model") == first
    assert titled(store, "MY MODEL") is None


@pytest.mark.parametrize("title", ["Ünïcode ✓", "...", "x" * 3000, "@", "a..b/../c", "日本語"])
def test_any_title_gets_a_valid_name(store: Store, title: str) -> None:
    assert titled(store, title) is None
    address = make(store, title)
    assert titled(store, title) == address
    with store.ledger.read() as connection:
        assert entry_in(connection, address).title == title


def test_a_title_is_taken_once_in_a_kind(store: Store) -> None:
    make(store, "bikes")
    with pytest.raises(Conflict):
        make(store, "bikes")
    assert make(store, "bikes", "prompt") == "prompt:bikes"
    with pytest.raises(InvalidAddress):
        make(store, "bikes", "run")


def test_an_entry_without_versions_can_be_looked_at(store: Store) -> None:
    address = make(store, "bikes")
    assert versions(store, address) == []
    with pytest.raises(NotFound, match="no version yet"):
        get(store, address)
    view = showing.show(store, address)
    assert (view.entry.head, view.versions, view.shown) == (0, (), None)
    assert [row.address for row in showing.entry_rows(store)] == [address]
    assert moves(store, address) == []
    assert check_registry(store) == []


def test_the_first_version_is_1(store: Store) -> None:
    address = make(store, "bikes")
    assert str(register(store, "model", "bikes", {"n": 1}, actor=ANA).address) == f"{address}@1"


def test_what_andon_registered_itself_is_found_by_its_name(store: Store, add: Add) -> None:
    add("model", "bikes")
    assert titled(store, "bikes") == "model:bikes"
    with pytest.raises(Conflict):
        make(store, "bikes")


def test_a_new_title_leaves_the_address(store: Store, add: Add) -> None:
    add("model", "bikes")
    store.ledger.write(lambda c: retitle_in(c, "model:bikes", "Bikes 2", now_us=5))
    assert titled(store, "Bikes 2") == "model:bikes"
    assert titled(store, "bikes") is None
    other = make(store, "bikes")  # the title is free; the name is not
    assert other == f"model:{name_for('bikes')}"
    with pytest.raises(Conflict):
        store.ledger.write(lambda c: retitle_in(c, other, "Bikes 2", now_us=5))


def test_deleting_a_name_deletes_all_of_it(store: Store, add: Add) -> None:
    add("model", "bikes", {"n": 1})
    add("model", "bikes", {"n": 2})
    move_alias(store, "model:bikes@champion", "model:bikes@2", actor=ANA)
    set_tag(store, "model:bikes", "owner", "ana", actor=ANA)
    set_tag(store, "model:bikes@1", "mae", "3", actor=ANA)
    drop(store, "model:bikes")
    assert entries(store) == []
    assert titled(store, "bikes") is None
    assert (tags_of(store, "model:bikes"), tags_of(store, "model:bikes@1")) == ({}, {})
    with pytest.raises(Gone):
        get(store, "model:bikes@2")
    assert moves(store, "model:bikes")[-1].target is None  # its history stays
    assert check_registry(store) == []


def test_a_name_made_again_goes_on_with_its_numbers(store: Store, add: Add) -> None:
    add("model", "bikes", {"n": 1})
    drop(store, "model:bikes")
    assert make(store, "bikes", description="again") == "model:bikes"
    (entry,) = entries(store)
    assert (entry.head, entry.description) == (1, "again")
    assert str(add("model", "bikes", {"n": 2}).address) == "model:bikes@2"
    drop(store, "model:bikes")
    assert str(add("model", "bikes", {"n": 3}).address) == "model:bikes@3"  # registering brings a name back too
    assert [row.name for row in entries(store)] == ["bikes"]


def test_a_name_without_versions_leaves_nothing(store: Store) -> None:
    address = make(store, "bikes")
    set_tag(store, address, "owner", "ana", actor=ANA)
    drop(store, address)
    with pytest.raises(NotFound):
        versions(store, address)
    assert check_registry(store) == []


def test_a_name_that_a_release_needs_stays_whole(store: Store, add: Add) -> None:
    add("model", "bikes", {"n": 1})
    add("model", "bikes", {"n": 2})
    move_alias(store, "model:bikes@champion", "model:bikes@1", actor=ANA)
    add("release", "bikes", {"n": 1}, parents=[Parent("model:bikes@2", "model")])
    with pytest.raises(Pinned):
        drop(store, "model:bikes")
    assert get(store, "model:bikes@champion").deleted_us is None
    assert len(entries(store, "model")) == 1


def test_a_description_can_change(store: Store) -> None:
    address = make(store, "bikes", description="one")
    store.ledger.write(lambda c: describe_entry_in(c, address, None, now_us=7))
    with store.ledger.read() as connection:
        entry = entry_in(connection, address)
    assert (entry.description, entry.changed_us) == ("", 7)


def test_the_same_works_on_both_engines(shared_store: Store) -> None:
    address = make(shared_store, "My Model")
    register(shared_store, "model", address.partition(":")[2], {"n": 1}, actor=ANA)
    assert titled(shared_store, "My Model") == address
    drop(shared_store, address)
    assert titled(shared_store, "My Model") is None
    assert make(shared_store, "My Model") == address
    assert check_registry(shared_store) == []
