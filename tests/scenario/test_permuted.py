"""Fault, feature, date and seed are permuted; weeks with nothing wrong must stay silent. Triage knows of none of this."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from andon.core.clocks import DAY_US, SystemClock
from andon.demo import bikes
from andon.operations.session import use
from andon.releases import service_state
from andon.store import Store, open_store
from tests.scenario.replaying import Change, Line, gone, scaled, shifted, stuck, told

pytest.importorskip("sklearn")
pytestmark = pytest.mark.slow
QUIET_DAYS, WATCHED_DAYS = 14, 16  # every launch is a Monday, and so is every first day of a fault

MakeLine = Callable[[str, int], Line]


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeLine]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    opened: list[tuple[Store, Line]] = []

    def make(launch: str, seed: int) -> Line:
        store = open_store(tmp_path / f"home{len(opened)}", clock=SystemClock())
        session = use(store)
        session.__enter__()
        sessions.append(session)
        made = Line(store, bikes.day_us(launch), seed)
        opened.append((store, made))
        return made

    sessions: list[object] = []
    yield make
    for store, made in opened:
        made.close()
        store.close()
    for session in reversed(sessions):
        session.__exit__(None, None, None)  # type: ignore[attr-defined]


FAULTS: list[tuple[str, int, str, Callable[[int], Change]]] = [
    ("2011-08-01", 0, "workingday", lambda since: stuck("workingday", 0.0, since)),
    ("2012-02-20", 1, "hr", lambda since: shifted("hr", 5, 24, since)),
    ("2012-06-04", 2, "temp", lambda since: scaled(("temp", "atemp"), 41.0, since)),
    ("2011-11-07", 3, "hum", lambda since: stuck("hum", 0.5, since)),
    ("2012-04-09", 4, "atemp", lambda since: gone("atemp", since)),
]


@pytest.mark.parametrize(("launch", "seed", "feature", "fault"), FAULTS, ids=[f"{case[2]}-{case[0]}" for case in FAULTS])
def test_a_broken_input_is_named_and_nothing_is_rolled_back(
    line: MakeLine, launch: str, seed: int, feature: str, fault: Callable[[int], Change]
) -> None:
    lived = line(launch, seed)
    lived.deploy(lived.release(), "the same again, so that there is something to go back to")
    lived.live(QUIET_DAYS)
    assert lived.state.incidents == ()
    since_us = lived.now_us
    lived.live(5, fault(since_us))
    incident = lived.state.incidents[0]
    assert incident.cause == "upstream"
    assert feature in incident.suspects
    assert incident.opened_us <= since_us + 2 * DAY_US
    assert lived.turns() == ["release:bikes@1", "release:bikes@2"]
    block = service_state(lived.store, bikes.SERVICE).training_block
    assert block is not None
    assert block.incident == incident.id


BAD = {
    "hr-1": "columns['hr'] = columns['hr'] - 1",
    "temp-in-degrees": "columns['temp'] = columns['temp'] * 41",
    "weekday-off": "columns['workingday'] = 1 - columns['workingday']",
}


@pytest.mark.parametrize(("launch", "seed", "what"), [("2011-08-15", 5, "hr-1"), ("2012-05-07", 6, "weekday-off")])
def test_a_bad_release_is_refused_by_the_gate_and_rolled_back_when_waived(
    line: MakeLine, tmp_path: Path, launch: str, seed: int, what: str
) -> None:
    lived = line(launch, seed)
    lived.live(QUIET_DAYS)
    code = tmp_path / "code"
    code.mkdir()
    (code / "changed.py").write_text(f"def transform(columns):\n    {BAD[what]}\n    return columns\n")
    made = lived.release(code, strict=False)
    assert made.answer == 1
    lived.deploy(made, "it looked fine")
    lived.live(WATCHED_DAYS)
    assert [(incident.cause, incident.advice) for incident in lived.state.incidents] == [("release", "rollback")]
    assert lived.turns() == ["release:bikes@1", "release:bikes@2", "release:bikes@1"]
    assert list(service_state(lived.store, bikes.SERVICE).rejections) == ["release:bikes@2"]


@pytest.mark.parametrize(("launch", "seed"), [("2011-08-01", 7), ("2011-10-03", 8), ("2012-07-02", 9)])
def test_weeks_with_nothing_wrong_stay_silent(line: MakeLine, launch: str, seed: int) -> None:
    lived = line(launch, seed)
    lived.deploy(lived.release(), "the same again")
    lived.live(24)
    assert lived.state.incidents == ()
    assert lived.turns() == ["release:bikes@1", "release:bikes@2"]


def test_the_same_events_give_the_same_verdicts_and_incidents(line: MakeLine) -> None:
    first, second = line("2012-02-20", 1), line("2012-02-20", 1)
    for lived in (first, second):
        lived.live(6)
        lived.live(4, shifted("hr", 5, 24, lived.now_us))
    assert told(first.store) == told(second.store)
    assert len(told(first.store)) > 100
