"""Lineage: both ways, each node once, and never more than asked for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.errors import InvalidAddress, NotFound
from andon.registry import Edge, Parent, delete, lineage, link_in, register
from andon.store import Store, memory_store
from tests.conftest import ANA
from tests.unit.registry.conftest import Add


@pytest.fixture
def diamond(add: Add) -> None:
    """One dataset, two feature views of it, a model of both, two releases of the model."""
    add("dataset", "rides", parents=[Parent("run:r0", "run")])
    for view in ("calendar", "weather"):
        add("features", view, parents=[Parent("dataset:rides", "data")])
    add(
        "model",
        "bikes",
        parents=[Parent("features:calendar@1", "features"), Parent("features:weather@latest", "features"), Parent("run:r1", "run")],
    )
    for n in (1, 2):
        add("release", "bikes", {"n": n}, parents=[Parent("model:bikes@1", "model")])


@pytest.mark.usefixtures("diamond")
def test_up_down_and_both(store: Store) -> None:
    up = lineage(store, "model:bikes", "up")
    assert up.root == "model:bikes@1"
    assert set(up.nodes) == {"model:bikes@1", "features:calendar@1", "features:weather@1", "run:r1", "dataset:rides@1", "run:r0"}
    assert len(up.edges) == 6
    assert Edge("features:weather@1", "dataset:rides@1", "data") in up.edges
    down = lineage(store, "model:bikes@1", "down")
    assert set(down.nodes) == {"model:bikes@1", "release:bikes@1", "release:bikes@2"}
    both = lineage(store, "model:bikes@1")
    assert set(both.nodes) == set(up.nodes) | set(down.nodes)
    assert set(both.edges) == set(up.edges) | set(down.edges)
    assert not both.truncated
    assert set(lineage(store, "run:r0", "down").nodes) >= {"release:bikes@2", "dataset:rides@1"}


@pytest.mark.usefixtures("diamond")
def test_a_limit_is_kept_and_said(store: Store) -> None:
    graph = lineage(store, "run:r0", "down", limit=3)
    assert graph.truncated
    assert len(graph.nodes) == 3
    assert {end for edge in graph.edges for end in (edge.child, edge.parent)} <= set(graph.nodes)
    assert graph == lineage(store, "run:r0", "down", limit=3)
    assert not lineage(store, "run:r0", "down", limit=7).truncated


def test_many_children_cost_no_more_than_the_limit(store: Store) -> None:
    def link(connection) -> None:  # type: ignore[no-untyped-def]
        for n in range(1500):
            link_in(connection, f"run:c{n:04}", "run:root", "run", now_us=1)

    store.ledger.write(link)
    graph = lineage(store, "run:root", "down", limit=100)
    assert graph.truncated
    assert len(graph.nodes) == 100
    assert len(lineage(store, "run:root", "down", limit=2000).nodes) == 1501


def test_a_ring_of_ids_ends(store: Store) -> None:
    def link(connection) -> None:  # type: ignore[no-untyped-def]
        for child, parent in (("run:a", "run:b"), ("run:b", "run:c"), ("run:c", "run:a"), ("run:a", "run:a"), ("run:a", "run:b")):
            link_in(connection, child, parent, "run", now_us=1)

    store.ledger.write(link)
    graph = lineage(store, "run:a")
    assert (set(graph.nodes), len(graph.edges)) == ({"run:a", "run:b", "run:c"}, 4)


@pytest.mark.usefixtures("diamond")
def test_a_tombstone_keeps_its_lineage(add: Add, store: Store) -> None:
    add("dataset", "old", parents=[Parent("run:r0", "run")])
    add("model", "of-old", parents=[Parent("dataset:old@1", "data")])
    delete(store, "dataset:old@1", actor=ANA, reason="privacy")
    assert set(lineage(store, "dataset:old@1").nodes) == {"dataset:old@1", "run:r0", "model:of-old@1"}
    add("model", "of-old", {"n": 2}, parents=[Parent("dataset:old@1", "data")])  # made before the deletion, registered after
    assert "model:of-old@2" in lineage(store, "dataset:old@1", "down").nodes


def test_what_is_not_there_has_none(store: Store) -> None:
    for address in ("model:nope", "model:nope@1"):
        with pytest.raises(NotFound):
            lineage(store, address)
    with pytest.raises(InvalidAddress):
        lineage(store, "nonsense")
    assert lineage(store, "run:unknown").nodes == ("run:unknown",)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.integers(0, 30), max_size=4), max_size=12))
def test_it_reaches_what_a_plain_walk_reaches(choices: list[set[int]]) -> None:
    parents = [{choice for choice in chosen if choice < position} for position, chosen in enumerate(choices)]
    with memory_store() as store:
        for position, chosen in enumerate(parents):
            made_from = [Parent(f"model:m{parent}@1", "model") for parent in sorted(chosen)]
            register(store, "model", f"m{position}", {}, actor=ANA, parents=made_from)
        for position in range(len(parents)):
            reached, frontier = {position}, [position]
            while frontier:
                found = parents[frontier.pop()] - reached
                reached |= found
                frontier += found
            graph = lineage(store, f"model:m{position}", "up")
            assert set(graph.nodes) == {f"model:m{one}@1" for one in reached}
            assert len(graph.edges) == sum(len(parents[one]) for one in reached)
