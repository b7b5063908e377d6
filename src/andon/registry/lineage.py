"""Lineage: which thing was made from which, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from sqlalchemy import Connection, insert, select

from andon.core.addresses import VERSIONED_KINDS, Address
from andon.registry.finding import require_in
from andon.store import Store
from andon.store import schema as s

LOOK_AT_ONCE = 500
Direction = Literal["up", "down", "both"]


class Edge(msgspec.Struct, frozen=True, order=True):
    """``child`` was made from ``parent``, which served as ``role``."""

    child: str
    parent: str
    role: str


class Graph(msgspec.Struct, frozen=True):
    """Part of the lineage around ``root``. ``truncated`` when there was more than ``limit``."""

    root: str
    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    truncated: bool


def link_in(connection: Connection, child: str, parent: str, role: str, *, now_us: int) -> None:
    """Record an edge; again is nothing."""
    known = connection.execute(
        select(s.edges.c.child).where(s.edges.c.child == child, s.edges.c.parent == parent, s.edges.c.role == role)
    ).first()
    if known is None:
        connection.execute(insert(s.edges).values(child=child, parent=parent, role=role, at_us=now_us))


def parents_in(connection: Connection, child: str | Address) -> list[tuple[str, str]]:
    """What ``child`` was made from directly: (address, role), by address."""
    rows = connection.execute(select(s.edges).where(s.edges.c.child == str(Address.parse(child))).order_by(s.edges.c.parent))
    return [(row.parent, row.role) for row in rows]


def living_children_in(connection: Connection, addresses: Sequence[str]) -> set[str]:
    """Those of ``addresses`` that a version was made from which is not deleted."""
    found: set[str] = set()
    for start in range(0, len(addresses), LOOK_AT_ONCE):
        query = select(s.edges.c.child, s.edges.c.parent).where(s.edges.c.parent.in_(addresses[start : start + LOOK_AT_ONCE]))
        for row in connection.execute(query).all():
            child = Address.parse(row.child)
            if row.parent in found or child.version is None:
                continue
            at = (s.versions.c.kind == child.kind) & (s.versions.c.name == child.name) & (s.versions.c.version == child.version)
            if connection.execute(select(s.versions.c.version).where(at, s.versions.c.deleted_us.is_(None))).first() is not None:
                found.add(row.parent)
    return found


def lineage(store: Store, address: str | Address, direction: Direction = "both", *, limit: int = 500) -> Graph:
    """What ``address`` was made from (``up``), what was made from it (``down``), or both; breadth first, at most ``limit`` nodes.

    A deleted version keeps its lineage. Raises ``NotFound`` for a version that never was.
    """
    at = Address.parse(address)
    with store.ledger.read() as connection:
        root = str(require_in(connection, at).address if at.kind in VERSIONED_KINDS else at)
        nodes: dict[str, None] = {root: None}
        edges: set[Edge] = set()
        truncated = False
        for near, far in _walks(direction):
            truncated |= _walk(connection, root, near, far, nodes, edges, limit)
    kept = tuple(nodes)[:limit]
    inside = set(kept)
    return Graph(root, kept, tuple(sorted(edge for edge in edges if edge.child in inside and edge.parent in inside)), truncated)


def _walk(connection: Connection, root: str, near: str, far: str, nodes: dict[str, None], edges: set[Edge], limit: int) -> bool:
    """Add what can be reached from ``root`` in one direction; whether there was more than ``limit``."""
    here, there = s.edges.c[near], s.edges.c[far]
    frontier, seen = [root], {root}
    while frontier:
        now, frontier = frontier[:LOOK_AT_ONCE], frontier[LOOK_AT_ONCE:]
        # One more row than could be kept, so that a dataset with a million descendants costs no more than the limit.
        most = limit + len(seen) + len(edges) + 1
        rows = connection.execute(select(s.edges).where(here.in_(now)).order_by(here, there, s.edges.c.role).limit(most)).all()
        for row in rows:
            edges.add(Edge(row.child, row.parent, row.role))
            other = getattr(row, far)
            nodes[other] = None
            if other not in seen:
                seen.add(other)
                frontier.append(other)
        if len(nodes) > limit or len(rows) == most:
            return True
    return False


def _walks(direction: Direction) -> list[tuple[str, str]]:
    up, down = ("child", "parent"), ("parent", "child")
    return {"up": [up], "down": [down], "both": [up, down]}[direction]
