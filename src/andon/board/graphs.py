"""Lineage as an inline SVG: columns by distance from the root, what it was made from on the left, what came of it on the right."""

from __future__ import annotations

from markupsafe import Markup

from andon.board.svg import EMPTY, element
from andon.board.words import href
from andon.operations.showing import LineageView

NODE_WIDTH, NODE_HEIGHT, GAP_X, GAP_Y, MARGIN = 140, 42, 48, 14, 4
AROUND = 14
"""How far a link inside one column leads out of it."""
MOST_IN_COLUMN = 9


def lineage_graph(view: LineageView) -> Markup:
    """The graph; a column that is too long ends with how many more there are. Empty when the root stands alone."""
    if len(view.nodes) < 2:
        return EMPTY
    columns, hidden = _columns(view)
    places = _places(columns)
    tall = max(len(nodes) + (1 if hidden.get(level) else 0) for level, nodes in columns.items())
    height = 2 * MARGIN + tall * (NODE_HEIGHT + GAP_Y) - GAP_Y
    width = 2 * MARGIN + len(columns) * (NODE_WIDTH + GAP_X) - GAP_X
    inside = any(places[edge.child][0] <= places[edge.parent][0] for edge in view.edges if edge.parent in places and edge.child in places)
    width += AROUND if inside else 0
    links = _direct([(edge.parent, edge.child) for edge in view.edges if edge.parent in places and edge.child in places])
    parts = [_edge(places, parent, child) for parent, child in links]
    roles = _roles(view)
    parts += [_node(name, at, roles.get(name, ""), root=name == view.root) for name, at in places.items()]
    for level, count in hidden.items():
        if count:
            x = MARGIN + sorted(columns).index(level) * (NODE_WIDTH + GAP_X)
            y = MARGIN + len(columns[level]) * (NODE_HEIGHT + GAP_Y) + 20
            parts.append(element("text", f"and {count} more", class_="node-kind", x=x, y=y))
    label = f"Lineage of {view.root}: {len(view.nodes)} things, {len(view.edges)} links"
    box = f"0 0 {width} {height}"
    return element("svg", parts, class_="graph", width=width, height=height, viewBox=box, role="img", aria_label=label)


def _columns(view: LineageView) -> tuple[dict[int, list[str]], dict[int, int]]:
    columns: dict[int, list[str]] = {}
    for name in view.nodes:
        columns.setdefault(view.depth.get(name, 0), []).append(name)
    neighbours: dict[str, list[str]] = {}
    for edge in view.edges:
        neighbours.setdefault(edge.child, []).append(edge.parent)
        neighbours.setdefault(edge.parent, []).append(edge.child)
    hidden = {}
    for level in sorted(columns, key=abs):  # from the root outwards, each by where its neighbours are
        inner = columns.get(level - 1 if level > 0 else level + 1, [])
        rank = {name: index for index, name in enumerate(inner)}
        columns[level].sort(key=lambda name: (_mean([rank[n] for n in neighbours.get(name, ()) if n in rank]), name))
        hidden[level] = max(0, len(columns[level]) - MOST_IN_COLUMN)
        columns[level] = columns[level][:MOST_IN_COLUMN]
    return dict(sorted(columns.items())), hidden


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 1e9


def _places(columns: dict[int, list[str]]) -> dict[str, tuple[float, float]]:
    tall = max(len(nodes) for nodes in columns.values())
    places: dict[str, tuple[float, float]] = {}
    for index, nodes in enumerate(columns.values()):
        lead = (tall - len(nodes)) * (NODE_HEIGHT + GAP_Y) / 2
        for row, name in enumerate(nodes):
            places[name] = (MARGIN + index * (NODE_WIDTH + GAP_X), MARGIN + lead + row * (NODE_HEIGHT + GAP_Y))
    return places


def _direct(links: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Links without those that a longer way says already: data that trained a model needs no line to the model's release."""
    children: dict[str, set[str]] = {}
    for parent, child in links:
        children.setdefault(parent, set()).add(child)

    def beyond(start: str) -> set[str]:
        """What is two or more steps away."""
        found, frontier = set[str](), set[str]()
        for child in children.get(start, ()):
            frontier |= children.get(child, set()) - {start}
        while frontier:
            found |= frontier
            frontier = set().union(*(children.get(name, set()) for name in frontier)) - found - {start}
        return found

    far = {parent: beyond(parent) for parent in children}
    return [(parent, child) for parent, child in dict.fromkeys(links) if child not in far[parent]]


def _roles(view: LineageView) -> dict[str, str]:
    """What a thing was for, where its kind does not say it: a dataset for ``evaluation``."""
    found: dict[str, set[str]] = {}
    for edge in view.edges:
        kind = edge.parent.partition(":")[0]
        if edge.role not in (kind, "run", "data"):
            found.setdefault(edge.parent, set()).add(edge.role)
    return {name: ", ".join(sorted(roles)) for name, roles in found.items()}


def _edge(places: dict[str, tuple[float, float]], parent: str, child: str) -> Markup:
    (x1, y1), (x2, y2) = places[parent], places[child]
    x1 += NODE_WIDTH
    y1 += NODE_HEIGHT / 2
    y2 += NODE_HEIGHT / 2
    if x2 < x1:  # a link within one column, or backwards: around the outside
        back, out = x2 + NODE_WIDTH, max(x1, x2 + NODE_WIDTH) + AROUND - 4
        return element("path", class_="edge", d=f"M{x1:.0f} {y1:.0f}C{out:.0f} {y1:.0f} {out:.0f} {y2:.0f} {back:.0f} {y2:.0f}")
    bend = (x2 - x1) / 2
    line = f"M{x1:.0f} {y1:.0f}C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    return element("path", class_="edge", d=line)


def _node(name: str, at: tuple[float, float], role: str, *, root: bool) -> Markup:
    kind, _, rest = name.partition(":")
    shown = rest if len(rest) <= 18 else f"{rest[:6]}…{rest[-6:]}" if rest.isupper() else f"{rest[:8]}…{rest[-8:]}"
    x, y = at
    parts = [
        element("title", name),
        element("rect", x=x, y=y, width=NODE_WIDTH, height=NODE_HEIGHT, rx=7),
        element("text", f"{kind} · {role}" if role else kind, class_="node-kind", x=x + 12, y=y + 16),
        element("text", shown, class_="node-name", x=x + 12, y=y + 32),
    ]
    return element("a", parts, href=href(name), class_="root" if root else None)
