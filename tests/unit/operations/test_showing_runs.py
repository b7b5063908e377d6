"""The read models of runs: columns, spreads, logs in parts, series that are followed, and queries that never read every run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, select

from andon.core.clocks import ManualClock
from andon.core.errors import InvalidInput, NotFound
from andon.operations import showing
from andon.operations.showing.comparing import aim_of
from andon.operations.showing.finding import _kept, read_column
from andon.operations.showing.logs import _whole
from andon.operations.showing.run_records import Spread
from andon.store import Store, open_store
from andon.store import schema as s
from andon.tracking import create_run, log_batch
from tests.browser.sweep import EXPERIMENT, sweep
from tests.conftest import ANA


@pytest.fixture(params=["sqlite", "postgres"])
def engine_store(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> Iterator[Store]:
    """A store over each engine of the ledger."""
    ledger = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    with open_store(tmp_path / ".andon", clock=clock, ledger=ledger) as opened:
        yield opened


@pytest.mark.parametrize(
    ("key", "aim"),
    [
        ("mae", "low"),
        ("val/mae", "low"),
        ("train_loss", "low"),
        ("latency_ms", "low"),
        ("accuracy", "high"),
        ("test_f1_score", "high"),
        ("roc_auc", "high"),
        ("r2", "high"),
        ("learning_rate", None),
        ("epoch", None),
        ("mapped", None),
    ],
)
def test_a_metrics_name_tells_which_is_better(key: str, aim: str | None) -> None:
    assert aim_of(key) == aim


def test_columns_are_named_by_kind_and_key() -> None:
    assert read_column("metrics.val/mae.x").key == "val/mae.x"
    for wrong in ("mae", "metrics.", "colour.red", "attributes.facts", ""):
        with pytest.raises(InvalidInput) as error:
            read_column(wrong)
        assert error.value.fields["field"] == "column"


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"abc", b"abc"),
        ("ü".encode()[:1], b""),
        (b"a" + "😀".encode()[:3], b"a"),
        ("a😀".encode(), "a😀".encode()),
        (b"a\x1b[3", b"a"),
        (b"a\x1b[31m", b"a\x1b[31m"),
        (b"\x80\x80\x80\x80\x80", b"\x80\x80\x80\x80\x80"),
        (b"", b""),
    ],
)
def test_a_part_of_a_log_ends_between_characters(data: bytes, whole: bytes) -> None:
    assert _whole(data) == whole


def test_a_series_is_followed_from_a_step_on(store: Store) -> None:
    run = create_run(store, experiment="e", actor=ANA).id
    log_batch(store, run, metrics=[("loss", float(n), n, 10 + n) for n in range(10)], actor=ANA)
    whole = showing.series_points(store, f"run:{run}", "loss")
    more = showing.series_points(store, f"run:{run}", "loss", after_step=7)
    assert whole.steps == tuple(range(10))
    assert more.steps == (7, 8, 9), "that step too: another point of it may have come"
    assert more.total == 3
    with pytest.raises(NotFound):
        showing.series_points(store, f"run:{run}", "acc")


def test_a_table_without_runs_and_one_with_odd_values(store: Store) -> None:
    assert showing.runs_table(store).rows == ()
    run = create_run(store, experiment="e", actor=ANA, params={"depth": 1}).id
    now = store.clock.now_us()
    log_batch(
        store, run, metrics=[("a", math.nan, 0, now), ("b", math.inf, 0, now), ("c", -math.inf, 0, now), ("d", 1.5, 0, now)], actor=ANA
    )
    columns = ["metrics.a", "metrics.b", "metrics.c", "metrics.d", "params.depth", "params.none"]
    assert showing.runs_table(store, columns=columns).rows[0].cells == ("NaN", "∞", "-∞", 1.5, "1", None)
    (group,) = showing.runs_table(store, columns=columns, group="params.depth").groups
    assert group.cells == (None, None, None, Spread(1.5, 1.5, 1.5, 1), "1", None)
    with pytest.raises(NotFound):
        showing.runs_table(store, experiment="nobody")


def test_a_group_whose_value_no_filter_can_say_has_none(store: Store) -> None:
    create_run(store, experiment="e", actor=ANA, params={"quote": 'it\'s "both"'})
    (group,) = showing.runs_table(store, group="params.quote").groups
    assert group.filter == ""


def test_cells_are_looked_up_by_run_not_by_key(store: Store) -> None:
    """On SQLite, the index of metrics by key would make a page read every run that has the metric."""

    def plan(connection: Connection) -> str:
        m = s.series.c
        query = select(m.run, m.key, m.value, m.special).where(m.run.in_(["a", "b"]), _kept(m.key).in_(["mae", "loss"]))
        text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
        return " ".join(str(row) for row in connection.exec_driver_sql(f"explain query plan {text}"))

    with store.ledger.read() as connection:
        if connection.dialect.name != "sqlite":
            pytest.skip("Postgres has statistics, and needs no telling")
        said = plan(connection)
    assert "series_by_value" not in said
    assert "run=?" in said


def test_what_a_page_costs_does_not_grow_with_the_ledger(store: Store) -> None:
    """The number of statements of a page is the same for 10 runs as for 400."""

    def statements(count: int) -> int:
        for n in range(count):
            create_run(store, experiment="e", name=f"{count}-{n}", actor=ANA, params={"n": n})
        seen: list[Any] = []
        with store.ledger.read() as connection:
            engine = connection.engine

        def note(*given: Any) -> None:
            seen.append(given[2])

        event.listen(engine, "before_cursor_execute", note)
        try:
            table = showing.runs_table(store, experiment="e", columns=["params.n"])
        finally:
            event.remove(engine, "before_cursor_execute", note)
        assert len(table.rows) == min(50, count if count == 10 else 50)
        return len(seen)

    few = statements(10)
    assert statements(390) <= few + 2


def test_a_sweep_reads_alike_on_both_engines(engine_store: Store) -> None:
    store, ids = engine_store, sweep(engine_store)
    table = showing.runs_table(
        store, experiment=EXPERIMENT, group="params.depth", columns=["metrics.mae", "tags.team", "attributes.user_id"]
    )
    counted = {group.value: (group.count, group.cells[0] and group.cells[0].n) for group in table.groups}
    assert counted == {"4": (4, 4), "6": (4, 4), "8": (4, 4), None: (1, None)}
    assert table.groups[-1].value is None, "those without the value come last"
    assert table.groups[0].cells[1:] == (None, "person:ana")
    for group in table.groups:
        assert len(showing.runs_table(store, experiment=EXPERIMENT, filter=group.filter).rows) == group.count
    assert {column.name for column in table.offered} >= {"metrics.val/mae", "params.seed", "tags.team", "attributes.duration"}
    assert {row.name: row.runs for row in showing.experiment_rows(store).rows} == {EXPERIMENT: 13, "over the wire": 1}
    assert showing.runs_count(store, filter="metrics.mae > 0").count == 12
    seen, token = list[str](), None
    while True:
        page = showing.runs_table(store, order_by=["metrics.mae DESC"], page_token=token, limit=5)
        seen += [row.run.id for row in page.rows]
        token = page.next_page_token
        if token is None:
            break
    assert sorted(seen) == sorted(ids.values())
    view = showing.run_view(store, f"run:{ids['depth-6/seed-1']}")
    assert view.releases == ("release:rides@1",)
    assert [one.source for one in view.described] == ["s3://rides/2011/hour.parquet"]
    assert [(one.name, one.role) for one in view.models] == [("regressor", "output")]
    compared = showing.compare_view(store, [ids["depth-4/seed-0"], ids["wire"]])
    assert compared.uncaptured == ("placid-hare-17",)
    assert compared.packages == (), "what is not known does not differ"
    assert showing.preview(store, f"run:{ids['depth-6/seed-1']}", "eval/rides.parquet").columns == ("hour", "predicted", "weather")
