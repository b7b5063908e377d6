"""Charts as inline SVG: drawn on the server, crisp in both themes, read with the keyboard, and complete without JavaScript."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from andon.board.words import day, instant, number
from andon.operations.showing.records import QualityPoint, TrafficBucket
from andon.releases import Turn

LEFT, RIGHT, TOP, BOTTOM = 34, 10, 26, 24


def shape(status: str, x: float, y: float, r: float, extra: str = "") -> str:
    """The mark of a state: disc, triangle, square, or an open ring. The same shapes as the lamps."""
    kind = f'class="dot is-{escape(status)}" {extra}'
    if status in ("warn", "yellow"):
        points = f"{x:.1f},{y - r * 1.25:.1f} {x + r * 1.2:.1f},{y + r * 0.9:.1f} {x - r * 1.2:.1f},{y + r * 0.9:.1f}"
        return f'<polygon points="{points}" fill="currentColor" {kind}/>'
    if status in ("fail", "red"):
        return f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}" fill="currentColor" {kind}/>'
    if status in ("pass", "green"):
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="currentColor" {kind}/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r - 0.5:.1f}" fill="none" stroke="currentColor" {kind}/>'


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


def quality_chart(points: Sequence[QualityPoint], turns: Sequence[Turn], threshold: float | None, *, width: int = 860, height: int = 280) -> Markup:
    """Live quality by window, against the harm threshold, with the moments at which another release took production."""
    if not points:
        return Markup("")
    start, end = points[0].start_us, max(points[-1].end_us, points[0].start_us + 1)
    measured = [value for p in points for value in (p.ratio, p.pooled, p.high) if value is not None]
    top = max([1.2, (threshold or 1.0) * 1.25, *(min(value, 6.0) for value in measured)])

    def x(at_us: float) -> float:
        return LEFT + (at_us - start) / (end - start) * (width - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (1 - min(value, top) / top) * (height - TOP - BOTTOM)

    parts = [_tenures(turns, start, end, x, height), _axes(start, end, top, x, y, width, height)]
    parts.append(f'<line class="expected" x1="{LEFT}" x2="{width - RIGHT}" y1="{y(1):.1f}" y2="{y(1):.1f}"/>')
    parts.append(_band(points, x, y))
    if threshold is not None:
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{width - RIGHT}" y1="{y(threshold):.1f}" y2="{y(threshold):.1f}"/>')
        parts.append(f'<text class="limit-label" x="{LEFT + 6}" y="{y(threshold) - 6:.1f}">harm above {number(threshold)} ×</text>')
    middles = [(x((p.start_us + p.end_us) / 2), p) for p in points]
    parts.append(f'<path class="ratio" d="{_path([(at, None if p.ratio is None else y(p.ratio)) for at, p in middles])}"/>')
    parts.append(f'<path class="pooled" d="{_path([(at, None if p.pooled is None else y(p.pooled)) for at, p in middles])}"/>')
    size = 3.6 if len(points) < 120 else 2.2
    for at, p in middles:
        if p.status != "pass" or len(points) < 120:
            parts.append(shape(p.status, at, y(p.ratio if p.ratio is not None else 0), size if p.status != "undecided" else 3))
    parts.append(_turn_lines(turns, start, end, x, width, height))
    read = [
        {"x": round(at, 1), "y": round(y(p.ratio or 0), 1), "t": _tip(p), "u": f"/verdicts/{p.verdict.removeprefix('verdict:')}"}
        for at, p in middles
    ]
    label = f"Live quality, {len(points)} windows from {day(start)} to {day(end)}. Use the arrow keys to read each; Enter opens its verdict."
    return _svg("".join(parts), width, height, label, read)


def _tip(p: QualityPoint) -> str:
    if p.ratio is None:
        return f"{day(p.start_us)} · {p.status} · {p.n} labels"
    pooled = f" · judged {number(p.pooled)} ×" if p.pooled is not None and p.pooled != p.ratio else ""
    return f"{day(p.start_us)} · {number(p.ratio)} × expected{pooled} · {p.status} · {p.n} labels"


def _svg(body: str, width: int, height: int, label: str, points: Sequence[object]) -> Markup:
    data = escape(json.dumps(points, separators=(",", ":")))
    cross = f'<line class="cross" x1="0" x2="0" y1="{TOP - 8}" y2="{height - BOTTOM}"/>'
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" tabindex="0" aria-label="{escape(label)}" data-chart data-points="{data}">'
        f"{body}{cross}</svg>"
    )


def _axes(start: int, end: int, top: float, x: object, y: object, width: int, height: int) -> str:
    assert callable(x)
    assert callable(y)
    parts = []
    for value in ticks(0, top, 4):
        parts.append(f'<line class="{"grid" if value else "base"}" x1="{LEFT}" x2="{width - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    count = max(2, width // 150)
    for index in range(count + 1):
        at = start + (end - start) * index / count
        anchor = "start" if index == 0 else "end" if index == count else "middle"
        parts.append(f'<text x="{x(at):.1f}" y="{height - 6}" text-anchor="{anchor}">{day(int(at))}</text>')
    return "".join(parts)


def _band(points: Sequence[QualityPoint], x: object, y: object) -> str:
    """The interval of what was judged, as one shape for each unbroken stretch."""
    assert callable(x)
    assert callable(y)
    shapes, run = [], list[QualityPoint]()
    for p in [*points, None]:
        if p is not None and p.low is not None and p.high is not None:
            run.append(p)
            continue
        if len(run) > 1:
            upper = [f"{x((q.start_us + q.end_us) / 2):.1f},{y(q.high):.1f}" for q in run]
            lower = [f"{x((q.start_us + q.end_us) / 2):.1f},{y(q.low):.1f}" for q in reversed(run)]
            shapes.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/>')
        run = []
    return "".join(shapes)


def _in_view(turns: Sequence[Turn], start: int, end: int) -> list[tuple[int, Turn]]:
    found = [(turn.event_us, turn) for turn in turns if turn.channel == "production" and turn.event_us is not None]
    return [(at, turn) for at, turn in found if at < end]


def _tenures(turns: Sequence[Turn], start: int, end: int, x: object, height: int) -> str:
    """A wash behind every second release, so that one sees who answered when."""
    assert callable(x)
    known = _in_view(turns, start, end)
    parts = []
    for index, (at, _) in enumerate(known):
        until = known[index + 1][0] if index + 1 < len(known) else end
        if index % 2 == 1 and until > start:
            left, right = x(max(at, start)), x(min(until, end))
            parts.append(f'<rect class="tenure" x="{left:.1f}" y="{TOP - 14}" width="{max(0, right - left):.1f}" height="{height - TOP - BOTTOM + 14}"/>')
    return "".join(parts)


def _turn_lines(turns: Sequence[Turn], start: int, end: int, x: object, width: int, height: int) -> str:
    assert callable(x)
    parts, free = [], -1e9
    for at, turn in _in_view(turns, start, end):
        left = x(max(at, start))
        name = "@" + turn.release.rpartition("@")[2]
        said = f"↩ {name}" if turn.kind == "rolled-back" else name
        if at > start:
            parts.append(f'<line class="turn" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP - 14}" y2="{height - BOTTOM}"/>')
        if left > free:
            anchor, shift = ("end", -5) if left > width - 70 else ("start", 5)
            parts.append(
                f'<text class="turn-label" x="{left + shift:.1f}" y="{TOP - 8}" text-anchor="{anchor}">{escape(said)}'
                f"<title>{escape(turn.release)} {escape(turn.kind)} {escape(instant(at))}</title></text>"
            )
            free = left + 9 * len(said) + 12
    return "".join(parts)


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    parts, pen = [], False
    for x, y in points:
        if y is None:
            pen = False
            continue
        parts.append(f"{'L' if pen else 'M'}{x:.1f} {y:.1f}")
        pen = True
    return "".join(parts)


def sparkline(values: Sequence[float | None], threshold: float | None = None) -> Markup:
    """A small line of recent values with the threshold; stretched to its place by CSS."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return Markup("")
    top = max([*known, threshold or 0.0]) * 1.08 or 1.0
    width, height = 200, 36

    def y(value: float) -> float:
        return height - 2 - value / top * (height - 4)

    step = width / max(1, len(values) - 1)
    path = _path([(index * step, None if value is None else y(value)) for index, value in enumerate(values)])
    limit = "" if threshold is None else f'<line x1="0" x2="{width}" y1="{y(threshold):.1f}" y2="{y(threshold):.1f}"/>'
    says = f"last {len(values)} values, newest {number(known[-1])}" + ("" if threshold is None else f", threshold {number(threshold)}")
    return Markup(
        f'<svg class="spark" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{escape(says)}">{limit}<path d="{path}"/></svg>'
    )


