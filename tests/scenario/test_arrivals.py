"""What arrives late, twice, out of order, from a wrong clock, or not at all: verdicts follow event time, and nothing is judged twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import numpy as np
import pytest

from andon import registry, releases
from andon.core.clocks import DAY_US, HOUR_US, ManualClock
from andon.core.errors import Conflict, CorruptBytes, Unavailable
from andon.incidents.controller import IncidentController
from andon.logs import Label
from andon.monitoring import Policy
from andon.store import Store, memory_store
from andon.telemetry import served_rows
from tests.conftest import ANA, START_US
from tests.scenario.small import WALL_US, Small, expected, inputs

Begin = Callable[..., Small]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """A service in memory with one release in production; ``bias`` is the release's own."""
    with ExitStack() as stack:

        def make(**options: Any) -> Small:
            small = Small(stack.enter_context(memory_store(ManualClock(WALL_US))), **options)
            small.release()
            return small

        yield make


def told(small: Small) -> list[tuple[Any, ...]]:
    """Every verdict and decision, without ids and wall times."""
    from andon.incidents.journal import journal_stream
    from andon.store import streams

    found = registry.verdicts_on(small.store, "service:small", limit=10_000)
    with small.store.ledger.read() as connection:
        events = streams.read(connection, journal_stream("small"))
    verdicts = [(v.at_us, v.check, v.status, v.value, v.message, v.n, str(v.slices)) for v in found]
    return sorted(verdicts, key=str) + [(event.event_us, event.type, str(event.body)) for event in events]


# --- columns and losses of every kind


def test_text_booleans_and_instants_are_watched_and_a_bad_release_is_rolled_back(begin: Begin) -> None:
    small = begin()
    small.live(5)
    small.release(bias=60.0)  # its gate refused it, and it was waived
    small.live(10)
    assert [(incident.cause, incident.advice) for incident in small.state.incidents] == [("release", "rollback")]
    assert releases.service_state(small.store, "small").held() == ["release:small@1", "release:small@2", "release:small@1"]


def test_a_text_column_that_breaks_is_named(begin: Begin) -> None:
    small = begin()
    small.live(3)
    event_us = small.day()
    small.answer(event_us, sent=inputs(event_us) | {"city": np.array(["Washington"] * len(event_us), dtype=object)})
    small.now_us += DAY_US
    small.live(1)
    incident = small.state.incidents[0]
    assert (incident.cause, incident.suspects) == ("upstream", ("city",))
    assert small.verdicts("inputs/unseen")[3][1] == "fail"


def test_instants_do_not_grow_into_a_fault(begin: Begin) -> None:
    """``since`` moves on with the calendar: months after training it is far outside what training held, and that is no fault."""
    small = begin()
    small.live(2)
    small.now_us += 300 * DAY_US
    small.live(4)
    assert small.state.incidents == ()


def test_a_classifier_is_judged_by_its_errors(begin: Begin) -> None:
    small = begin(kind="class", policy=Policy(loss="zero-one"))
    small.live(5)
    assert small.state.incidents == ()
    small.release(bias=30.0)
    small.live(10)
    assert [(incident.cause, incident.advice) for incident in small.state.incidents] == [("release", "rollback")]


# --- labels


def test_labels_out_of_order_twice_and_for_unknown_requests_change_nothing(begin: Begin) -> None:
    orderly, messy = begin(), begin()
    rng = random.Random(3)
    for small in (orderly, messy):
        for _ in range(6):
            labels = small.labels(small.instants(small.now_us - DAY_US, small.now_us)) if small.now_us > START_US else []
            if small is messy:
                unknown = [Label(request_id=f"nobody-{n}", label=1e9, event_us=small.now_us) for n in range(9)]
                labels = [*labels, *labels, *unknown]
                rng.shuffle(labels)
            for start in range(0, len(labels), 7):
                small.tell(labels[start : start + 7])
            small.answer(small.day())
            small.now_us += DAY_US
            small.judge()
    assert told(orderly) == told(messy)
    assert any(status == "pass" for _, status, _ in orderly.verdicts("live-quality"))


