"""The drawings are well-formed SVG whatever the numbers, and the words say what they mean."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest

from andon.board import charts, words
from andon.board.graphs import lineage_graph
from andon.board.svg import element
from andon.core.clocks import DAY_US
from andon.operations.showing import LineageView
from andon.operations.showing.records import QualityPoint, TrafficBucket
from andon.registry import Edge
from andon.releases import Turn


def _point(day: int, ratio: float | None, status: str = "pass", high: float | None = None) -> QualityPoint:
    return QualityPoint(
        start_us=day * DAY_US,
        end_us=(day + 1) * DAY_US,
        status=status,
        ratio=ratio,
        pooled=ratio,
        low=None if ratio is None else ratio * 0.9,
        high=high if high is not None else None if ratio is None else ratio * 1.1,
        n=24,
        verdict=f"verdict:{day}",
        message="",
    )


def _turn(day: int, release: str, kind: str = "deployed") -> Turn:
    return Turn(
        channel="production", release=release, previous=None, at_us=0, event_us=day * DAY_US, actor="person:ana", reason="", kind=kind
    )


def test_quality_is_drawn_with_threshold_turns_and_every_window() -> None:
    points = [_point(day, 1.0 + day / 50) for day in range(30)] + [
        _point(30, None, "undecided"),
        _point(31, 1.8, "fail"),
        _point(32, 99.0, "fail"),
    ]
    svg = charts.quality_chart(
        points, [_turn(0, "release:bikes@1"), _turn(20, "release:bikes@2"), _turn(31, "release:bikes@1", "rolled-back")], 1.4
    )
    root = ET.fromstring(svg)
    assert len(root.attrib["data-points"].split(";")) == 33
    kinds = [one.attrib.get("class") for one in root.iter()]
    assert kinds.count("turn") == 2
    assert kinds.count("limit") == 1
    assert "↩ @1" in "".join(root.itertext())
    assert "nan" not in svg
    assert all(0 <= float(one.attrib["y1"]) <= 320 for one in root.iter() if "y1" in one.attrib)


@pytest.mark.parametrize("points", [[], [_point(0, 1.0)], [_point(0, None, "undecided")], [_point(0, 0.0)] * 3])
def test_few_or_no_windows_draw_too(points: list[QualityPoint]) -> None:
    svg = charts.quality_chart(points, [], None)
    assert svg == "" or ET.fromstring(svg) is not None


def test_traffic_draws_gaps_and_no_latency() -> None:
    buckets = [TrafficBucket(start_us=hour, rows=hour, p50_ms=None, p95_ms=None, p99_ms=None) for hour in range(1, 4)]
    assert ET.fromstring(charts.traffic_chart(buckets, 1)) is not None
    assert charts.traffic_chart([], 1) == ""


@pytest.mark.parametrize("values", [[], [1.0], [None, None, 2.0], [0.0, 0.0], [1.0, None, 3.0, -1.0]])
def test_sparklines_of_anything(values: list[float | None]) -> None:
    svg = charts.sparkline(values, 1.4)
    assert svg == "" or ET.fromstring(svg) is not None


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 2.1), (0, 1e-9), (0, 1e9), (5, 5)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = charts.ticks(low, high, 4)
    assert len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-6 for tick in found)


def test_lineage_is_drawn_from_left_to_right_with_hostile_names_inert() -> None:
    edges = (Edge("model:m@1", "run:01A", "run"), Edge("release:s@1", "model:m@1", "model"), Edge("release:s@1", "dataset:<b>@1", "data"))
    nodes = ("model:m@1", "run:01A", "release:s@1", "dataset:<b>@1")
    view = LineageView(
        root="model:m@1",
        nodes=nodes,
        edges=edges,
        depth={"model:m@1": 0, "run:01A": -1, "release:s@1": 1, "dataset:<b>@1": 0},
        truncated=False,
    )
    svg = lineage_graph(view)
    root = ET.fromstring(svg)
    x = {one.find("title").text: float(one.find("rect").attrib["x"]) for one in root.iter("a")}  # type: ignore[union-attr]
    assert x["run:01A"] < x["model:m@1"] < x["release:s@1"]
    assert "<b>" not in svg
    assert lineage_graph(LineageView(root="a", nodes=("a",), edges=(), depth={"a": 0}, truncated=False)) == ""


def test_a_crowd_of_children_is_counted_not_drawn() -> None:
    children = [f"release:s@{n}" for n in range(1, 40)]
    edges = tuple(Edge(child, "model:m@1", "model") for child in children)
    view = LineageView(
        root="model:m@1", nodes=("model:m@1", *children), edges=edges, depth=dict.fromkeys(children, 1) | {"model:m@1": 0}, truncated=True
    )
    assert "and 30 more" in lineage_graph(view)


def test_elements_escape_all_they_are_given() -> None:
    made = element("text", "<script>", data_x='"><script>', x=math.pi)
    assert made == '<text data-x="&#34;&gt;&lt;script&gt;" x="3.1">&lt;script&gt;</text>'


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("service:bikes@production", "/services/bikes"),
        ("release:bikes@3", "/releases/bikes/3"),
        ("release:bikes", "/releases/bikes/latest"),
        ("run:01A", "/runs/01A"),
        ("incident:01A", "/incidents/01A"),
        ("verdict:01A", "/verdicts/01A"),
        ("experiment:a b/ü", "/runs?experiment=a%20b%2F%C3%BC"),
        ("policy:gate/default@2", "/registry/policy/gate%2Fdefault?at=2"),
        ("model:m@champion", "/registry/model/m?at=champion"),
        ("javascript:alert(1)", "#"),
    ],
)
def test_every_address_has_a_page(address: str, url: str) -> None:
    assert words.href(address) == url


def test_every_state_has_a_shape_of_its_own() -> None:
    assert len({str(words.lamp(state)).split(">", 1)[1] for state in ("pass", "warn", "fail", "undecided")}) == 4


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (0.5, "0.5"),
        (0.0001234, "0.000123"),
        (12.345, "12.35"),
        (1234567, "1,234,567"),
        (1e9 + 0.5, "1,000,000,000"),
        (True, "True"),
    ],
)
def test_numbers_are_said_shortly(value: object, said: str) -> None:
    assert words.number(value) == said


def test_times_far_away_do_not_break_a_page() -> None:
    assert words.instant(10**18) == "9999-12-31 23:59"
    assert words.instant(-(10**18)).endswith("1-01-01 00:00")
    assert "just now" in words.ago(100, 50)
