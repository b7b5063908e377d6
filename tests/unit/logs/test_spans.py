"""The span log and the records of traces, without a wire: rows, records from spans, deduplication at read."""

from __future__ import annotations

import pytest

from andon.core.errors import InvalidInput, NotFound
from andon.logs import assessments
from andon.logs.assessments import Assessment
from andon.logs.spans import SpanRow, append_spans, schema
from andon.logs.traces import (
    ERROR,
    IN_PROGRESS,
    OK,
    TOKENS,
    TraceRecord,
    TraceSeed,
    delete_traces_in,
    get_trace,
    hidden_in,
    link_in,
    name_trace_in,
    note_spans_in,
    reap_spans,
    set_tags_in,
    tell_trace_in,
    tokens_of,
    traces_in,
)
from andon.store import Store
from andon.telemetry.spans import spans_of, tokens_by_model, traces_with

HOUR_US = 3_600_000_000
START_US = 1_700_000_400_000_000 // HOUR_US * HOUR_US
TRACE = "000102030405060708090a0b0c0d0e0f"


def row(n: int, *, trace: str = TRACE, parent: int | None = None, at_us: int | None = None, **values: object) -> SpanRow:
    """Span ``n`` of a trace, ``n`` seconds after the start."""
    at = START_US + n * 1_000_000 if at_us is None else at_us
    known: dict[str, object] = dict.fromkeys(SpanRow._fields)
    known |= {
        "event_us": at,
        "trace_id": trace,
        "span_id": f"{n:016x}",
        "parent_id": None if parent is None else f"{parent:016x}",
        "name": f"span {n}",
        "status": "unset",
        "start_ns": at * 1000,
        "end_ns": at * 1000 + 5_000_000,
        "experiment": 0,
        "attributes": "{}",
    }
    return SpanRow(**(known | values))  # type: ignore[arg-type]


def seed(**values: object) -> TraceSeed:
    known: dict[str, object] = {"id": f"tr-{TRACE}", "experiment": 0, "first_us": START_US, "last_us": START_US}
    return TraceSeed(**(known | values))  # type: ignore[arg-type]


def noted(store: Store, *seeds: TraceSeed) -> TraceRecord:
    store.ledger.write(lambda connection: note_spans_in(connection, seeds))
    return get_trace(store, seeds[0].id)


def test_rows_come_back_as_they_went(disk_store: Store) -> None:
    rows = [row(1, model="m", input_tokens=3, cost_usd=0.5, attributes='{"a":1}'), row(2, parent=1)]
    assert append_spans(disk_store.tables, rows, arrival_us=START_US + 7) == 2
    assert append_spans(disk_store.tables, [], arrival_us=0) == 0
    for _ in range(2):  # unsealed, then sealed
        found = disk_store.tables.scan("spans")
        assert found.schema.names == schema().names
        first = found.to_pylist()[0]
        assert (first["trace_id"], first["model"], first["input_tokens"], first["cost_usd"]) == (TRACE, "m", 3, 0.5)
        assert first["attributes"] == '{"a":1}'
        assert first["start_ns"] == (START_US + 1_000_000) * 1000
        disk_store.tables.seal()


def test_a_span_that_came_twice_is_read_once(store: Store) -> None:
    append_spans(store.tables, [row(1, model="m", input_tokens=3), row(2, parent=1)], arrival_us=10)
    append_spans(store.tables, [row(1, model="m", input_tokens=5, name="again")], arrival_us=20)
    record = TraceRecord(id=f"tr-{TRACE}", experiment=0, requested_us=0, first_us=START_US, last_us=START_US + 2_000_000)
    spans = spans_of(store, [record])[record.id]
    assert [span["name"] for span in spans] == ["again", "span 2"]
    assert tokens_by_model(store).to_pylist()[0]["calls"] == 1


def test_only_the_time_of_a_trace_is_read(store: Store) -> None:
    append_spans(store.tables, [row(1), row(9)], arrival_us=10)
    record = TraceRecord(id=f"tr-{TRACE}", experiment=0, requested_us=0, first_us=START_US, last_us=START_US + 1_000_000)
    assert len(spans_of(store, [record])[record.id]) == 1
    assert spans_of(store, [TraceRecord(id="tr-short", experiment=0, requested_us=0, first_us=0, last_us=1)]) == {}
    assert spans_of(store, []) == {}


def test_tokens_by_model_and_hour(store: Store) -> None:
    assert tokens_by_model(store).num_rows == 0  # before the first span
    rows = [
        row(n, at_us=START_US + hour * HOUR_US + n, model=model, input_tokens=10, output_tokens=1)
        for n, (hour, model) in enumerate([(0, "a"), (0, "a"), (0, "b"), (1, "a")])
    ]
    append_spans(store.tables, [*rows, row(9, input_tokens=99)], arrival_us=1)
    found = [(line["at"].hour, line["model"], line["calls"], line["input_tokens"]) for line in tokens_by_model(store).to_pylist()]
    hour = found[0][0]
    assert found == [(hour, "a", 2, 20), (hour, "b", 1, 10), ((hour + 1) % 24, "a", 1, 10)]
    assert tokens_by_model(store, experiment=7).num_rows == 0
    assert tokens_by_model(store, start_us=START_US + HOUR_US).num_rows == 1


