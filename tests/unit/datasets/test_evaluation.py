"""Evaluation datasets on both engines: their records merge by inputs, their digest follows every change, and they can be searched."""

from __future__ import annotations

import math
import threading

import pytest

from andon.core.actors import Actor
from andon.core.errors import InvalidInput, NotFound
from andon.datasets import evaluation_records
from andon.datasets.evaluation import (
    create_evaluation_dataset,
    delete_evaluation_dataset,
    experiments_of_dataset,
    get_evaluation_dataset,
    link_experiments,
    remove_evaluation_tag,
    set_evaluation_tags,
)
from andon.datasets.evaluation_records import NewRecord, RecordSource, delete_records, records_of, upsert_records
from andon.datasets.evaluation_search import search_evaluation_datasets
from andon.store import open_store
from andon.tracking import create_experiment

ANA = Actor("person", "ana")


@pytest.fixture(params=["sqlite", "postgres"])
def engine_store(request, clock, tmp_path):
    ledger = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    with open_store(tmp_path / ".andon", clock=clock, ledger=ledger) as opened:
        yield opened


def _search(store, text=None, order_by=None, **more):
    with store.ledger.read() as connection:
        return search_evaluation_datasets(connection, text, order_by, **more)


def test_a_life(engine_store, clock):
    store = engine_store
    number = create_experiment(store, "bikes", actor=ANA).id
    made = create_evaluation_dataset(store, "qa", experiments=[number, number], tags={"t": "1"}, by="bob", actor=ANA)
    assert made == get_evaluation_dataset(store, made.id)
    assert (made.id[:2], len(made.id), made.records, made.fields, made.created_by) == ("d-", 34, 0, None, "bob")
    assert experiments_of_dataset(store, made.id) == [number]
    clock.advance(1_000)
    assert upsert_records(store, made.id, [NewRecord(inputs={"q": 1}, by="eve")], actor=ANA) == (1, 0)
    changed = get_evaluation_dataset(store, made.id)
    assert (changed.records, changed.changed_us - changed.created_us, changed.changed_by) == (1, 1_000, "eve")
    assert changed.digest != made.digest
    assert delete_evaluation_dataset(store, made.id, actor=ANA)
    assert not delete_evaluation_dataset(store, made.id, actor=ANA)
    assert (records_of(store, made.id, limit=9), experiments_of_dataset(store, made.id)) == ([], [])
    with pytest.raises(NotFound):
        get_evaluation_dataset(store, made.id)
    with store.ledger.read() as connection:
        for table in ("evaluation_datasets", "evaluation_records", "evaluation_experiments", "tags"):
            assert connection.exec_driver_sql(f"select count(*) from {table}").scalar() == 0


def test_the_same_inputs_are_the_same_record(engine_store, clock):
    store = engine_store
    dataset = create_evaluation_dataset(store, "qa", actor=ANA).id
    source = RecordSource(type="HUMAN", data={"source_id": "7"})
    first = [
        NewRecord(inputs={"q": "a", "k": 1}, outputs="x", expectations={"e": 1}, tags={"t": "1"}, source=source, by="bob"),
        NewRecord(inputs={"q": "b"}),
        NewRecord(inputs={"q": "b"}, outputs=[1]),
    ]
    assert upsert_records(store, dataset, first, actor=ANA) == (2, 1)
    clock.advance(5_000)
    again = [
        NewRecord(inputs={"k": 1, "q": "a"}, expectations={"f": 2}, tags={"t": "2", "u": "3"}, by="eve"),
        NewRecord(inputs={"q": "b"}, outputs=None),
        NewRecord(inputs={"q": "c"}, outputs={}),
    ]
    assert upsert_records(store, dataset, again, actor=ANA) == (1, 2)
    one, two, three = records_of(store, dataset, limit=10)
    assert (one.inputs, one.outputs, one.expectations, one.tags) == ({"q": "a", "k": 1}, "x", {"e": 1, "f": 2}, {"t": "2", "u": "3"})
    assert (one.source, one.created_by, one.changed_by, one.changed_us - one.created_us) == (source, "bob", "eve", 5_000)
    assert upsert_records(store, dataset, [NewRecord(inputs={"q": "a", "k": 1})], actor=ANA) == (0, 1)
    assert records_of(store, dataset, limit=1)[0].changed_by == "eve"
    assert (two.inputs, two.outputs, two.expectations, two.source) == ({"q": "b"}, None, None, None)
    assert (three.inputs, three.outputs) == ({"q": "c"}, {})
    assert get_evaluation_dataset(store, dataset).records == 3


