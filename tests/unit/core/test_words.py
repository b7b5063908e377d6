"""Times, actors and texts that people hand in."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.core.actors import Actor, current_actor
from andon.core.clocks import ManualClock, SystemClock, to_iso, to_us
from andon.core.errors import InvalidInput
from andon.core.texts import check_reason, check_text


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_an_instant_reads_back(moment: dt.datetime) -> None:
    at_us = to_us(moment)
    assert to_us(to_iso(at_us)) == at_us == to_us(at_us) == to_us(moment.isoformat())


def test_zones_are_honoured_and_naive_is_utc() -> None:
    assert to_us("2011-08-01T02:00:00+02:00") == to_us("2011-08-01T00:00:00") == to_us("2011-08-01")


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), "yesterday", "", None, 10**30, -(10**30), 1e300, b"2011", [1]])
def test_what_is_no_time_names_its_field(value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_us(value, field="event_time")  # type: ignore[arg-type]
    assert caught.value.fields["field"] == "event_time"


def test_clocks() -> None:
    clock = ManualClock(5)
    clock.advance(-10)
    assert clock.now_us() == -5
    clock.set(7)
    assert clock.now_us() == 7
    assert abs(SystemClock().now_us() - dt.datetime.now(dt.UTC).timestamp() * 1e6) < 60e6


def test_an_actor_is_its_text() -> None:
    for text in ("person:ana", "token:ci:main", "controller:incidents", "process:4711", "person:Ana María"):
        assert str(Actor.parse(text)) == text
    for text in ("", "ana", "person:", "person: ana", "robot:x", "person:a\nb", "person:a\x00", "person:\ud800", "person:" + "a" * 300):
        with pytest.raises(InvalidInput) as caught:
            Actor.parse(text)
        assert caught.value.fields["field"] == "actor"


def test_the_current_actor_is_named_or_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDON_ACTOR", "controller:ct")
    assert current_actor() == Actor("controller", "ct")
    monkeypatch.setenv("ANDON_ACTOR", "ben")
    assert current_actor() == Actor("person", "ben")
    monkeypatch.delenv("ANDON_ACTOR")
    assert current_actor().kind == "person"


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x" * 10_001, 3])
def test_a_reason_that_no_engine_could_keep_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_reason(text)  # type: ignore[arg-type]
    assert caught.value.fields["field"] == "reason"
    with pytest.raises(InvalidInput, match="1 to 5 bytes"):
        check_text("", "key", at_least=1, at_most=5)
    assert check_reason("ünïcode\n") == "ünïcode\n"
