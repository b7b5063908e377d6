"""What only SQLite does: files, logs and locks."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select

from andon.core.errors import CorruptBytes, DiskFull, InvalidSettings, ReadOnly, Unavailable
from andon.store.ledger import sqlite_writing
from andon.store.ledger.sqlite import SqliteLedger
from andon.store.ledger.sqlite_driver import in_our_words
from andon.store.schema import tags


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[SqliteLedger]:
    opened = SqliteLedger(path)
    yield opened
    opened.close()


def put(key: str) -> Any:
    return lambda c: c.execute(insert(tags).values(subject="s", key=key, value="v"))


def count(ledger: SqliteLedger) -> int:
    with ledger.read() as connection:
        return connection.execute(select(func.count()).select_from(tags)).scalar_one()


def test_it_commits_to_the_disk_through_a_log(ledger: SqliteLedger) -> None:
    def asked(connection: Connection) -> list[Any]:
        return [connection.exec_driver_sql(f"pragma {name}").scalar() for name in ("journal_mode", "synchronous")]

    assert ledger.write(asked) == ["wal", 2]  # 2 is FULL: an fsync with every commit


@pytest.mark.parametrize("name", ["a b.db", "per%20cent.db", "what?.db", "ha#sh.db", "ünïcode.db"])
def test_a_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    SqliteLedger(tmp_path / "new" / "deeper" / name).close()
    assert [file.name for file in (tmp_path / "new" / "deeper").iterdir()] == [name]


def test_a_half_read_row_of_an_error_somebody_holds_does_not_lock_us_out(path: Path, ledger: SqliteLedger) -> None:
    other = SqliteLedger(path)
    for n in range(300):
        ledger.write(put(f"k{n}"))
    held = []

    def half_way(connection: Connection) -> None:
        for row in connection.execute(select(tags)):
            raise KeyError(row.key)

    with pytest.raises(KeyError) as caught:
        ledger.write(half_way)
    held.append(caught.value)
    with ledger.read() as connection:
        held.append(iter(connection.execute(select(tags))))
        next(held[-1])
    other.write(put("theirs"))
    ledger.write(put("ours"))  # an open cursor would have kept the old snapshot, and a write from it is refused for ever
    assert count(ledger) == 302
    other.close()


def test_two_ledgers_on_one_file_take_turns(path: Path, ledger: SqliteLedger) -> None:
    other = SqliteLedger(path)

    def run(which: SqliteLedger, name: str) -> None:
        for n in range(100):
            which.write(put(f"{name}{n}"))

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(run, which, f"{who}-") for who, which in enumerate([ledger, other, ledger, other])]:
            one.result(30)
    assert count(ledger) == 400
    other.close()


def test_a_lock_held_by_another_is_waited_for_and_then_named(path: Path, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    waiting = ledger.submit(put("a"))
    assert not waiting.done()
    other.execute("rollback")
    waiting.result(10)
    other.execute("begin immediate")
    monkeypatch.setattr(sqlite_writing, "BUSY_TIMEOUT_S", 0.05)
    started = threading.Event()
    first = ledger.submit(lambda c: started.set())
    rest = [ledger.submit(put(f"b{n}")) for n in range(20)]
    for future in [first, *rest]:
        with pytest.raises(Unavailable, match="locked for 30 s by another process"):
            future.result(10)
    other.close()
    ledger.write(put("c"))
    assert count(ledger) == 2


def test_a_slow_reader_does_not_make_the_log_grow_for_ever(path: Path, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writing, "WAL_LARGE_BYTES", 1 << 20)
    monkeypatch.setattr(sqlite_writing, "RESTART_EVERY_S", 0.0)
    monkeypatch.setattr(sqlite_writing, "RESTART_WAIT_MS", 5)
    log = path.with_name("ledger.db-wal")

    def bulk(n: int) -> Any:
        return lambda c: c.execute(insert(tags), [{"subject": f"s{n}", "key": f"k{i}", "value": "v" * 4000} for i in range(100)])

    with ledger.read() as connection:
        connection.execute(select(func.count()).select_from(tags)).scalar_one()  # takes its snapshot
        for n in range(10):
            ledger.write(bulk(n))
        assert log.stat().st_size > 3 << 20, "nothing may be overwritten that the reader still needs"
        assert connection.execute(select(func.count()).select_from(tags)).scalar_one() == 0
    ledger.write(put("after"))
    ledger.write(put("and then"))
    assert log.stat().st_size < 1 << 20
    assert count(ledger) == 1002


def test_a_file_that_is_replaced_under_us_is_noticed_before_anything_is_acknowledged(path: Path, ledger: SqliteLedger) -> None:
    ledger.write(put("a"))
    path.rename(path.with_name("moved"))
    with pytest.raises(CorruptBytes, match="removed or replaced while it was open"):
        ledger.write(put("b"))
    path.write_bytes(b"something else")
    with pytest.raises(CorruptBytes):
        ledger.write(put("b"))
    path.with_name("moved").replace(path)
    ledger.write(put("c"))
    assert count(ledger) == 2


def test_changes_tells_of_other_processes_and_after_a_lost_connection(path: Path, ledger: SqliteLedger) -> None:
    before = ledger.changes()
    assert ledger.changes() == before
    ledger._local.watch.close()
    with pytest.raises(Unavailable):
        ledger.changes()
    assert ledger.changes() != before, "a new connection counts anew, and must not seem to say that nothing happened"
    before = ledger.changes()
    other = SqliteLedger(path)
    other.write(put("theirs"))
    assert ledger.changes() != before
    other.close()


def test_threads_that_end_leave_no_open_file(ledger: SqliteLedger) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    ledger.changes()
    before = files()
    for _ in range(30):
        thread = threading.Thread(target=ledger.changes)
        thread.start()
        thread.join()
    assert files() <= before + 3


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\x00" + b"\xff" * 8000])
def test_garbage_is_called_so(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CorruptBytes, match="damaged") as caught:
        SqliteLedger(path)
    assert "backup" in str(caught.value)
    assert path.read_bytes() == content


def test_garbage_in_place_of_a_ledger_is_called_so(path: Path) -> None:
    first = SqliteLedger(path)
    first.write(put("a"))
    first.close()
    whole = path.read_bytes()
    path.write_bytes(os.urandom(len(whole)))
    with pytest.raises(CorruptBytes):
        SqliteLedger(path)
    path.write_bytes(whole)
    again = SqliteLedger(path)
    assert count(again) == 1
    again.close()


def _deny(monkeypatch: pytest.MonkeyPatch, *denied: Path) -> None:
    """As root every file is writable, so say what another user would be told."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in denied and real(path, mode))


