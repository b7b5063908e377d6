"""The read models do little work: incidents are folded once, a log is read again only when rows have come."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from andon.core.actors import Actor
from andon.operations.showing import incidents_view, run_view, runs_view
from andon.registry import register
from andon.store import Store, streams
from tests.browser.making import BEN
from tests.browser.seeding import INCIDENT


def _open(store: Store, name: str, **body: Any) -> None:
    now_us = store.clock.now_us()
    store.ledger.write(lambda c: streams.append(c, f"incident:{name}", "open", {"service": "bikes", **body}, at_us=now_us, actor=BEN))


def test_incidents_are_folded_once_and_again_when_they_move(seeded: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from andon.operations.showing import incidents

    for n in range(20):
        _open(seeded, f"more-{n}", why=f"reason {n}")
    assert len(incidents_view(seeded)) == 21
    folded: list[str] = []
    row = incidents._row
    monkeypatch.setattr(incidents, "_row", lambda id_, events: folded.append(id_) or row(id_, events))
    assert len(incidents_view(seeded)) == 21
    assert folded == []
    now_us = seeded.clock.now_us()
    seeded.ledger.write(lambda c: streams.append(c, "incident:more-3", "resolve", {"why": "over"}, at_us=now_us, actor=BEN))
    assert next(one for one in incidents_view(seeded) if one.id == "more-3").status == "resolved"
    assert folded == ["more-3"]


def test_as_many_incidents_as_there_are_take_as_many_queries_as_one(empty: Store) -> None:
    for n in range(50):
        _open(empty, f"i-{n}", why="x")
    asked: list[str] = []
    with empty.ledger.read() as connection:
        engine = connection.engine
    event.listen(engine, "before_cursor_execute", lambda *found: asked.append(found[2]))
    assert len(incidents_view(empty)) == 50
    assert len([one for one in asked if one.lower().startswith("select")]) <= 3


@pytest.mark.parametrize(
    ("body", "headline"),
    [
        ({"cause": "release", "release": "release:bikes@2"}, "A bad release: bikes@2"),
        ({"cause": "upstream", "suspects": ["a", "b", "c", "d", "e"]}, "A broken input: a, b, c and 2 more"),
        ({"cause": "upstream"}, "A broken input"),
        ({"cause": "world"}, "The world has changed"),
        ({"cause": "vendor"}, "vendor"),
        ({"why": "mornings look wrong; three riders called"}, "mornings look wrong"),
        ({"why": "word " * 40}, ("word " * 40)[:77] + "…"),
        ({"why": "..."}, "..."),
    ],
)
def test_an_incident_has_a_short_name(empty: Store, body: dict[str, Any], headline: str) -> None:
    _open(empty, "one", **body)
    assert incidents_view(empty)[0].headline == headline


def test_a_log_is_read_again_only_when_rows_have_come(seeded: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from andon.operations.showing.traffic import traffic as read
    from tests.browser.making import predictions

    before = read(seeded, "bikes")
    assert before.rows > 0
    asked: list[str] = []
    query = type(seeded.tables).query
    monkeypatch.setattr(type(seeded.tables), "query", lambda self, sql, *a, **k: asked.append(sql) or query(self, sql, *a, **k))
    assert read(seeded, "bikes") is before
    assert asked == []
    predictions(seeded, "bikes", "release:bikes@1", "release:bikes@3")
    assert read(seeded, "bikes").rows > before.rows
    assert asked


def test_of_a_long_log_only_the_newest_part_is_drawn(seeded: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from andon.operations.showing import traffic as module

    whole = module._look(seeded, "bikes")
    monkeypatch.setattr(module, "ROWS_READ", whole.rows // 4)
    part = module._look(seeded, "bikes")
    assert part.rows == whole.rows
    assert part.buckets[-1].start_us >= (whole.last_us or 0) - part.bucket_us
    assert part.buckets[0].start_us > whole.buckets[0].start_us
    assert sum(bucket.rows for bucket in part.buckets) < whole.rows


def test_what_a_run_registered_is_what_came_of_it(seeded: Store) -> None:
    from andon.registry.lineage import link_in

    run = next(row for row in runs_view(seeded).runs if row.name == "payments-gbm-wide")
    missing = {part.name for part in run_view(seeded, f"run:{run.id}").completeness if not part.present}
    assert "a product" in missing
    made = register(seeded, "dataset", "wide", {"rows": 1}, actor=Actor("person", "ana")).address
    seeded.ledger.write(lambda c: link_in(c, str(made), f"run:{run.id}", "run", now_us=1))
    part = next(part for part in run_view(seeded, f"run:{run.id}").completeness if part.name == "a product")
    assert (part.present, part.detail) == (True, "dataset:wide@1")
    assert incidents_view(seeded)[0].id == INCIDENT