def test_spans_can_be_searched(store: Store) -> None:
    assert traces_with(store, [0], [("name", "=", "x")]) == []
    append_spans(store.tables, [row(1, attributes='{"a.b/c":"deep"}', status="error"), row(2, trace="f" * 32, type="LLM")], arrival_us=1)
    for tests, found in (
        ([("name", "LIKE", "span%")], {TRACE, "f" * 32}),
        ([("name", "=", "span 1"), ("status", "=", "ERROR")], {TRACE}),
        ([("name", "=", "span 2"), ("status", "=", "ERROR")], set()),
        ([("type", "IN", ("LLM", "x"))], {"f" * 32}),
        ([("attributes.a.b/c", "=", "deep")], {TRACE}),
        ([("attributes.b/c", "=", "deep")], set()),
        ([("content", "ILIKE", "%DEEP%")], {TRACE}),
    ):
        assert set(traces_with(store, [0], tests)) == found, tests
    assert traces_with(store, [1], [("name", "LIKE", "%")]) == []
    with pytest.raises(InvalidInput):
        traces_with(store, [0], [("name", "; drop", "x")])


def test_a_record_grows_with_its_spans(store: Store) -> None:
    child = noted(store, seed(first_us=START_US + 5, last_us=START_US + 9, end_us=START_US + 20, tags={"t": "1"}))
    assert (child.state, child.requested_us, child.execution_us, child.told) == (IN_PROGRESS, START_US + 5, 15, False)
    root = noted(store, seed(end_us=START_US + 30, state=ERROR, session="s", user="u", request_preview="q", tags={"t": "2"}))
    assert (root.state, root.requested_us, root.execution_us, root.session) == (ERROR, START_US, 30, "s")
    assert (root.first_us, root.last_us) == (START_US, START_US + 9)
    assert (root.facts, root.tags, root.request_preview) == ({"mlflow.trace.user": "u"}, {"t": "2"}, "q")
    assert noted(store, seed(end_us=START_US + 30, state=OK)).state == ERROR  # the root is said once


def test_noting_a_batch_twice_changes_nothing(store: Store) -> None:
    usage = {"a": (None, {"input_tokens": 7}), "b": ("a", {"input_tokens": 3})}
    once = noted(store, seed(state=OK, usage=usage), seed(id="tr-" + "e" * 32))
    assert noted(store, seed(state=OK, usage=usage), seed(id="tr-" + "e" * 32)) == once
    assert tokens_of(once.usage) == {"input_tokens": 7}  # b is below a, which has summed it


def test_what_was_told_is_not_changed_by_spans(store: Store) -> None:
    told = TraceRecord(id=f"tr-{TRACE}", experiment=0, state=OK, requested_us=START_US, execution_us=5, facts={TOKENS: "{}"})
    store.ledger.write(lambda connection: tell_trace_in(connection, told))
    after = noted(store, seed(end_us=START_US + 999, state=ERROR, request_preview="q", usage={"a": (None, {"input_tokens": 1})}))
    assert (after.state, after.execution_us, after.usage, after.request_preview, after.first_us) == (OK, 5, {}, "q", START_US)


def test_telling_keeps_what_spans_said_before(store: Store) -> None:
    noted(store, seed(session="s", tags={"service.name": "x"}, usage={"a": (None, {"input_tokens": 1})}))
    told = TraceRecord(id=f"tr-{TRACE}", experiment=0, state=OK, requested_us=START_US, tags={"k": "v"}, name="n")
    after = store.ledger.write(lambda connection: tell_trace_in(connection, told))
    assert (after.session, after.tags, after.name, after.first_us) == ("s", {"service.name": "x", "k": "v"}, "n", START_US)
    assert tokens_of(after.usage) == {"input_tokens": 1}


def test_tags_and_names(store: Store) -> None:
    identity = noted(store, seed()).id
    store.ledger.write(lambda connection: set_tags_in(connection, identity, {"a": "1", "b": "2\0"}))
    store.ledger.write(lambda connection: set_tags_in(connection, identity, {"a": None}))
    store.ledger.write(lambda connection: name_trace_in(connection, identity, "nu\0l"))
    record = get_trace(store, identity)
    assert (record.tags, record.name) == ({"b": "2"}, "nul")
    for work in (
        lambda connection: set_tags_in(connection, identity, {"a": None}),
        lambda connection: set_tags_in(connection, "tr-none", {"a": "1"}),
    ):
        with pytest.raises(NotFound):
            store.ledger.write(work)