@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("log", [False, True])
def test_a_ledger_that_cannot_be_written_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch, what: str, log: bool) -> None:
    writer = SqliteLedger(path)
    writer.write(put("a"))
    if not log:
        writer.close()
    _deny(monkeypatch, path if what == "file" else path.parent)
    reader = SqliteLedger(path)
    assert count(reader) == 1
    for use in (reader.write, reader.submit):
        with pytest.raises(ReadOnly, match="--home"):
            use(put("b"))
    if log:
        seen = reader.changes()
        writer.write(put("c"))
        assert reader.changes() != seen
        assert count(reader) == 2
    reader.close()
    writer.close()


def test_where_nothing_can_be_made_it_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _deny(monkeypatch, path.parent)
    with pytest.raises(ReadOnly, match="none can be made") as caught:
        SqliteLedger(path)
    assert caught.value.next_step == "choose another folder with --home"


def test_an_older_ledger_that_cannot_be_written_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SqliteLedger(path)
    first.close()
    raw = sqlite3.connect(path)
    raw.execute("update alembic_version set version_num = '0000'")
    raw.commit()
    raw.close()
    _deny(monkeypatch, path)
    with pytest.raises(InvalidSettings, match="cannot be brought up to date while it is read-only"):
        SqliteLedger(path)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(Unavailable, match="cannot be made"):
        SqliteLedger(tmp_path / "home" / "ledger.db")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (13, DiskFull),
        (8, ReadOnly),
        (3, ReadOnly),
        (11, CorruptBytes),
        (26, CorruptBytes),
        (5, Unavailable),
        (10, Unavailable),
        (14, Unavailable),
    ],
)
def test_errors_are_told_apart_by_their_codes(tmp_path: Path, code: int, kind: type[Exception]) -> None:
    error = sqlite3.OperationalError("words that change with versions")
    error.sqlite_errorcode = code | (3 << 8)
    assert type(in_our_words(error, tmp_path / "x")) is kind


def test_a_full_disk_undoes_the_transaction_and_each_piece_stands_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite ends the whole transaction by itself when it cannot grow the file; nobody may be told that all went well."""
    SqliteLedger(path).close()
    most, real = path.stat().st_size // 4096 + 3, sqlite_writing.SqliteSide._open

    def limited(side: sqlite_writing.SqliteSide, mode: str = "rw") -> Any:
        raw = real(side, mode)
        raw.ask(f"pragma max_page_count = {most}")
        return raw

    monkeypatch.setattr(sqlite_writing.SqliteSide, "_open", limited)
    ledger = SqliteLedger(path)

    def big(connection: Connection) -> None:
        connection.execute(insert(tags), [{"subject": "big", "key": f"k{i}", "value": "v" * 4000} for i in range(200)])

    def swallows(connection: Connection) -> str:
        put("swallowed")(connection)
        try:
            big(connection)
        except Exception:
            put("after")(connection)
        return "all is well"

    for bad in (big, swallows):
        gate, started = threading.Event(), threading.Event()
        held = ledger.submit(lambda c, started=started, gate=gate: (started.set(), gate.wait(10)))
        started.wait(10)
        futures = [ledger.submit(work) for work in (put(f"a{bad.__name__}"), bad, put(f"b{bad.__name__}"))]
        gate.set()
        held.result(10)
        assert futures[0].exception(10) is None
        assert futures[2].exception(10) is None
        with pytest.raises(Unavailable, match=r"no space left|was undone by an earlier error"):
            futures[1].result(10)
        with pytest.raises(Unavailable, match=r"no space left|was undone by an earlier error"):
            ledger.write(bad)
    assert count(ledger) == 4
    most = 1_000_000
    ledger.close()
    ledger = SqliteLedger(path)
    ledger.write(big)
    assert count(ledger) == 204
    ledger.close()