def test_a_correction_changes_no_verdict_of_the_past_and_counts_from_when_it_is_known(begin: Begin) -> None:
    small = begin()
    small.live(5)
    before = told(small)
    first_day = small.instants(START_US, START_US + DAY_US)
    corrected = [msgspec.structs.replace(label, label=0.0) for label in small.labels(first_day, known_us=small.now_us + HOUR_US)]
    small.tell(corrected)
    assert small.judge() == 0
    assert told(small) == before

    def labels(known_by_us: int) -> list[float]:
        rows = served_rows(small.store, "small", START_US, START_US + DAY_US, known_by_us=known_by_us)
        return [value for value in rows["label"].to_pylist() if value is not None]

    assert all(value != 0.0 for value in labels(small.now_us))
    assert labels(small.now_us + HOUR_US) == [0.0] * len(first_day)


def test_of_two_labels_of_one_moment_the_larger_counts(begin: Begin) -> None:
    small = begin()
    small.answer(small.instants(START_US, START_US + HOUR_US))
    at = small.asked[0]
    for values in ((3.0, 5.0), (5.0, 3.0)):
        small.tell([Label(request_id=str(at), label=value, event_us=at + DAY_US) for value in values])
    rows = served_rows(small.store, "small", START_US, START_US + HOUR_US)
    assert rows["label"].to_pylist()[0] == 5.0


# --- predictions


