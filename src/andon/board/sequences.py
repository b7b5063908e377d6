"""A confidence sequence as inline SVG: how much worse the candidate is, and how sure that has become, unit by unit."""

from __future__ import annotations

from markupsafe import Markup

from andon.board.charts import BOTTOM, LEFT, TOP, read_chart, ticks
from andon.board.svg import EMPTY, element, path
from andon.board.words import number
from andon.operations.showing.rollouts import Sequence

RIGHT = 12
SHOWN = 3.0
"""The scale holds the margin this many times over; wider intervals, as all are at first, run out of the picture."""


def sequence_chart(sequence: Sequence, *, width: int = 372, height: int = 176) -> Markup:
    """The value with its interval against the units seen; 0 is "no worse", the dashed line the margin that a promotion allows."""
    points = sequence.points
    if not points:
        return EMPTY
    last = points[-1]
    top = max(sequence.margin * SHOWN, last.high * 1.2, abs(last.value) * 1.5, 1e-9)
    bottom = -max(sequence.margin * SHOWN / 2, -last.low * 1.2, 1e-9)
    first, end = points[0].n, max(last.n, points[0].n + 1)

    def x(n: float) -> float:
        return LEFT + (n - first) / (end - first) * (width - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (top - min(top, max(bottom, value))) / (top - bottom) * (height - TOP - BOTTOM)

    parts = []
    for value in ticks(bottom, top, 4):
        parts.append(element("line", class_="grid", x1=LEFT, x2=width - RIGHT, y1=y(value), y2=y(value)))
        parts.append(element("text", f"{value:+.3g}" if value else "0", x=LEFT - 6, y=y(value) + 4, text_anchor="end"))
    parts += [element("text", number(int(n)), x=x(n), y=height - 8, text_anchor="middle") for n in ticks(first, end, 4)]
    upper = [(x(p.n), y(p.high)) for p in points]
    lower = [(x(p.n), y(p.low)) for p in reversed(points)]
    parts.append(element("path", class_="band", d=path([*upper, *lower]) + "Z"))
    parts.append(element("line", class_="base", x1=LEFT, x2=width - RIGHT, y1=y(0.0), y2=y(0.0)))
    parts.append(element("line", class_="limit", x1=LEFT, x2=width - RIGHT, y1=y(sequence.margin), y2=y(sequence.margin)))
    parts.append(element("path", class_="pooled", d=path((x(p.n), y(p.value)) for p in points)))
    read = [
        (x(p.n), y(p.value), "", f"{number(p.n)} units · {p.value:+.3g} ({p.low:+.3g} to {p.high:+.3g}) {sequence.unit}") for p in points
    ]
    label = f"{sequence.check}: how much worse the candidate is, with what it may really be, over {number(last.n)} units."
    return read_chart(parts, width, height, f"{label} The arrow keys read each.", read)
