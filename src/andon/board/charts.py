"""Charts as inline SVG: drawn on the server, crisp in both themes, read with the keyboard, and complete without JavaScript."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
from markupsafe import Markup

from andon.board.svg import EMPTY, element, path
from andon.board.timeaxis import calendar
from andon.board.words import date_time, day, instant, number
from andon.operations.showing.records import IncidentRow, QualityPoint, TrafficBucket
from andon.releases import PRODUCTION, Turn

LEFT, RIGHT, TOP, BOTTOM = 44, 10, 26, 24
LANE = 26
"""Between the plot and the dates: the flags of incidents."""
NARROW = 500
CLIP = 6.0
"""Ratios above this are drawn at the edge: one wild window must not flatten all the others."""
CROWDED = 120


class Frame(msgspec.Struct, frozen=True):
    """The plot area: event time from ``start`` to ``end`` across, 0 to ``top`` upwards."""

    width: int
    height: int
    start: int
    end: int
    top: float
    right: int = RIGHT
    bottom: int = BOTTOM

    def x(self, at_us: float) -> float:
        """Where an instant is."""
        return LEFT + (at_us - self.start) / (self.end - self.start) * (self.width - LEFT - self.right)

    def y(self, value: float) -> float:
        """Where a value is; values above the frame are drawn at its edge."""
        return TOP + (1 - min(value, self.top) / self.top) * (self.height - TOP - self.bottom)

    def across(self, value: float, kind: str) -> Markup:
        """A horizontal line at a value."""
        return element("line", class_=kind, x1=LEFT, x2=self.width - self.right, y1=self.y(value), y2=self.y(value))


def shape(status: str, x: float, y: float, r: float) -> Markup:
    """The mark of a state: disc, triangle, square, or an open ring. The same shapes as the lamps."""
    kind = f"dot is-{status}"
    if status == "warn":
        points = f"{x:.1f},{y - r * 1.25:.1f} {x + r * 1.2:.1f},{y + r * 0.9:.1f} {x - r * 1.2:.1f},{y + r * 0.9:.1f}"
        return element("polygon", class_=kind, points=points, fill="currentColor")
    if status == "fail":
        return element("rect", class_=kind, x=x - r, y=y - r, width=2 * r, height=2 * r, fill="currentColor")
    if status == "pass":
        return element("circle", class_=kind, cx=x, cy=y, r=r, fill="currentColor")
    return element("circle", class_=kind + " open", cx=x, cy=y, r=r - 0.5)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers between two bounds, about ``wanted`` of them.

    >>> ticks(0, 2.1, 4)
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    span = max(high - low, 1e-9)
    power = 10 ** math.floor(math.log10(span / wanted))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= wanted + 0.5)
    first = math.ceil(low / step)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def quality_chart(
    points: Sequence[QualityPoint],
    turns: Sequence[Turn],
    threshold: float | None,
    incidents: Sequence[IncidentRow] = (),
    *,
    width: int = 1104,
    height: int = 320,
) -> Markup:
    """Live quality by window, against the harm threshold, with who held production and a flag for each incident."""
    if not points:
        return EMPTY
    measured = [value for p in points for value in (p.ratio, p.pooled, p.high) if value is not None]
    top = max([1.2, (threshold or 1.0) * 1.25, *(min(value, CLIP) for value in measured)])
    end = max(points[-1].end_us, points[0].start_us + 1)
    flags = [one for one in incidents if one.opened_event_us is not None and points[0].start_us <= one.opened_event_us <= end]
    right = RIGHT if width < NARROW else 76
    frame = Frame(width, height, points[0].start_us, end, top, right, BOTTOM + (LANE if flags else 0))
    middles = [(frame.x((p.start_us + p.end_us) / 2), p) for p in points]
    parts = [*_tenures(turns, frame), *_axes(frame, "×"), frame.across(1.0, "expected"), *_bands(points, frame)]
    parts += [] if threshold is None else [frame.across(threshold, "limit")]
    parts += [] if width < NARROW else _line_labels(threshold, frame)
    parts.append(element("path", class_="ratio", d=path((at, None if p.ratio is None else frame.y(p.ratio)) for at, p in middles)))
    parts.append(element("path", class_="pooled", d=path(_judged(points, turns, frame))))
    crowded = len(points) > CROWDED
    for at, p in middles:
        if p.status != "pass" or not crowded:
            parts.append(shape(p.status, at, frame.y(p.ratio or 0.0), 2.6 if crowded else 3.0 if p.status == "undecided" else 3.6))
    parts += [*_turn_lines(turns, frame), *_flags(flags, frame)]
    read = [(at, frame.y(p.ratio or 0.0), p.verdict.removeprefix("verdict:"), _tip(p)) for at, p in middles]
    span = f"{len(points)} windows from {day(frame.start)} to {day(frame.end)}"
    return _chart(parts, frame, f"Live quality, {span}. The arrow keys read each; Enter opens its verdict.", read, "/verdicts/")


def _line_labels(threshold: float | None, frame: Frame) -> list[Markup]:
    """What the two horizontal lines are, in the margin beside them, never on top of each other."""
    x, expected = frame.width - frame.right + 8, frame.y(1.0) + 4
    parts = []
    if threshold is not None:
        at = frame.y(threshold) + 4
        parts.append(element("text", f"harm {number(threshold)} ×", class_="limit-label", x=x, y=at))
        expected = max(expected, at + 13) if threshold > 1 else min(expected, at - 13)
    parts.append(element("text", "as expected", x=x, y=expected))
    return parts


def _flags(incidents: Sequence[IncidentRow], frame: Frame) -> list[Markup]:
    """A flag where each incident opened, in a lane of its own, with a bar until it was resolved; each leads to the incident."""
    found = sorted(incidents, key=lambda one: one.opened_event_us or 0)
    y, taken, parts = frame.height - BOTTOM - 8, float(LEFT), list[Markup]()
    for index, one in enumerate(found):
        opened = one.opened_event_us or 0
        open_ = one.closed_us is None
        closed = frame.end if open_ else max(opened, min(one.closed_event_us or opened, frame.end))
        x, until = frame.x(opened), frame.x(closed)
        room = (frame.x(found[index + 1].opened_event_us or 0) if index + 1 < len(found) else frame.width) - x - 18
        span = f"since {day(opened)}" if open_ else f"{day(opened)} to {day(closed)}"
        inside = [
            element("title", f"{one.id}: {one.headline}, {span}"),
            element("rect", class_="hit", x=x - 4, y=y - 16, width=max(20.0, until - x + 8), height=22),
            element("rect", class_="bar", x=x, y=y + 2, width=max(3.0, until - x), height=3, rx=1.5),
            element("path", class_="pennant", d=f"M{x:.1f} {y + 4}V{y - 13}l10 4.5l-10 4.5"),
        ]
        wide = len(one.headline) * 6
        if wide < room:
            inside.append(element("text", one.headline, class_="flag-label", x=x + 15, y=y - 5))
        elif wide < x - taken - 12:
            inside.append(element("text", one.headline, class_="flag-label", x=x - 7, y=y - 5, text_anchor="end"))
        taken = max(until, x + 15 + wide if wide < room else 0.0)
        kind = "flag is-open" if open_ else "flag"
        parts.append(element("line", class_="onset", x1=x, x2=x, y1=TOP, y2=y - 13))
        parts.append(
            element("a", inside, class_=kind, href=f"/incidents/{one.id}", aria_label=f"incident {one.id}: {one.headline}, {span}")
        )
    return parts


def _judged(points: Sequence[QualityPoint], turns: Sequence[Turn], frame: Frame) -> Iterator[tuple[float, float | None]]:
    """What was judged, window by window; the pen is lifted where another release took over, since the evidence starts anew there."""
    starts = [at for at, _ in _known(turns, frame)]
    before = None
    for p in points:
        x = frame.x((p.start_us + p.end_us) / 2)
        if before is not None and any(before < at <= p.start_us for at in starts):
            yield x, None
        yield x, None if p.pooled is None else frame.y(p.pooled)
        before = p.start_us


def _tip(p: QualityPoint) -> str:
    if p.ratio is None:
        return f"{day(p.start_us)} · {p.status} · {p.n} labels"
    pooled = f" · judged {number(p.pooled)} ×" if p.pooled is not None and p.pooled != p.ratio else ""
    return f"{day(p.start_us)} · {number(p.ratio)} × expected{pooled} · {p.status} · {p.n} labels"


def _chart(parts: Sequence[Markup], frame: Frame, label: str, read: Sequence[tuple[float, float, str, str]], to: str = "") -> Markup:
    """The drawing with what a reader's cross-hair says: x, y, key and words of each point. A narrow one borrows the words."""
    return read_chart(parts, frame.width, frame.height, label, read, to=to, bottom=frame.bottom, lean=frame.width < NARROW)