def test_predictions_of_three_days_in_any_order_give_the_same_verdicts(begin: Begin) -> None:
    orderly, messy = begin(), begin()
    for small in (orderly, messy):
        event_us = small.instants(START_US, START_US + 3 * DAY_US)
        days = [(at, inputs(event_us[event_us // DAY_US == at // DAY_US])) for at in event_us]
        singles = [(at, {name: values[n % 48 : n % 48 + 1] for name, values in day.items()}) for n, (at, day) in enumerate(days)]
        if small is messy:
            random.Random(1).shuffle(singles)
        for at, sent in singles:
            small.answer(np.array([at]), sent=sent)
        small.judge()
    assert told(orderly) == told(messy)
    assert orderly.verdicts("inputs/nulls") == [(1, "pass", 48), (2, "pass", 48)]


def test_a_row_that_comes_after_its_window_was_judged_changes_no_verdict(begin: Begin) -> None:
    small = begin()
    small.live(4)
    before = told(small)
    small.answer(np.array([START_US + 30 * 60_000_000 + 1]), ids=["late"])
    assert small.judge() == 0
    assert told(small) == before
    small.live(2)
    assert small.state.incidents == ()


def test_a_retry_is_one_row(begin: Begin) -> None:
    small = begin()
    event_us = small.day()
    for arrived_us in (WALL_US, WALL_US + 1_000_000):
        small.answer(event_us, arrived_us=arrived_us)
    small.now_us += DAY_US
    small.live(1)
    assert small.verdicts("inputs/nulls") == [(1, "pass", 48)]
    assert small.verdicts("inputs/duplicates") == [(1, "pass", 48)]


def test_a_busy_service_is_judged_on_whole_windows_and_a_sample_of_what_came_before(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("andon.monitoring.watching.HISTORY_ROWS", 400)
    small = begin(per_hour=4)
    small.live(5)
    small.release(bias=60.0)
    read: list[int] = []
    monkeypatch.setattr(small.controller.watcher, "_checks", _counting(small.controller.watcher._checks, read))
    small.live(10)
    assert max(read) < 2 * 96 + 400 + 60
    assert {n for _, _, n in small.verdicts("inputs/volume")} == {96}
    assert [(incident.cause, incident.advice) for incident in small.state.incidents] == [("release", "rollback")]
    rows = [served_rows(small.store, "small", START_US, small.now_us, thin=8, whole_from_us=small.now_us - DAY_US) for _ in range(2)]
    assert rows[0].equals(rows[1])
    assert 96 <= rows[0].num_rows < 15 * 96 / 4
    assert rows[0]["label"].null_count <= 2 * 96


def _counting(checks: Callable[..., Any], read: list[int]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        read.append(len(arguments[3]))
        return checks(*arguments)

    return counted


# --- clocks and silence


def test_one_row_from_the_year_2099_takes_no_window_over(begin: Begin) -> None:
    small = begin()
    small.live(3)
    small.answer(np.array([START_US + 32_000 * DAY_US]))
    assert small.judge() == 0
    small.live(3)
    assert [day for day, _, _ in small.verdicts("inputs/volume")] == [1, 2, 3, 4, 5]


def test_a_replica_whose_clock_is_a_little_fast_is_believed(begin: Begin) -> None:
    """Its rows are ahead of their arrival by minutes: they belong to the windows they name."""
    small = begin()
    small.live(2)
    small.store.clock.set(small.now_us)  # type: ignore[attr-defined]
    small.answer(small.day(), arrived_us=small.now_us + DAY_US)
    small.now_us += DAY_US
    small.answer(np.array([small.now_us + 60_000_000]), arrived_us=small.now_us - 120_000_000)
    assert small.judge() == 2  # the third day has ended


def test_a_row_from_1970_costs_neither_hours_nor_the_present(begin: Begin) -> None:
    small = begin()
    small.answer(np.array([1_000_000]))
    small.live(4)
    assert small.verdicts("inputs/nulls") == [(1, "pass", 48), (2, "pass", 48), (3, "pass", 48)]  # it was deployed on day 0


@pytest.fixture
def in_wall_time(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> Small:
    """A service launched now, by a deploy without an event time."""
    deploy = releases.deploy
    monkeypatch.setattr(releases, "deploy", lambda *args, event_us=None, **options: deploy(*args, **options))
    small = begin()
    small.now_us = WALL_US
    return small


def _days(small: Small, days: int) -> None:
    clock = small.store.clock
    assert isinstance(clock, ManualClock)
    for _ in range(days):
        small.answer(small.day(), arrived_us=small.now_us + DAY_US)
        small.now_us += DAY_US
        clock.set(max(clock.now_us(), small.now_us))
        small.judge()


def test_a_request_that_names_a_year_long_past_opens_no_window(in_wall_time: Small) -> None:
    small, launched = in_wall_time, (WALL_US - START_US) // DAY_US
    small.answer(np.array([START_US + 8 * HOUR_US, START_US + 50 * HOUR_US]), ids=["a-1", "a-2"])
    assert small.judge() == 0
    _days(small, 3)
    assert [day for day, _, _ in small.verdicts("inputs/volume")] == [launched + 1, launched + 2]
    small.answer(np.array([START_US + 9 * HOUR_US]), arrived_us=small.now_us, ids=["a-3"])
    _days(small, 2)
    assert [day for day, _, _ in small.verdicts("inputs/volume")] == [launched + day for day in (1, 2, 3, 4)]
    assert small.state.incidents == ()


def test_a_queue_that_is_three_days_behind_at_the_launch_counts(in_wall_time: Small) -> None:
    small, launched = in_wall_time, (WALL_US - START_US) // DAY_US
    small.now_us -= 3 * DAY_US
    _days(small, 1)
    small.now_us = WALL_US
    _days(small, 2)
    assert small.verdicts("inputs/volume")[0][0] == launched - 2


def test_a_replay_of_the_past_is_judged_even_without_an_event_time_of_the_deploy(in_wall_time: Small) -> None:
    small = in_wall_time
    small.now_us = START_US
    small.live(3)
    assert small.verdicts("inputs/nulls") == [(1, "pass", 48), (2, "pass", 48)]


def test_a_service_is_measured_by_its_own_weeks_and_not_by_its_training_data(begin: Begin) -> None:
    small = begin(per_hour=2)  # as in training
    small.per_hour = 1  # and now half as busy
    small.live(7)
    (last, *_) = registry.verdicts_on(small.store, "service:small", check="inputs/volume")
    assert (last.status, last.message) == ("undecided", "5 windows seen; a week is needed")
    small.live(10)
    assert small.verdicts("inputs/volume") == [(day, "undecided" if day < 8 else "pass", 24) for day in range(1, 17)]
    assert small.state.incidents == ()


def test_in_its_second_week_a_service_that_is_asked_nothing_is_warned_of(begin: Begin) -> None:
    small = begin()
    small.live(9)
    small.now_us += DAY_US
    small.live(2)
    assert small.verdicts("inputs/volume")[9] == (10, "warn", 0)
    assert small.state.incidents == ()


def test_a_service_that_is_rarely_asked_has_lost_nothing_on_a_quiet_day(begin: Begin) -> None:
    small = begin()
    for day in range(20):
        if day != 16:
            small.answer(small.day()[:5])
        small.now_us += DAY_US
        small.judge()
    assert small.verdicts("inputs/volume")[16] == (17, "warn", 0)
    assert small.state.incidents == ()


def test_a_day_without_a_request_is_an_incident_and_the_next_days_resolve_it(begin: Begin) -> None:
    small = begin()
    small.live(14)
    small.now_us += DAY_US
    small.live(5)
    assert small.verdicts("inputs/volume")[14] == (15, "fail", 0)
    (incident,) = small.state.incidents
    assert (incident.cause, incident.checks) == ("upstream", ("inputs/volume",))
    assert incident.resolved_us == START_US + 18 * DAY_US
    assert releases.service_state(small.store, "small").training_block is None


def test_weeks_of_silence_are_passed_over_in_one_step_that_is_journaled(begin: Begin) -> None:
    small = begin()
    small.live(15)
    small.now_us += 70 * DAY_US
    small.live(1)
    assert small.judge() == 0
    days = [day for day, _, _ in small.verdicts("inputs/volume")]
    assert days == list(range(1, 18))  # the last still had labels to wait for
    assert len(small.state.incidents) == 1
    small.live(4)
    assert [day for day, _, _ in small.verdicts("inputs/volume")][17:] == [86, 87, 88, 89]
    assert any("nothing was asked between" in entry[2] for entry in told(small) if entry[1] == "nothing")


def test_a_launch_in_the_evening_has_not_lost_the_morning(begin: Begin) -> None:
    small = begin()
    small.answer(small.instants(START_US + 20 * HOUR_US, START_US + DAY_US))
    small.now_us += DAY_US
    small.live(2)
    assert small.verdicts("inputs/volume") == [(1, "undecided", 8), (2, "undecided", 48)]
    small.live(8)
    assert small.verdicts("inputs/volume")[-3:] == [(8, "undecided", 48), (9, "pass", 48), (10, "pass", 48)]
    assert small.state.incidents == ()


# --- what a release lacks, and what goes wrong meanwhile


def test_a_release_without_training_data_is_undecided_and_says_what_is_missing(begin: Begin) -> None:
    small = begin()
    small.release(data=False)
    small.live(3)
    found = registry.verdicts_on(small.store, "service:small")
    assert {(one.check, one.status) for one in found} == {("live-quality", "undecided")}
    assert "without training data" in found[0].message
    assert small.state.incidents == ()


def test_training_data_that_is_damaged_is_said_in_the_verdict(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> Any:
        raise CorruptBytes("these bytes are not what they were", digest="b3:1234")

    small = begin()
    with monkeypatch.context() as patched:
        patched.setattr("andon.monitoring.watching.born", damaged)
        small.live(2)
    (verdict,) = registry.verdicts_on(small.store, "service:small")
    assert verdict.status == "undecided"
    assert "not what they were" in verdict.message
    small.live(2)  # the bytes are back
    assert small.verdicts("inputs/nulls") == [(2, "pass", 48), (3, "pass", 48)]


def test_a_disk_that_is_away_makes_windows_wait(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> Any:
        raise Unavailable("the artifact store does not answer")

    small = begin()
    with monkeypatch.context() as patched:
        patched.setattr("andon.monitoring.watching.born", away)
        with pytest.raises(Unavailable):
            small.live(2)
    assert registry.verdicts_on(small.store, "service:small") == []
    assert small.judge() == 1


def test_one_service_that_cannot_be_judged_stops_no_other(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    small = begin()
    manifest = registry.get(small.store, "release:small@1").manifest
    broken = registry.register(small.store, "release", "broken", {**manifest, "service": "broken"}, actor=ANA)
    assert broken.address.name == "broken"
    step = IncidentController.step

    def stepped(self: IncidentController, store: Store, service: str) -> Any:
        if service == "broken":
            raise ValueError("nobody foresaw this")
        return step(self, store, service)

    monkeypatch.setattr(IncidentController, "step", stepped)
    small.answer(small.instants(START_US, START_US + 2 * DAY_US + HOUR_US))
    assert small.controller.tick(small.store)
    assert small.controller.tick(small.store)
    with pytest.raises(ValueError, match="nobody foresaw"):
        small.controller.tick(small.store)
    assert len(small.verdicts("inputs/volume")) == 2


def test_a_cord_pulled_while_a_window_is_judged_gets_a_number_of_its_own(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    small = begin()
    small.live(3)
    event_us = small.day()
    small.answer(event_us, sent=inputs(event_us) | {"city": np.array(["?"] * len(event_us), dtype=object)})
    small.now_us += DAY_US
    small.answer(np.array([small.now_us]))
    decide = IncidentController._decide

    def pulled_meanwhile(self: IncidentController, *arguments: Any) -> Any:
        monkeypatch.setattr(IncidentController, "_decide", decide)
        assert small.controller.pull(small.store, "small", actor=ANA, why="riders complain") == "incident:small-1"
        return decide(self, *arguments)

    monkeypatch.setattr(IncidentController, "_decide", pulled_meanwhile)
    with pytest.raises(Conflict, match="pulled the cord"):
        small.controller.step(small.store, "small")
    assert small.verdicts("inputs/nulls") == [(1, "pass", 48), (2, "pass", 48)]
    assert small.judge() == 2
    ids = [incident.id for incident in small.state.incidents]
    assert ids[0] == "small-1"
    assert len(ids) == len(set(ids))


def test_moves_without_an_event_time_are_placed_by_when_requests_came_in(begin: Begin) -> None:
    """A control plane that was away for a week judges each day by the release that answered it then."""
    small = begin()
    clock = small.store.clock
    assert isinstance(clock, ManualClock)
    second = small.release()
    releases.rollback(small.store, "small", actor=ANA, reason="back to the first", to="release:small@1")
    for day in range(6):
        clock.set(WALL_US + day * DAY_US)
        if day == 3:
            releases.waive(small.store, second, for_s=9e6, actor=ANA, reason="again")
            releases.deploy(small.store, second, actor=ANA, reason="again")
            clock.advance(HOUR_US)
        small.answer(small.day(), arrived_us=clock.now_us())
        small.tell(small.labels(small.day()))
        small.now_us += DAY_US
    seen = []
    while (judged := small.controller.step(small.store, "small")) is not None:
        seen.append(judged.release)
    assert seen == ["release:small@1"] * 3 + [second] * 2


def test_expected_is_what_the_release_says() -> None:
    """The fixture's own promise: without bias a release errs by the noise alone."""
    event_us = np.arange(START_US, START_US + DAY_US, HOUR_US)
    assert np.isfinite(expected(inputs(event_us))).all()
