"""Tags: outside the digest, and every change is journaled."""

from __future__ import annotations

import pytest

from andon.core.errors import InvalidAddress, InvalidInput, NotFound
from andon.registry import delete, get, move_alias, set_tag, tag_history, tags_of
from andon.store import Store
from tests.conftest import ANA
from tests.unit.registry.conftest import Add


def test_every_change_is_journaled(add: Add, store: Store) -> None:
    digest = add("model", "bikes").digest
    for value in ("a", "b", "b", None):
        set_tag(store, "model:bikes@1", "stage", value, actor=ANA, reason=f"to {value}")
    set_tag(store, "model:bikes@1", "note", "ünïcode", actor=ANA)
    assert tags_of(store, "model:bikes@1") == {"note": "ünïcode"}
    history = tag_history(store, "model:bikes@1")
    assert [(change.key, change.value, change.reason) for change in history] == [
        ("stage", "a", "to a"),
        ("stage", "b", "to b"),
        ("stage", None, "to None"),
        ("note", "ünïcode", ""),
    ]
    assert get(store, "model:bikes@1").digest == digest


def test_a_name_a_version_and_a_run_have_tags_of_their_own(add: Add, store: Store) -> None:
    add("model", "bikes")
    for subject in ("model:bikes", "model:bikes@1", "run:01J", "service:bikes", "experiment:May 2011"):
        set_tag(store, subject, "k", subject, actor=ANA)
        assert tags_of(store, subject) == {"k": subject}


def test_an_alias_means_the_version_it_points_to(add: Add, store: Store) -> None:
    add("model", "bikes", {"n": 1})
    add("model", "bikes", {"n": 2})
    move_alias(store, "model:bikes@champion", "model:bikes@1", actor=ANA)
    set_tag(store, "model:bikes@champion", "k", "one", actor=ANA)
    set_tag(store, "model:bikes@latest", "k", "two", actor=ANA)
    assert (tags_of(store, "model:bikes@1"), tags_of(store, "model:bikes@2")) == ({"k": "one"}, {"k": "two"})
    move_alias(store, "model:bikes@champion", "model:bikes@2", actor=ANA)
    assert tags_of(store, "model:bikes@champion") == {"k": "two"}
    assert tag_history(store, "model:bikes@champion")[0].value == "two"


def test_a_tombstone_may_be_noted(add: Add, store: Store) -> None:
    add("model", "bikes")
    delete(store, "model:bikes@1", actor=ANA, reason="x")
    set_tag(store, "model:bikes@1", "ticket", "42", actor=ANA)
    assert tags_of(store, "model:bikes@1") == {"ticket": "42"}


@pytest.mark.parametrize(
    ("subject", "key", "value", "kind"),
    [
        ("model:nope", "k", "v", NotFound),
        ("model:bikes@2", "k", "v", NotFound),
        ("model:bikes@champion", "k", "v", NotFound),
        ("nonsense", "k", "v", InvalidAddress),
        ("model:bikes", "", "v", InvalidInput),
        ("model:bikes", "k" * 251, "v", InvalidInput),
        ("model:bikes", "k\x00", "v", InvalidInput),
        ("model:bikes", "k", "v" * 400_001, InvalidInput),
        ("model:bikes", "k", "\ud800", InvalidInput),
        ("model:bikes", "k", None, NotFound),
    ],
)
def test_what_is_wrong_is_refused(add: Add, store: Store, subject: str, key: str, value: str | None, kind: type[Exception]) -> None:
    add("model", "bikes")
    with pytest.raises(kind):
        set_tag(store, subject, key, value, actor=ANA)
    assert tag_history(store, "model:bikes") == []
