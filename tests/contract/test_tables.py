"""The same promises from every engine of the tables."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from andon.core import faults
from andon.core.clocks import HOUR_US, ManualClock
from andon.core.errors import CorruptBytes, DiskFull, Gone, InvalidInput, InvalidSettings, NotFound, Unavailable
from andon.core.ids import Ids
from andon.core.settings import Settings
from andon.store.ledger import open_ledger
from andon.store.ports import Ledger, Tables
from andon.store.tables import open_tables
from andon.store.tables.check import check_tables
from andon.store.tables.compact import plan
from andon.store.tables.files import FileTables
from andon.store.tables.inbox import segments
from andon.store.tables.parts import Part

UTC = pa.timestamp("us", "UTC")
Make = Callable[[], FileTables]


def batch(times: list[int], **columns: Any) -> pa.RecordBatch:
    """Rows with these event times, arriving one microsecond later."""
    arrival = [time_us + 1 for time_us in times]
    return pa.record_batch({"event_time": pa.array(times, UTC), "arrival_time": pa.array(arrival, UTC), **columns})


def rows_of(tables: Tables, table: str, column: str, **window: Any) -> list[Any]:
    scanned = tables.scan(table, **window)
    return scanned.column(column).to_pylist() if column in scanned.column_names else []


@pytest.fixture(params=["sqlite", "memory ledger", "memory", "postgres"])
def tables(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Tables]:
    url = {"sqlite": "sqlite:///ledger.db", "postgres": "postgres"}.get(request.param, "memory:")
    url = request.getfixturevalue("postgres_url") if url == "postgres" else url
    ledger = open_ledger(Settings(home=str(tmp_path), ledger=url))
    opened = open_tables(ledger, "memory:" if request.param == "memory" else "file://tables", "file://inbox", tmp_path, clock, Ids(clock))
    yield opened
    opened.close()
    ledger.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(Settings(home=str(tmp_path)))
    yield opened
    opened.close()


@pytest.fixture
def make(tmp_path: Path, clock: ManualClock, ledger: Ledger) -> Iterator[Make]:
    """Opens tables over the same folders, each as a process of its own would."""
    opened: list[FileTables] = []

    def more() -> FileTables:
        opened.append(FileTables(ledger, tmp_path / "tables", tmp_path / "inbox", clock, Ids()))
        return opened[-1]

    yield more
    for one in opened:
        one.close()


@pytest.fixture
def files(make: Make) -> FileTables:
    return make()


def test_rows_are_seen_once_before_and_after_sealing(tables: Tables) -> None:
    tables.append("predictions/bikes", batch([3, 1], x=[30.0, 10.0]))
    tables.append("predictions/bikes", batch([2], x=[20.0]), durable=False)
    assert rows_of(tables, "predictions/bikes", "x") == [10.0, 20.0, 30.0]
    assert tables.version() == 0
    assert tables.seal() == 3
    assert tables.version() == 1
    tables.append("predictions/bikes", batch([0], x=[0.0]))
    assert rows_of(tables, "predictions/bikes", "x") == [0.0, 10.0, 20.0, 30.0]
    assert tables.query('select count(*) as n, sum(x) as s from "predictions/bikes"').to_pylist() == [{"n": 4, "s": 60.0}]
    assert tables.names() == ["predictions/bikes"]
    assert tables.seal() == 1
    assert tables.seal() == 0
    assert tables.version() == 2


def test_an_unknown_table_is_empty(tables: Tables) -> None:
    found = tables.scan("nobody/knows")
    assert found.schema == pa.schema([("event_time", UTC), ("arrival_time", UTC)])
    assert found.num_rows == 0
    assert tables.names() == []
    tables.append("t", batch([]))
    assert tables.names() == []


def test_columns_are_united(tables: Tables) -> None:
    tables.append("t", batch([1], a=[1], s=["x"]))
    tables.append("t", batch([2], a=[1.5], b=[True]))
    for _ in range(2):
        assert rows_of(tables, "t", "a") == [1.0, 1.5]
        assert rows_of(tables, "t", "b") == [None, True]
        assert rows_of(tables, "t", "s") == ["x", None]
        tables.seal()
    tables.append("t", batch([3], a=pa.array([None], pa.null()), c=pa.array([[1, 2]])))
    assert rows_of(tables, "t", "a") == [1.0, 1.5, None]
    assert rows_of(tables, "t", "c") == [None, None, [1, 2]]


def test_text_and_numbers_in_one_column_meet_as_text(tables: Tables) -> None:
    tables.append("t", batch([1], a=[1]))
    tables.append("t", batch([2], a=["x"]))
    for _ in range(2):
        assert rows_of(tables, "t", "a") == ["1", "x"]
        assert tables.seal() in (2, 0)
    for _ in range(6):
        tables.append("t", batch([3], a=["y"]))
        tables.seal()
    tables.compact("t")
    assert rows_of(tables, "t", "a") == ["1", "x", *["y"] * 6]


@pytest.mark.parametrize(
    "value",
    [
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(["a", "b", None], pa.large_string()),
        pa.array(["a", None, ""], pa.string_view()),
        pa.array([b"a", b"", None]),
        pa.array([[1.5, 2.5]] * 3, pa.list_(pa.float32(), 2)),
        pa.array([[], None, [None]], pa.list_(pa.null())),
        pa.array([{"a": 1, "b": ["x"]}, None, {"a": None, "b": []}]),
        pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        pa.array([1, 2, None], pa.timestamp("s", "Europe/Berlin")),
        pa.array([1, 2, None], pa.timestamp("ms")),
        pa.array([1, 2, None], pa.date32()),
        pa.array([2**63, 0, None], pa.uint64()),
        pa.array([1.5, None, 2.5], pa.float16()),
        pa.array([True, None, False]),
        pa.array([None, 1, 2], pa.int8()),
        pa.array([float("nan"), float("inf"), None]),
    ],
    ids=lambda value: str(value.type),
)
def test_values_come_back_the_same_from_inbox_and_parts(tables: Tables, value: pa.Array) -> None:
    tables.append("t", batch([1, 2, 3], v=value))
    before = tables.scan("t").column("v")
    tables.seal()
    after = tables.scan("t").column("v")
    assert str(after.to_pylist()) == str(before.to_pylist()) == str(value.to_pylist()) or pa.types.is_timestamp(value.type)
    assert after.type.equals(before.type) or pa.types.is_nested(value.type)


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("Upper", batch([1])),
        ("../x", batch([1])),
        ("", batch([1])),
        ("t", pa.record_batch({"event_time": pa.array([1], UTC)})),
        ("t", pa.record_batch({"arrival_time": pa.array([1], UTC), "event_time": pa.array([1])})),
        ("t", pa.record_batch({"arrival_time": pa.array([1], UTC), "event_time": pa.array([1], pa.timestamp("ns", "UTC"))})),
        ("t", pa.record_batch({"arrival_time": pa.array([1], UTC), "event_time": pa.array([None], UTC)})),
        ("t", batch([1], d=pa.array([1], pa.duration("us")))),
        ("t", batch([1], x=[1], X=[2])),
        ("t", pa.table({"x": [1]})),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.schema).replace("\n", ", "),
)
def test_what_cannot_be_stored_is_refused_whole(tables: Tables, table: str, rows: Any) -> None:
    with pytest.raises(InvalidInput):
        tables.append(table, rows)
    assert tables.names() == []


def test_a_window_of_event_time(tables: Tables) -> None:
    for start in (0, 100, 200):
        tables.append("t", batch(list(range(start, start + 100)), x=list(range(start, start + 100))))
        tables.seal()
    tables.append("t", batch([150, 99999], x=[-1, -2]))
    assert sorted(rows_of(tables, "t", "x", start_us=149, end_us=151)) == [-1, 149, 150]
    assert rows_of(tables, "t", "x", start_us=300) == [-2]
    assert rows_of(tables, "t", "x", end_us=1) == [0]
    assert tables.query('select count(*) as n from "t"', start_us=250, end_us=10_000).to_pylist() == [{"n": 50}]


def test_time_travel(tables: Tables, clock: ManualClock) -> None:
    for n in range(5):
        tables.append("t", batch([n], x=[n]))
        tables.seal()
        clock.advance(HOUR_US)
    tables.append("t", batch([9], x=[9]))
    assert [len(rows_of(tables, "t", "x", as_of=version)) for version in range(6)] == [0, 1, 2, 3, 4, 5]
    assert tables.compact("t") >= 4
    assert tables.drop_before("t", 2) == 2
    assert rows_of(tables, "t", "x") == [2, 3, 4, 9]
    assert rows_of(tables, "t", "x", as_of=5) == [0, 1, 2, 3, 4]
    assert tables.purge(HOUR_US) == 0
    clock.advance(2 * HOUR_US)
    assert tables.purge(HOUR_US) >= 5
    assert rows_of(tables, "t", "x") == [2, 3, 4, 9]
    newest = tables.version()
    assert rows_of(tables, "t", "x", as_of=newest) == [2, 3, 4]
    with pytest.raises(Gone):
        tables.scan("t", as_of=5)
    for version in (newest + 1, -1):
        with pytest.raises(NotFound):
            tables.scan("t", as_of=version)


def test_retention_keeps_every_row_from_its_limit_on(tables: Tables) -> None:
    tables.append("t", batch(list(range(10)), x=list(range(10))))
    tables.append("other", batch([0], x=[0]))
    tables.seal()
    assert tables.drop_before("t", 0) == 0
    assert tables.drop_before("t", 4) == 4
    assert rows_of(tables, "t", "x") == [4, 5, 6, 7, 8, 9]
    assert tables.drop_before("t", 100) == 6
    assert rows_of(tables, "t", "x") == []
    assert tables.names() == ["other"]


REFUSED = [
    "selec 1",
    "",
    "select 1; select 2",
    "drop table t",
    "insert into t values (1)",
    "create table x (a int)",
    "copy (select 1) to '/tmp/andon-never'",
    "with a as (copy (select 1) to '/tmp/andon-never') select * from a",
    "with a as (insert into t select * from t returning *) select * from a",
    "attach '/tmp/andon-never.db'",
    "set threads = 1",
    "set enable_external_access = true",
    "pragma version",
    "call pragma_version()",
    "install httpfs",
    "load httpfs",
    "select * from read_csv('/etc/passwd')",
    "select * from read_text('/etc/passwd')",
    "select * from read_parquet('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from 'http://127.0.0.1:9/x.parquet'",
    "select * from glob('/*')",
    "select * from (select * from t union all select * from read_blob('/etc/passwd'))",
    "select (select count(*) from read_text('/etc/passwd'))",
    "select * from query('select 1')",
    "select * from duckdb_settings()",
    "select * from information_schema.tables",
    "select * from pragma_table_info('t')",
    "select current_setting('allowed_directories')",
    "select nope from t",
    "select cast('a' as integer)",
    "select * from t where x = ?",
    "select " + "1," * 100_000 + "1",
]


@pytest.mark.parametrize("sql", REFUSED, ids=lambda sql: sql[:40])
def test_a_query_only_reads_tables(tables: Tables, sql: str) -> None:
    tables.append("t", batch([1], x=[1]))
    with pytest.raises(InvalidInput) as caught:
        tables.query(sql)
    assert caught.value.message
    assert not Path("/tmp/andon-never").exists()
    assert tables.query('select x from "t"').to_pylist() == [{"x": 1}]


def test_what_duckdb_says_is_passed_on(tables: Tables) -> None:
    with pytest.raises(InvalidInput, match="syntax error"):
        tables.query("selec 1")
    tables.append("t", batch([1], x=[1]))
    with pytest.raises(InvalidInput, match="nope"):
        tables.query("select nope from t")


def test_queries_of_all_sorts(tables: Tables) -> None:
    tables.append("a/b", batch([1, 3_600_000_001], x=[1, 2]))
    tables.append("c", batch([5], y=["z"]))
    tables.seal()
    tables.append("c", batch([6], y=["w"]))
    q = 'with a as (select x from "a/b") select sum(x) as s, count(*) as n from a'
    assert tables.query(q).to_pylist() == [{"s": 3, "n": 2}]
    assert tables.query('select y from "a/b" join c on x = 1 order by y').to_pylist() == [{"y": "w"}, {"y": "z"}]
    assert tables.query("select * from range(3)").num_rows == 3
    assert tables.query("select y from c where y = $1 and event_time < make_timestamptz($2)", ["z", 6]).num_rows == 1
    assert (
        tables.query("with recursive r as (select 1 as n union all select n + 1 from r where n < 5) select max(n) as n from r")["n"][
            0
        ].as_py()
        == 5
    )
    hours = tables.query("select date_trunc('hour', event_time) as h, count(*) as n from \"a/b\" group by h order by h")
    assert hours.schema.field("h").type == UTC
    assert [hour.hour for hour in hours["h"].to_pylist()] == [0, 1]


def test_many_threads_append_and_query_at_once(tables: Tables) -> None:
    def work(thread: int) -> int:
        for n in range(8):
            tables.append(f"t{thread % 2}", batch([n], who=[thread], n=[n]), durable=n % 2 == 0)
            mine = tables.query(f'select count(*) as n from "t{thread % 2}" where who = {thread}')["n"][0].as_py()
            assert mine == n + 1
        return 8

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, thread) for thread in range(4)]
        while not all(future.done() for future in futures):
            tables.seal()
            tables.compact("t0")
        assert sum(future.result() for future in futures) == 32
    assert sum(tables.scan(name).num_rows for name in tables.names()) == 32


def test_closed_tables_take_nothing(tables: Tables) -> None:
    tables.close()
    with pytest.raises(Unavailable):
        tables.append("t", batch([1]))


# --- on disk only


def test_every_process_sees_every_row_once(make: Make) -> None:
    one, two = make(), make()
    one.append("t", batch([1], x=[1]))
    two.append("t", batch([2], x=[2]))
    for reader in (one, two):
        assert rows_of(reader, "t", "x") == [1, 2]
    assert one.seal() == 1  # its own; two still writes its segment
    two.append("t", batch([3], x=[3]))
    for reader in (one, two):
        assert rows_of(reader, "t", "x") == [1, 2, 3]
    two.close()
    assert one.seal() == 2
    assert rows_of(one, "t", "x") == [1, 2, 3]
    assert segments(one.inbox) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # 3.12 warns: the parent has threads, which is the point
def test_a_forked_child_writes_a_segment_of_its_own(files: FileTables) -> None:
    files.append("t", batch([1], x=[1]))
    child = os.fork()
    if child == 0:
        try:
            files.append("t", batch([2], x=[2]))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    files.append("t", batch([3], x=[3]))
    assert len({name.writer for name in segments(files.inbox)}) == 2
    assert rows_of(files, "t", "x") == [1, 2, 3]
    assert files.seal() == 3
    assert rows_of(files, "t", "x") == [1, 2, 3]


def test_two_sealers_at_once(make: Make) -> None:
    writers = [make() for _ in range(6)]
    for n, writer in enumerate(writers):
        writer.append("t", batch([n], x=[n]))
        writer.close()
    with ThreadPoolExecutor(3) as pool:
        sealed = list(pool.map(lambda sealer: sealer.seal(), [make() for _ in range(3)]))
    assert sum(sealed) == 6
    assert rows_of(make(), "t", "x") == list(range(6))


def test_sealers_whose_locks_fail_still_seal_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("andon.store.disk.try_lock", lambda fd: True)
    writer = make()
    for n in range(5):
        writer.append("t", batch([n], x=[n]))
    writer.close()
    sealers = [make() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda sealer: sealer.seal(), sealers))
    assert rows_of(make(), "t", "x") == list(range(5))


def _segment(tables: FileTables) -> Path:
    (name,) = segments(tables.inbox)
    return tables.inbox / name.file


@pytest.mark.parametrize("cut", [1, 10, 40, 200])
def test_a_torn_tail_is_dropped_to_the_last_whole_frame(make: Make, cut: int) -> None:
    files = make()
    for n in range(5):
        files.append("t", batch([n], x=[n]))
    files.close()
    path = _segment(files)
    os.truncate(path, path.stat().st_size - cut)
    reader = make()
    assert rows_of(reader, "t", "x") == [0, 1, 2, 3]
    assert reader.seal() == 4
    assert rows_of(reader, "t", "x") == [0, 1, 2, 3]


def test_damage_in_the_middle_is_reported_and_the_rest_saved(make: Make, ledger: Ledger) -> None:
    files = make()
    for n in range(5):
        files.append("t", batch([n], x=[n]))
    files.close()
    path = _segment(files)
    data = bytearray(path.read_bytes())
    at = [where for where in range(len(data)) if data.startswith(b"\xabFRM", where)][3]  # schema, 0, 1, and then this one
    data[at + 60] ^= 1
    path.write_bytes(data)
    reader = make()
    for _ in range(2):
        with pytest.raises(CorruptBytes) as caught:
            reader.scan("t")
        assert (caught.value.fields["path"], caught.value.fields["offset"]) == (str(path), at)
    assert [finding.kind for finding in check_tables(ledger, reader.root, reader.inbox)] == ["damaged"]
    with pytest.raises(CorruptBytes, match="damaged"):
        reader.seal()
    assert rows_of(reader, "t", "x") == [0, 1, 3, 4]
    assert [finding.kind for finding in check_tables(ledger, reader.root, reader.inbox)] == ["quarantined"]
    assert reader.seal() == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_part_is_named(files: FileTables, ledger: Ledger, make: Make, damage: str) -> None:
    files.append("t", batch(list(range(1000)), x=list(range(1000))))
    files.seal()
    (part,) = files.parts("t")
    path = files.root / part.path
    data = bytearray(path.read_bytes())
    path.chmod(0o644)
    if damage == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-100] if damage == "truncated" else data)
    for reader in (files, make()):
        with pytest.raises(CorruptBytes) as caught:
            reader.scan("t")
        assert caught.value.fields["part"] == part.path
    assert [finding.what for finding in check_tables(ledger, files.root, files.inbox) if finding.is_error] == [part.path]
    files.append("other", batch([1], x=[1]))
    assert rows_of(files, "other", "x") == [1]


def test_a_full_disk_acknowledges_nothing_and_hurts_nothing(files: FileTables, make: Make, ledger: Ledger) -> None:
    files.append("t", batch([0], x=[0]))
    for point in ("segment.write", "segment.written"):
        faults.arm(f"{point}=ENOSPC")
        with pytest.raises(DiskFull):
            files.append("t", batch([1], x=[1]))
    faults.arm("segment.made=ENOSPC")
    with pytest.raises(DiskFull):
        files.append("t", batch([1], x=[1]))
    faults.arm(None)
    files.append("t", batch([2], x=[2]))
    for point in ("part.begin", "part.written", "part.fsynced", "part.named", "part.kept"):
        faults.arm(f"{point}=ENOSPC")
        with pytest.raises(DiskFull):
            files.seal()
        assert list(files.root.rglob("*.parquet")) == list(files.root.rglob(".*.tmp")) == []
    faults.arm(None)
    assert rows_of(make(), "t", "x") == [0, 2]
    assert files.seal() == 2
    assert check_tables(ledger, files.root, files.inbox) == []


def test_a_failed_fsync_is_told_to_all_who_wait_and_to_no_one_else(files: FileTables) -> None:
    files.append("t", batch([0], x=[0]))
    faults.arm("segment.fsync=EIO")
    with pytest.raises(Unavailable):
        files.append("t", batch([1], x=[1]))
    files.append("t", batch([2], x=[2]))
    assert {0, 2} <= set(rows_of(files, "t", "x"))


def test_rows_nobody_waits_for_are_on_disk_soon(files: FileTables, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    real = os.fdatasync
    files.append("t", batch([0], x=[0]))
    monkeypatch.setattr(os, "fdatasync", lambda fd: (real(fd), synced.set()))
    began = time.monotonic()
    files.append("t", batch([1], x=[1]), durable=False)
    assert synced.wait(5)
    assert time.monotonic() - began < 5  # 50 ms on a machine of one's own; bench/tables.py measures it


def test_threads_share_an_fsync(files: FileTables, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = os.fdatasync

    def slow(fd: int) -> None:
        calls.append(fd)
        time.sleep(0.01)
        real(fd)

    files.append("t", batch([0], x=[0]))
    monkeypatch.setattr(os, "fdatasync", slow)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: files.append("t", batch([n], x=[n])), range(160)))
    assert len(calls) < 80
    assert files.scan("t").num_rows == 161


def test_threads_append_while_segments_roll_under_them(files: FileTables) -> None:
    files._writer._roll_bytes = 3_000

    def work(thread: int) -> None:
        for n in range(60):
            files.append("t", batch([n], who=[thread * 1000 + n]), durable=(n + thread) % 3 > 0)
            if n % 20 == 0:
                files.seal()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sorted(rows_of(files, "t", "who")) == [thread * 1000 + n for thread in range(8) for n in range(60)]
    assert check_tables(files._ledger, files.root, files.inbox) == []


def test_segments_roll_by_size(files: FileTables) -> None:
    files._writer._roll_bytes = 10_000
    for n in range(50):
        files.append("t", batch([n], x=["y" * 1000]), durable=False)
    assert len(segments(files.inbox)) > 3
    assert files.scan("t").num_rows == 50
    assert files.seal() == 50


def test_compaction_is_bounded_and_settles() -> None:
    def part(rows: int, at: int) -> Part:
        return Part(id=f"{at:05d}", table="t", path="", digest="", rows=rows, size_bytes=0, min_event_us=at, max_event_us=at)

    assert plan([]) == []
    assert plan([part(10, 0)] * 3) == []
    groups = plan([part(10, at) for at in range(1000)], part_rows=400)
    assert [len(group) for group in groups] == [40] * 25
    assert all(sum(one.rows for one in group) <= 400 for group in groups)
    mixed = plan([part(10, 0), part(5000, 1), part(11, 2), part(4900, 3), part(12, 4), part(13, 5), part(900_000, 6)])
    assert [[one.rows for one in group] for group in mixed] == [[10, 11, 12, 13]]
    written = 0  # each row is rewritten a few times at most, however it trickles in
    parts: list[Part] = []
    for at in range(2000):
        parts.append(part(100, at))
        for group in plan(parts):
            ids = {one.id for one in group}
            rows = sum(one.rows for one in group)
            written += rows
            parts = [one for one in parts if one.id not in ids] + [part(rows, group[0].min_event_us)]
    assert written / (2000 * 100) < 8
    assert len(parts) < 25


def test_readers_of_old_versions_go_on_while_parts_are_merged(files: FileTables) -> None:
    for n in range(8):
        files.append("t", batch([n], x=[n]))
        files.seal()
    before = files.version()
    assert files.compact("t") == 8
    assert len(files.parts("t")) == 1
    assert len(files.parts("t", as_of=before)) == 8
    assert rows_of(files, "t", "x", as_of=before) == rows_of(files, "t", "x") == list(range(8))


def test_gc_deletes_orphans_and_spares_what_is_being_written(files: FileTables, ledger: Ledger) -> None:
    files.append("t", batch([1], x=[1]))
    files.seal()
    (files.root / "t" / "01ORPHAN.parquet").write_bytes(b"half")
    (files.root / "t" / ".01HALF.tmp").write_bytes(b"half")
    (files.inbox / ".x.seg.tmp").write_bytes(b"")
    assert files.gc().files == 0  # all too young
    from andon.store.tables.parts import new_parts

    with new_parts(files.root, Ids()) as writer:
        (written,) = writer.write("t", pa.Table.from_batches([batch([2], x=[2])]))
        assert files.gc(older_than_us=0).files == 3
        assert (files.root / written.path).exists()
    assert not (files.root / written.path).exists()
    assert rows_of(files, "t", "x") == [1]
    assert check_tables(ledger, files.root, files.inbox) == []


def test_paths_with_odd_characters_work(tmp_path: Path, ledger: Ledger, clock: ManualClock) -> None:
    odd = tmp_path / "it's [a] *strange* ?place"
    opened = FileTables(ledger, odd / "tables", odd / "inbox", clock, Ids())
    opened.append("t", batch([1], x=[1]))
    opened.seal()
    assert rows_of(opened, "t", "x") == [1]
    opened.close()


def test_only_known_engines_are_opened(tmp_path: Path, clock: ManualClock, ledger: Ledger) -> None:
    with pytest.raises(InvalidSettings):
        open_tables(ledger, "s3://bucket", "file://inbox", tmp_path, clock, Ids(clock))
    with pytest.raises(InvalidSettings):
        open_tables(ledger, "file://tables", "memory:", tmp_path, clock, Ids(clock))
    assert not (tmp_path / "tables").exists()


def test_changes_tells_of_new_rows_and_of_nothing_else(tables: Any) -> None:
    before = tables.changes()
    assert tables.changes() == before
    tables.append("a", batch([1]))
    after = tables.changes()
    assert after != before
    tables.query('select count(*) from "a"')
    assert tables.changes() == after


ROWS = pa.schema(
    [
        ("event_time", UTC),
        ("arrival_time", UTC),
        ("name", pa.string()),
        ("x", pa.float64()),
        ("k", pa.int64()),
        ("ok", pa.bool_()),
        ("small", pa.float32()),
        ("vector", pa.list_(pa.float64())),
    ]
)


def test_rows_in_plain_values_are_seen_beside_batches(tables: Tables) -> None:
    tables.append("t", batch([1], name=pa.array(["batch"]), x=pa.array([0.5])))
    tables.append_rows("t", ROWS, [[2, 3], 9, ["é", None], [1.5, None], -(2**62), [True, None], 0.25, [[1.0, 2.0], None]], 2)
    tables.append_rows("t", ROWS, [[4], [9], ["last"], [float("nan")], [None], True, 1.0, [[]]], 1, durable=False)
    found = tables.scan("t")
    assert found.column("name").to_pylist() == ["batch", "é", None, "last"]
    assert found.column("x").to_pylist()[:3] == [0.5, 1.5, None]
    assert found.column("x").to_pylist()[3] != found.column("x").to_pylist()[3]
    assert found.column("k").to_pylist() == [None, -(2**62), -(2**62), None]
    assert found.column("ok").to_pylist() == [None, True, None, True]
    assert found.column("small").to_pylist() == [None, 0.25, 0.25, 1.0]
    assert found.column("vector").to_pylist() == [None, [1.0, 2.0], None, []]
    assert found.schema.field("vector").type == pa.list_(pa.float64())
    tables.seal()
    assert repr(tables.scan("t").to_pylist()) == repr(found.to_pylist())  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("schema", "columns", "field"),
    [
        (ROWS, [[1]] * 7, "columns"),
        (ROWS, [None, 1, "a", 1.0, 1, True, 1.0, None], "event_time"),
        (ROWS, [[1], [None], "a", 1.0, 1, True, 1.0, None], "arrival_time"),
        (pa.schema([("event_time", UTC), ("arrival_time", UTC), ("n", pa.null())]), [1, 1, None], "schema"),
        (pa.schema([("x", pa.float64())]), [1.0], "event_time"),
    ],
)
def test_rows_in_plain_values_that_cannot_be_stored(tables: Tables, schema: pa.Schema, columns: list[Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        tables.append_rows("t", schema, columns, 1)
    assert refused.value.fields["field"] == field
    assert tables.names() == []