def test_what_records_hold_is_told_by_the_first_that_has_it(store):
    dataset = create_evaluation_dataset(store, "qa", actor=ANA).id
    values = {"t": "x", "i": 1, "f": 0.5, "b": True, "l": [], "o": {}, "n": None}
    upsert_records(store, dataset, [NewRecord(inputs=values, expectations={"e": 1})], actor=ANA)
    upsert_records(store, dataset, [NewRecord(inputs={"t": 1}, outputs="text", expectations={"e": "1", "g": 1.5})], actor=ANA)
    upsert_records(store, dataset, [NewRecord(inputs={"t": 2}, outputs={"r": 1})], actor=ANA)
    assert get_evaluation_dataset(store, dataset).fields == {
        "inputs": {"t": "string", "i": "integer", "f": "float", "b": "boolean", "l": "array", "o": "object", "n": "null"},
        "outputs": "string",
        "expectations": {"e": "integer", "g": "float"},
        "version": "1.0",
    }


def test_numbers_that_json_has_no_word_for_are_kept(store):
    dataset = create_evaluation_dataset(store, "qa", actor=ANA).id
    for _ in range(2):
        upsert_records(store, dataset, [NewRecord(inputs={"x": math.inf}, outputs=math.nan)], actor=ANA)
    (record,) = records_of(store, dataset, limit=10)
    assert record.inputs == {"x": math.inf}
    assert math.isnan(record.outputs)


def test_records_come_in_pages_in_order_of_creation(engine_store):
    store = engine_store
    dataset, other = (create_evaluation_dataset(store, "qa", actor=ANA).id for _ in range(2))
    for which in (dataset, other):
        upsert_records(store, which, [NewRecord(inputs={"n": n}) for n in range(25)], actor=ANA)
    seen, after = [], ""
    while page := records_of(store, dataset, limit=10, after=after):
        seen += [record.inputs["n"] for record in page]
        after = page[-1].id
    assert seen == list(range(25))


def test_deleting_records(engine_store, clock):
    store = engine_store
    dataset, other = (create_evaluation_dataset(store, "qa", actor=ANA).id for _ in range(2))
    for which in (dataset, other):
        upsert_records(store, which, [NewRecord(inputs={"n": n}) for n in range(3)], actor=ANA)
    before = get_evaluation_dataset(store, dataset)
    mine, theirs = records_of(store, dataset, limit=9), records_of(store, other, limit=9)
    clock.advance(1_000)
    assert delete_records(store, dataset, [mine[0].id, mine[2].id, theirs[0].id, "dr-0"], actor=ANA) == 2
    assert delete_records(store, dataset, [mine[0].id], actor=ANA) == 0
    assert delete_records(store, "d-0", [theirs[0].id], actor=ANA) == 0
    assert records_of(store, dataset, limit=9) == [mine[1]]
    assert records_of(store, other, limit=9) == theirs
    after = get_evaluation_dataset(store, dataset)
    assert (after.records, after.digest != before.digest) == (1, True)


def test_all_of_a_batch_or_none(store, monkeypatch):
    dataset = create_evaluation_dataset(store, "qa", actor=ANA).id
    monkeypatch.setattr(evaluation_records, "MAX_RECORD_BYTES", 200)
    with pytest.raises(InvalidInput):
        upsert_records(store, dataset, [NewRecord(inputs={"n": 1}), NewRecord(inputs={"n": "x" * 200})], actor=ANA)
    assert records_of(store, dataset, limit=9) == []
    assert get_evaluation_dataset(store, dataset).records == 0
    with pytest.raises(NotFound):
        upsert_records(store, "d-0", [NewRecord(inputs={"n": 1})], actor=ANA)


def test_writers_at_once_lose_nothing_and_write_nothing_twice(engine_store):
    store = engine_store
    dataset = create_evaluation_dataset(store, "qa", actor=ANA).id
    counts: list[tuple[int, int]] = []

    def write(shift: int) -> None:
        for n in range(10):
            counts.append(upsert_records(store, dataset, [NewRecord(inputs={"n": (n + shift) % 12})], actor=ANA))

    threads = [threading.Thread(target=write, args=(shift,)) for shift in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records_of(store, dataset, limit=99)) == get_evaluation_dataset(store, dataset).records == 12
    assert (sum(added for added, _ in counts), sum(merged for _, merged in counts)) == (12, 28)


def test_tags(store):
    dataset = create_evaluation_dataset(store, "qa", tags={"a": "1"}, actor=ANA).id
    set_evaluation_tags(store, dataset, {"a": "2", "b": "3"}, actor=ANA)
    assert remove_evaluation_tag(store, dataset, "b", actor=ANA)
    assert not remove_evaluation_tag(store, dataset, "b", actor=ANA)
    assert get_evaluation_dataset(store, dataset).tags == {"a": "2"}
    with pytest.raises(NotFound):
        set_evaluation_tags(store, "d-0", {"a": "1"}, actor=ANA)


