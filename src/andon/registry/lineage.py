"""Lineage: which thing was made from which, both ways."""

from __future__ import annotations

from typing import Literal

import msgspec
from sqlalchemy import Connection, insert, select

from andon.core.addresses import VERSIONED_KINDS, Address
from andon.store import Store
from andon.store import schema as s

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


def lineage(store: Store, address: str | Address, direction: Direction = "both", *, limit: int = 500) -> Graph:
    """What ``address`` was made from (``up``), what was made from it (``down``), or both; breadth first, at most ``limit`` nodes."""
    from andon.registry.versions import get_in  # versions link when they register

    with store.ledger.read() as connection:
        at = Address.parse(address)
        root = str(get_in(connection, at).address if at.kind in VERSIONED_KINDS else at)
        nodes, edges = {root: None}, set[Edge]()
        truncated = False
        for near, far in _walks(direction):
            frontier = [root]
            seen = {root}
            while frontier and not truncated:
                found = connection.execute(select(s.edges).where(getattr(s.edges.c, near).in_(frontier[:500]))).all()
                rest = frontier[500:]
                reached = []
                for row in found:
                    edges.add(Edge(row.child, row.parent, row.role))
                    other = getattr(row, far)
                    if other not in seen:
                        seen.add(other)
                        reached.append(other)
                        nodes[other] = None
                truncated = len(nodes) > limit
                frontier = rest + reached
    kept = tuple(nodes)[:limit]
    inside = set(kept)
    return Graph(root, kept, tuple(sorted(edge for edge in edges if edge.child in inside and edge.parent in inside)), truncated)


def _walks(direction: Direction) -> list[tuple[str, str]]:
    up, down = ("child", "parent"), ("parent", "child")
    return {"up": [up], "down": [down], "both": [up, down]}[direction]
