"""Charts as inline SVG: drawn on the server, crisp in both themes, read with the keyboard, and complete without JavaScript."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import msgspec
from markupsafe import Markup

from andon.board.svg import EMPTY, element, path
from andon.board.words import day, instant, number
from andon.operations.showing.records import QualityPoint, TrafficBucket
from andon.releases import PRODUCTION, Turn

LEFT, RIGHT, TOP, BOTTOM = 34, 10, 26, 24
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

    def x(self, at_us: float) -> float:
        """Where an instant is."""
        return LEFT + (at_us - self.start) / (self.end - self.start) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Where a value is; values above the frame are drawn at its edge."""
        return TOP + (1 - min(value, self.top) / self.top) * (self.height - TOP - BOTTOM)

    def across(self, value: float, kind: str) -> Markup:
        """A horizontal line at a value."""
        return element("line", class_=kind, x1=LEFT, x2=self.width - RIGHT, y1=self.y(value), y2=self.y(value))


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
    points: Sequence[QualityPoint], turns: Sequence[Turn], threshold: float | None, *, width: int = 860, height: int = 280
) -> Markup:
    """Live quality by window, against the harm threshold, with the moments at which another release took production."""
    if not points:
        return EMPTY
    measured = [value for p in points for value in (p.ratio, p.pooled, p.high) if value is not None]
    top = max([1.2, (threshold or 1.0) * 1.25, *(min(value, CLIP) for value in measured)])
    frame = Frame(width, height, points[0].start_us, max(points[-1].end_us, points[0].start_us + 1), top)
    middles = [(frame.x((p.start_us + p.end_us) / 2), p) for p in points]
    parts = [*_tenures(turns, frame), *_axes(frame), frame.across(1.0, "expected"), *_bands(points, frame)]
    if threshold is not None:
        said = f"harm above {number(threshold)} ×"
        parts += [frame.across(threshold, "limit"), element("text", said, class_="limit-label", x=LEFT + 6, y=frame.y(threshold) - 6)]
    parts.append(element("path", class_="ratio", d=path((at, None if p.ratio is None else frame.y(p.ratio)) for at, p in middles)))
    parts.append(element("path", class_="pooled", d=path(_judged(points, turns, frame))))
    crowded = len(points) > CROWDED
    for at, p in middles:
        if p.status != "pass" or not crowded:
            parts.append(shape(p.status, at, frame.y(p.ratio or 0.0), 2.2 if crowded else 3.0 if p.status == "undecided" else 3.6))
    parts += _turn_lines(turns, frame)
    read = [(at, frame.y(p.ratio or 0.0), _tip(p), f"/verdicts/{p.verdict.removeprefix('verdict:')}") for at, p in middles]
    span = f"{len(points)} windows from {day(frame.start)} to {day(frame.end)}"
    return _chart(parts, frame, f"Live quality, {span}. The arrow keys read each; Enter opens its verdict.", read)


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


def _chart(parts: Sequence[Markup], frame: Frame, label: str, read: Sequence[tuple[float, float, str, str]]) -> Markup:
    data = json.dumps([{"x": round(x, 1), "y": round(y, 1), "t": text, "u": url} for x, y, text, url in read], separators=(",", ":"))
    cross = element("line", class_="cross", x1=0, x2=0, y1=TOP - 8, y2=frame.height - BOTTOM)
    box = f"0 0 {frame.width} {frame.height}"
    return element(
        "svg", [*parts, cross], class_="chart", viewBox=box, role="img", tabindex=0, aria_label=label, data_chart="", data_points=data
    )


def _axes(frame: Frame) -> list[Markup]:
    parts = []
    for value in ticks(0, frame.top, 4):
        parts.append(frame.across(value, "grid" if value else "base"))
        parts.append(element("text", f"{value:g}", x=LEFT - 8, y=frame.y(value) + 4, text_anchor="end"))
    count = max(2, frame.width // 150)
    for index in range(count + 1):
        at = frame.start + (frame.end - frame.start) * index / count
        anchor = "start" if index == 0 else "end" if index == count else "middle"
        parts.append(element("text", day(int(at)), x=frame.x(at), y=frame.height - 6, text_anchor=anchor))
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
            tall = frame.height - TOP - BOTTOM + 14
            parts.append(element("rect", class_="tenure", x=left, y=TOP - 14, width=max(0.0, right - left), height=tall))
    return parts


def _turn_lines(turns: Sequence[Turn], frame: Frame) -> list[Markup]:
    parts, free = [], -1e9
    for at, turn in _known(turns, frame):
        x = frame.x(max(at, frame.start))
        name = "@" + turn.release.rpartition("@")[2]
        said = f"↩ {name}" if turn.kind == "rolled-back" else name
        if at > frame.start:
            parts.append(element("line", class_="turn", x1=x, x2=x, y1=TOP - 14, y2=frame.height - BOTTOM))
        if x > free:
            last = x > frame.width - 70
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


def traffic_chart(buckets: Sequence[TrafficBucket], bucket_us: int, *, width: int = 860, height: int = 190) -> Markup:
    """Latency quantiles as lines over the number of rows as bars, by event time."""
    if not buckets:
        return EMPTY
    slowest = max([b.p99_ms for b in buckets if b.p99_ms is not None], default=0.0)
    frame = Frame(width, height, buckets[0].start_us, buckets[-1].start_us + bucket_us, max(slowest, 0.001) * 1.1)
    most = max(b.rows for b in buckets)
    wide = max(1.0, frame.x(frame.start + bucket_us) - LEFT - 1.5)
    parts = _axes(frame)
    for b in buckets:
        tall = 26 * b.rows / most
        parts.append(element("rect", class_="rows", x=frame.x(b.start_us), y=height - BOTTOM - tall, width=wide, height=tall))
    for key in ("p99", "p95", "p50"):
        line = path((frame.x(b.start_us + bucket_us / 2), None if (v := getattr(b, f"{key}_ms")) is None else frame.y(v)) for b in buckets)
        parts.append(element("path", class_=key, d=line))
    parts.append(element("text", "ms", x=LEFT, y=TOP - 12))
    read = [(frame.x(b.start_us + bucket_us / 2), frame.y(b.p95_ms or 0.0), _traffic_tip(b), "") for b in buckets]
    return _chart(parts, frame, f"Latency and rows from {day(frame.start)} to {day(frame.end)}. The arrow keys read each.", read)


def _traffic_tip(b: TrafficBucket) -> str:
    if b.p50_ms is None:
        return f"{instant(b.start_us)} · {b.rows} rows"
    return f"{instant(b.start_us)} · {b.rows} rows · p50 {number(b.p50_ms)} · p95 {number(b.p95_ms)} · p99 {number(b.p99_ms)} ms"


def meter(share: float | None, status: str) -> Markup:
    """A bar from 0 to 1."""
    wide = max(0.0, min(1.0, share or 0.0)) * 100
    bar = element("rect", class_=f"dot is-{status}", width=wide, height=6, fill="currentColor")
    box = element("svg", [bar], viewBox="0 0 100 6", preserveAspectRatio="none")
    return element("span", [box], class_="meter", aria_hidden="true")