def test_experiments(store, clock):
    one, two = (create_experiment(store, name, actor=ANA).id for name in ("one", "two"))
    dataset = create_evaluation_dataset(store, "qa", experiments=[one], actor=ANA)
    clock.advance(1_000)
    assert link_experiments(store, dataset.id, [one], linked=True, actor=ANA) == dataset
    assert link_experiments(store, dataset.id, [two, one], linked=True, actor=ANA).changed_us == clock.now_us()
    assert experiments_of_dataset(store, dataset.id) == [one, two]
    link_experiments(store, dataset.id, [one, 999], linked=False, actor=ANA)
    assert experiments_of_dataset(store, dataset.id) == [two]
    for verb in (
        lambda: link_experiments(store, dataset.id, [one, 999], linked=True, actor=ANA),
        lambda: link_experiments(store, "d-0", [one], linked=True, actor=ANA),
        lambda: create_evaluation_dataset(store, "qa", experiments=[999], actor=ANA),
    ):
        with pytest.raises(NotFound):
            verb()
    assert experiments_of_dataset(store, dataset.id) == [two]
    assert len(_search(store).ids) == 1


@pytest.mark.parametrize(("field", "given"), [("name", {"name": ""}), ("name", {"name": "\x00"}), ("created_by", {"by": "x" * 1_001})])
def test_what_cannot_be_kept(store, field, given):
    with pytest.raises(InvalidInput) as caught:
        create_evaluation_dataset(store, **({"name": "qa", "actor": ANA} | given))
    assert caught.value.fields["field"] == field


@pytest.fixture
def three(engine_store, clock):
    """A store and three datasets, a second apart, by name."""
    store = engine_store
    number = create_experiment(store, "bikes", actor=ANA).id
    made = {}
    for name, experiments, tags, by in (("qa", [number], {"t": "1"}, "bob"), ("qb", [0, number], {"t": "2"}, None), ("Zed", [], {}, "eve")):
        made[name] = create_evaluation_dataset(store, name, experiments=experiments, tags=tags, by=by, actor=ANA)
        clock.advance(1_000_000)
    return store, made, number


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, ["Zed", "qb", "qa"]),
        ("name = 'qa'", ["qa"]),
        ("name != 'qa'", ["Zed", "qb"]),
        ("name LIKE 'q%'", ["qb", "qa"]),
        ("name ILIKE 'z%'", ["Zed"]),
        ("name IN ('qa', 'Zed')", ["Zed", "qa"]),
        ("created_by = 'bob'", ["qa"]),
        ("last_updated_by != 'bob'", ["Zed"]),
        ("tags.t = '1'", ["qa"]),
        ("tags.t LIKE '%'", ["qb", "qa"]),
        ("tags.none = '1'", []),
        ("created_time >= 1312156801000", ["Zed", "qb"]),
        ("name LIKE 'q%' AND tags.t = '2' AND last_update_time > 0", ["qb"]),
    ],
)
def test_searching(three, text, found):
    store, made, _ = three
    names = {item.id: name for name, item in made.items()}
    assert [names[one] for one in _search(store, text).ids] == found


def test_searching_by_experiment_in_order_and_in_pages(three):
    store, made, number = three
    names = {item.id: name for name, item in made.items()}
    assert [names[one] for one in _search(store, experiments=[number]).ids] == ["qb", "qa"]
    assert [names[one] for one in _search(store, experiments=[0, number], order_by=["name ASC"]).ids] == ["qa", "qb"]
    assert _search(store, experiments=[999]).ids == []
    seen, token = [], None
    while True:
        page = _search(store, order_by=["name"], max_results=1, page_token=token)
        seen += [names[one] for one in page.ids]
        token = page.next_page_token
        if token is None:
            break
    assert seen == ["Zed", "qa", "qb"]


@pytest.mark.parametrize(
    "given",
    [
        {"text": "foo = 'x'"},
        {"text": "name > 'x'"},
        {"text": "name NOT IN ('x')"},
        {"text": "created_time = 'x'"},
        {"text": "created_time > 1.5"},
        {"text": "metrics.a > 1"},
        {"text": "name = 'a' OR name = 'b'"},
        {"text": "tags.a IS NULL"},
        {"order_by": ["created_by"]},
        {"order_by": ["tags.a"]},
        {"max_results": 0},
        {"max_results": 50_001},
        {"page_token": "junk"},
    ],
)
def test_searches_that_mean_nothing(store, given):
    with pytest.raises(InvalidInput):
        _search(store, **given)