def traffic_chart(buckets: Sequence[TrafficBucket], bucket_us: int, *, width: int = 860, height: int = 190) -> Markup:
    """Latency quantiles as lines over the number of rows as bars, by event time."""
    if not buckets:
        return Markup("")
    start, end = buckets[0].start_us, buckets[-1].start_us + bucket_us
    slow = [value for b in buckets for value in (b.p99_ms,) if value is not None]
    top, most = max([*slow, 0.001]) * 1.1, max(b.rows for b in buckets)

    def x(at_us: float) -> float:
        return LEFT + (at_us - start) / (end - start) * (width - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (1 - value / top) * (height - TOP - BOTTOM)

    wide = max(1.0, (width - LEFT - RIGHT) * bucket_us / (end - start) - 1.5)
    parts = [_axes(start, end, top, x, y, width, height)]
    for b in buckets:
        tall = 26 * b.rows / most
        parts.append(f'<rect class="rows" x="{x(b.start_us):.1f}" y="{height - BOTTOM - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>')
    for key in ("p99", "p95", "p50"):
        line = [(x(b.start_us + bucket_us / 2), None if (v := getattr(b, f"{key}_ms")) is None else y(v)) for b in buckets]
        parts.append(f'<path class="{key}" d="{_path(line)}"/>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 12}">ms</text>')
    read = [{"x": round(x(b.start_us + bucket_us / 2), 1), "y": round(y(b.p95_ms or 0), 1), "t": _traffic_tip(b)} for b in buckets]
    return _svg("".join(parts), width, height, f"Latency and rows from {day(start)} to {day(end)}. Use the arrow keys to read.", read)


def _traffic_tip(b: TrafficBucket) -> str:
    if b.p50_ms is None:
        return f"{instant(b.start_us)} · {b.rows} rows"
    return f"{instant(b.start_us)} · {b.rows} rows · p50 {number(b.p50_ms)} · p95 {number(b.p95_ms)} · p99 {number(b.p99_ms)} ms"


def meter(share: float | None, status: str) -> Markup:
    """A bar from 0 to 1."""
    wide = max(0.0, min(1.0, share or 0.0)) * 100
    return Markup(
        f'<span class="meter is-{escape(status)}" aria-hidden="true"><svg viewBox="0 0 100 6" preserveAspectRatio="none">'
        f'<rect class="dot is-{escape(status)}" width="{wide:.1f}" height="6" fill="currentColor"/></svg></span>'
    )