def test_deleted_traces_are_gone_with_all_about_them(store: Store) -> None:
    ids = [f"tr-{n:032x}" for n in range(4)]
    noted(store, *[seed(id=one, first_us=START_US + n) for n, one in enumerate(ids)])

    def work(connection: object) -> int:
        link_in(connection, [ids[0]], ["run:1"])  # type: ignore[arg-type]
        return delete_traces_in(connection, 0, now_us=5, ids=[ids[0], "tr-none"])  # type: ignore[arg-type]

    assert store.ledger.write(work) == 1
    assert store.ledger.write(lambda connection: delete_traces_in(connection, 1, now_us=5, ids=ids)) == 0  # another experiment's
    assert store.ledger.write(lambda connection: delete_traces_in(connection, 0, now_us=5, until_us=START_US + 3, at_most=1)) == 1
    with store.ledger.read() as connection:
        assert list(traces_in(connection, ids)) == ids[2:]
        assert connection.exec_driver_sql("select count(*) from trace_links").scalar() == 0
    with pytest.raises(InvalidInput):
        store.ledger.write(lambda connection: delete_traces_in(connection, 0, now_us=5))


def test_an_assessment_overrides_another(store: Store) -> None:
    trace = noted(store, seed()).id
    first = Assessment(id="a-1", trace=trace, kind="feedback", name="good", value=True, source_type="HUMAN", created_us=1, changed_us=1)
    second = Assessment(
        id="a-2",
        trace=trace,
        kind="feedback",
        name="good",
        value={"x": [1]},
        source_type="CODE",
        overrides="a-1",
        created_us=2,
        changed_us=2,
    )
    for item in (first, second):
        store.ledger.write(lambda connection, item=item: assessments.put_in(connection, item))
    with store.ledger.read() as connection:
        assert [(item.value, item.valid) for item in assessments.of_traces_in(connection, [trace])[trace]] == [
            (True, False),
            ({"x": [1]}, True),
        ]
    store.ledger.write(lambda connection: assessments.delete_in(connection, trace, "a-2"))
    store.ledger.write(lambda connection: assessments.delete_in(connection, trace, "a-2"))  # as often as you like
    with store.ledger.read() as connection:
        assert assessments.get_in(connection, trace, "a-1").valid
        with pytest.raises(NotFound, match="Assessment"):
            assessments.get_in(connection, trace, "a-2")
        with pytest.raises(NotFound, match="Trace"):
            assessments.get_in(connection, "tr-none", "a-2")


@pytest.mark.parametrize("kept_in", ["store", "disk_store"])
def test_spans_of_deleted_traces_are_hidden_and_then_removed(kept_in: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(kept_in)
    other = "e" * 32
    now_us = store.clock.now_us()
    append_spans(store.tables, [row(1, model="m"), row(2, trace=other, model="m")], arrival_us=now_us)
    noted(store, seed(last_us=START_US + 2_000_000), seed(id=f"tr-{other}", last_us=START_US + 2_000_000))
    store.ledger.write(lambda connection: delete_traces_in(connection, 0, now_us=now_us, ids=[f"tr-{TRACE}"]))
    assert traces_with(store, [0], [("name", "LIKE", "%")]) == [other]
    assert tokens_by_model(store).to_pylist()[0]["calls"] == 1
    append_spans(store.tables, [row(3)], arrival_us=now_us + 5)  # a span that comes after the deletion is a new trace's
    again = noted(store, seed(first_us=START_US, last_us=START_US + 3_000_000))
    assert [span["name"] for span in spans_of(store, [again])[again.id]] == ["span 3"]
    assert reap_spans(store) == 0  # not yet: some may be unsealed
    later = "d" * 32  # deleted after the first trace began anew: takes nothing of that with it
    append_spans(store.tables, [row(4, trace=later)], arrival_us=now_us + 6)
    noted(store, seed(id=f"tr-{later}", last_us=START_US + 4_000_000))
    store.ledger.write(lambda connection: delete_traces_in(connection, 0, now_us=now_us + 9, ids=[f"tr-{later}"]))
    store.tables.seal()
    assert reap_spans(store, older_than_us=-1_000) == 2
    assert sorted(store.tables.scan("spans").column("name").to_pylist()) == ["span 2", "span 3"]
    assert reap_spans(store, older_than_us=-1_000) == 0
    with store.ledger.read() as connection:
        assert hidden_in(connection) == {}


def test_a_time_without_spans_has_no_answers_and_no_errors(disk_store: Store) -> None:
    append_spans(disk_store.tables, [row(1, model="m")], arrival_us=1)
    disk_store.tables.seal()
    past = {"start_us": 0, "end_us": 1}
    assert tokens_by_model(disk_store, **past).num_rows == 0
    assert traces_with(disk_store, [0], [("name", "=", "span 1")], since_us=2 * START_US) == []
    assert spans_of(disk_store, [TraceRecord(id=f"tr-{TRACE}", experiment=0, requested_us=0, first_us=0, last_us=1)]) == {}
    with pytest.raises(InvalidInput):
        disk_store.tables.query('select nothing from "spans"')
