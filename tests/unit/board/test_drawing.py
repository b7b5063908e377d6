"""The drawings are well-formed SVG whatever the numbers, and the words say what they mean."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree as ET

import pytest

from andon.board import charts, words
from andon.board.graphs import lineage_graph
from andon.board.svg import element
from andon.core.clocks import DAY_US
from andon.operations.showing import LineageView
from andon.operations.showing.records import IncidentRow, QualityPoint, TrafficBucket
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


def _incident(opened_day: int, closed_day: int | None, headline: str = "A bad release: bikes@2") -> IncidentRow:
    return IncidentRow(
        id=f"bikes-{opened_day}",
        address=f"incident:bikes-{opened_day}",
        service="bikes",
        headline=headline,
        title=f"{headline[2:]} since 2011-08-08T00:00:00Z",
        status="open" if closed_day is None else "resolved",
        light="red",
        cause="",
        recommendation="",
        opened_us=1,
        opened_event_us=opened_day * DAY_US,
        closed_us=None if closed_day is None else 2,
        closed_event_us=None if closed_day is None else closed_day * DAY_US,
        opened_by="person:ana",
        release="",
    )


def test_each_incident_has_a_flag_that_leads_to_it() -> None:
    points = [_point(day, 1.0) for day in range(30)]
    incidents = [_incident(3, 6), _incident(4, 5, "<script>"), _incident(20, None), _incident(99, None)]
    root = ET.fromstring(charts.quality_chart(points, [], 1.4, incidents))
    links = list(root.iter("a"))
    assert [one.attrib["href"] for one in links] == ["/incidents/bikes-3", "/incidents/bikes-4", "/incidents/bikes-20"]
    assert [one.attrib["class"] for one in links] == ["flag", "flag", "flag is-open"]
    assert links[0].find("title").text == "bikes-3: A bad release: bikes@2, 4 Jan 1970 to 7 Jan 1970"  # type: ignore[union-attr]
    labels = [one.text for one in root.iter("text") if one.attrib.get("class") == "flag-label"]
    assert labels == ["<script>", "A bad release: bikes@2"], "a label that would run into the next flag is left to the title"
    narrow = ET.fromstring(charts.quality_chart(points, [], 1.4, incidents, width=340, height=250))
    assert len(narrow.attrib["data-points"].split(";")) == 30
    assert "expected" not in narrow.attrib["data-points"], "a narrow chart borrows its words from the wide one"


@pytest.mark.parametrize("threshold", [0.3, 0.98, 1.02, 1.4, 40.0, None])
def test_the_names_of_the_two_lines_never_touch(threshold: float | None) -> None:
    root = ET.fromstring(charts.quality_chart([_point(day, 1.0) for day in range(9)], [], threshold))
    said = [one for one in root.iter("text") if (one.text or "").startswith(("harm", "as expected"))]
    places = sorted(float(one.attrib["y"]) for one in said)
    assert len(said) == (1 if threshold is None else 2)
    assert all(b - a >= 12.9 for a, b in itertools.pairwise(places))


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


def test_a_link_that_a_longer_way_says_is_not_drawn() -> None:
    edges = (
        Edge("run:01A", "dataset:d@1", "data"),
        Edge("model:m@1", "run:01A", "run"),
        Edge("model:m@1", "dataset:d@1", "data"),
        Edge("release:s@1", "model:m@1", "model"),
        Edge("release:s@1", "dataset:d@1", "data"),
        Edge("release:s@1", "dataset:e@1", "evaluation"),
    )
    nodes = ("release:s@1", "model:m@1", "run:01A", "dataset:d@1", "dataset:e@1")
    depth = {"release:s@1": 0, "model:m@1": -1, "dataset:e@1": -1, "run:01A": -2, "dataset:d@1": -3}
    root = ET.fromstring(lineage_graph(LineageView(root="release:s@1", nodes=nodes, edges=edges, depth=depth, truncated=False)))
    assert sum(one.attrib.get("class") == "edge" for one in root.iter()) == 4
    assert "dataset · evaluation" in "".join(root.itertext())


def test_nothing_is_drawn_outside_the_picture() -> None:
    edges = (Edge("model:a@1", "model:b@1", "base"), Edge("model:b@1", "model:a@1", "base"))
    view = LineageView(
        root="model:a@1", nodes=("model:a@1", "model:b@1"), edges=edges, depth={"model:a@1": 0, "model:b@1": 0}, truncated=False
    )
    root = ET.fromstring(lineage_graph(view))
    numbers = [float(n) for one in root.iter("path") for n in re.findall(r"[\d.]+", one.attrib["d"])]
    assert numbers
    assert max(numbers) <= float(root.attrib["width"])


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss is 1.90 x as expected since 2011-10-19T00:00:00Z; no", "loss is 1.90 × as expected since 19 Oct 2011; no"),
        ("at 2011-10-19T14:30:00.5Z", "at 19 Oct 2011 14:30"),
        ("on 2011-09-07: other code", "on 7 Sep 2011: other code"),
        ("2011-19-39 and id-2011-09-07-x are no dates", "2011-19-39 and id-2011-09-07-x are no dates"),
        ("0000-01-01", "0000-01-01"),
    ],
)
def test_sentences_are_said_plainly(text: str, said: str) -> None:
    assert words.plain(text) == said


def test_addresses_in_a_sentence_are_links_and_the_rest_is_inert() -> None:
    made = words.linked("<b> incident:bikes-2: release:bikes@1, policy:gate/default@1. javascript:alert(1)")
    assert made.startswith("&lt;b&gt; <a ")
    assert re.findall(r'href="([^"]+)"', made) == ["/incidents/bikes-2", "/releases/bikes/1", "/registry/policy/gate%2Fdefault?at=1"]
    assert words.sentence("release:a@1 is bad") == "release:a@1 is bad."
    assert words.sentence("harmed!") == "Harmed!"
    assert words.sentence(" ") == ""


def test_a_replay_is_told_in_event_time() -> None:
    live = words.when(100 * DAY_US, 100 * DAY_US - 5, 100 * DAY_US)
    assert "event" not in live
    replayed = words.when(100 * DAY_US, 3 * DAY_US, 100 * DAY_US)
    assert ">4 Jan 1970</time>" in replayed
    assert "just now" in replayed


def test_an_incident_is_said_once() -> None:
    row = _incident(3, 6, "A broken input: workingday")
    assert words.beyond(row) == "since 2011-08-08T00:00:00Z"
    assert words.outcome(row) == "resolved after 3 d"
    assert words.outcome(_incident(3, None)) == "open"
    assert words.said_once(f"rejected: incident:bikes-3: {row.title}", [row]) == "rejected: incident:bikes-3"
    assert words.said_once(row.title, [row]) == "incident:bikes-3"
    assert words.said_once("hours counted from 1", [row]) == "hours counted from 1"


@pytest.mark.parametrize(
    ("us", "said"), [(None, "–"), (313_000, "313 ms"), (2_300_000, "2.3 s"), (40 * 10**6, "40 s"), (3 * DAY_US, "3 d")]
)
def test_durations_have_a_fitting_unit(us: int | None, said: str) -> None:
    assert words.lasting(us) == said