def read_chart(
    parts: Sequence[Markup],
    width: int,
    height: int,
    label: str,
    read: Sequence[tuple[float, float, str, str]],
    *,
    to: str = "",
    bottom: int = BOTTOM,
    lean: bool = False,
) -> Markup:
    """Any drawing as a chart that is read point by point: x, y, key and words of each; ``lean`` leaves out the words."""
    told = ((f"{x:.1f}", f"{y:.1f}") if lean else (f"{x:.1f}", f"{y:.1f}", key, text) for x, y, key, text in read)
    data = ";".join("|".join(part.replace("|", " ").replace(";", ",") for part in parts_of) for parts_of in told)
    cross = element("line", class_="cross", x1=0, x2=0, y1=TOP - 8, y2=height - bottom)
    return element(
        "svg",
        [*parts, cross],
        class_="chart",
        viewBox=f"0 0 {width} {height}",
        role="group",
        tabindex=0,
        aria_label=label,
        data_chart="",
        data_to=to or None,
        data_points=data,
    )


def _axes(frame: Frame, unit: str) -> list[Markup]:
    parts = []
    found = ticks(0, frame.top, 4)
    for value in found:
        parts.append(frame.across(value, "grid" if value else "base"))
        said = f"{value:g} {unit}" if value == found[-1] else f"{value:g}"
        parts.append(element("text", said, x=LEFT - 8, y=frame.y(value) + 4, text_anchor="end"))
    low, base = frame.height - frame.bottom, frame.height - 6
    for at, label in calendar(frame.start, frame.end, max(3, (frame.width - LEFT - frame.right) // 100)):
        x, half = frame.x(at), 3.2 * len(label)
        anchor = "start" if x - half < LEFT - 14 else "end" if x + half > frame.width else "middle"
        parts.append(element("line", class_="tick", x1=x, x2=x, y1=low, y2=low + 4))
        parts.append(element("text", label, x=x, y=base, text_anchor=anchor))
    return parts


def _bands(points: Sequence[QualityPoint], frame: Frame) -> list[Markup]:
    """The interval of what was judged, as one shape for each unbroken stretch."""
    shapes, stretch = list[Markup](), list[tuple[float, float, float]]()
    for p in [*points, None]:
        if p is not None and p.low is not None and p.high is not None:
            stretch.append((frame.x((p.start_us + p.end_us) / 2), frame.y(p.high), frame.y(p.low)))
            continue
        if len(stretch) > 1:
            corners = [(x, high) for x, high, _ in stretch] + [(x, low) for x, _, low in reversed(stretch)]
            shapes.append(element("polygon", class_="band", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)))
        stretch = []
    return shapes


def _known(turns: Sequence[Turn], frame: Frame) -> list[tuple[int, Turn]]:
    found = [(turn.event_us, turn) for turn in turns if turn.channel == PRODUCTION and turn.event_us is not None]
    return [(at, turn) for at, turn in found if at < frame.end]


def _tenures(turns: Sequence[Turn], frame: Frame) -> list[Markup]:
    """A wash behind every second release, so that one sees who answered when."""
    known = _known(turns, frame)
    parts = []
    for index, (at, _) in enumerate(known):
        until = known[index + 1][0] if index + 1 < len(known) else frame.end
        if index % 2 == 1 and until > frame.start:
            left, right = frame.x(max(at, frame.start)), frame.x(min(until, frame.end))
            tall = frame.height - TOP - frame.bottom + 14
            parts.append(element("rect", class_="tenure", x=left, y=TOP - 14, width=max(0.0, right - left), height=tall))
    return parts


def _turn_lines(turns: Sequence[Turn], frame: Frame) -> list[Markup]:
    parts, free = [], -1e9
    for at, turn in _known(turns, frame):
        x = frame.x(max(at, frame.start))
        name = "@" + turn.release.rpartition("@")[2]
        said = f"↩ {name}" if turn.kind == "rolled-back" else name
        if at > frame.start:
            parts.append(element("line", class_="turn", x1=x, x2=x, y1=TOP - 14, y2=frame.height - frame.bottom))
        if x > free:
            last = x > frame.width - frame.right - 60
            full = element("title", f"{turn.release} {turn.kind} {instant(at)}")
            place = {"x": x + (-5 if last else 5), "y": TOP - 8, "text_anchor": "end" if last else "start"}
            parts.append(element("text", [Markup.escape(said), full], class_="turn-label", **place))
            free = x + 9 * len(said) + 12
    return parts


def sparkline(values: Sequence[float | None], threshold: float | None = None) -> Markup:
    """A small line of recent values with the threshold; stretched to its place by CSS."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return EMPTY
    top = max([*known, threshold or 0.0]) * 1.08 or 1.0
    width, height = 200, 36

    def y(value: float) -> float:
        return height - 2 - value / top * (height - 4)

    step = width / (len(values) - 1)
    line = element("path", d=path((index * step, None if value is None else y(value)) for index, value in enumerate(values)))
    limit = EMPTY if threshold is None else element("line", x1=0, x2=width, y1=y(threshold), y2=y(threshold))
    says = f"last {len(values)} values, newest {number(known[-1])}" + ("" if threshold is None else f", threshold {number(threshold)}")
    box = f"0 0 {width} {height}"
    return element("svg", [limit, line], class_="spark", viewBox=box, preserveAspectRatio="none", role="img", aria_label=says)


def traffic_chart(buckets: Sequence[TrafficBucket], bucket_us: int, *, width: int = 780, height: int = 200) -> Markup:
    """Latency quantiles as lines over the number of rows as bars, by event time."""
    if not buckets:
        return EMPTY
    slowest = max([b.p99_ms for b in buckets if b.p99_ms is not None], default=0.0)
    frame = Frame(width, height, buckets[0].start_us, buckets[-1].start_us + bucket_us, max(slowest, 0.001) * 1.1)
    most = max(b.rows for b in buckets)
    wide = max(1.0, frame.x(frame.start + bucket_us) - LEFT - 1.5)
    parts = _axes(frame, "ms")
    for b in buckets:
        tall = 26 * b.rows / most
        parts.append(element("rect", class_="rows", x=frame.x(b.start_us), y=height - BOTTOM - tall, width=wide, height=tall))
    for key in ("p99", "p95", "p50"):
        line = path((frame.x(b.start_us + bucket_us / 2), None if (v := getattr(b, f"{key}_ms")) is None else frame.y(v)) for b in buckets)
        parts.append(element("path", class_=key, d=line))
    read = [(frame.x(b.start_us + bucket_us / 2), frame.y(b.p95_ms or 0.0), "", _traffic_tip(b)) for b in buckets]
    return _chart(parts, frame, f"Latency and rows from {day(frame.start)} to {day(frame.end)}. The arrow keys read each.", read)


def _traffic_tip(b: TrafficBucket) -> str:
    if b.p50_ms is None:
        return f"{date_time(b.start_us)} · {b.rows} rows"
    return f"{date_time(b.start_us)} · {b.rows} rows · p50 {number(b.p50_ms)} · p95 {number(b.p95_ms)} · p99 {number(b.p99_ms)} ms"


def meter(share: float | None, status: str) -> Markup:
    """A bar from 0 to 1."""
    wide = max(0.0, min(1.0, share or 0.0)) * 100
    bar = element("rect", class_=f"dot is-{status}", width=wide, height=6, fill="currentColor")
    box = element("svg", [bar], viewBox="0 0 100 6", preserveAspectRatio="none")
    return element("span", [box], class_="meter", aria_hidden="true")
