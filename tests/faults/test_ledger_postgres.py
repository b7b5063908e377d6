"""A Postgres that hangs up, is slow, or is not there: an error or another try, never a lie, and it works again afterwards."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, insert, select, text

from andon.core.errors import InvalidInput, InvalidSettings, OutcomeUnknown, ReadOnly, Unavailable
from andon.core.settings import Settings
from andon.store.ledger import open_ledger, postgres_writing
from andon.store.ledger.postgres import PostgresLedger
from andon.store.ledger.postgres_writing import WRITER_LOCK, PostgresSide
from andon.store.schema import tag_changes


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[PostgresLedger]:
    opened = PostgresLedger(postgres_url)
    yield opened
    opened.close()


Hang = Callable[[], int]


@pytest.fixture
def hang_up(postgres_url: str) -> Iterator[Hang]:
    """Ends every session of Andon's, as a restart of the server or a failing network would."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        sql = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'andon' and datname = current_database()"
        yield lambda: len(admin.execute(sql).fetchall())


def put(name: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        for key in "abc":
            connection.execute(insert(tag_changes).values(subject=name, key=key, value=None, at_us=1, actor="a", reason=""))
        return name

    return work


def there(ledger: PostgresLedger) -> set[str]:
    for attempt in range(3):
        try:
            with ledger.read() as connection:
                rows = Counter(connection.execute(select(tag_changes.c.subject)).scalars())
            break
        except Unavailable:
            if attempt == 2:
                raise
    assert set(rows.values()) <= {3}, "a piece is half there, or there twice"
    return set(rows)


def test_a_connection_lost_while_idle_costs_nobody_anything(ledger: PostgresLedger, hang_up: Hang) -> None:
    ledger.write(put("a"))
    assert there(ledger) == {"a"}
    assert hang_up() == 2
    assert ledger.write(put("b")) == "b"
    hang_up()
    assert there(ledger) == {"a", "b"}
    assert isinstance(ledger.changes(), int)


def test_a_connection_lost_inside_a_piece_is_tried_once_more(ledger: PostgresLedger, hang_up: Hang) -> None:
    runs = []

    def work(connection: Connection) -> str:
        runs.append(1)
        put("a")(connection)
        if len(runs) == 1:
            hang_up()
        return put("b")(connection)

    assert ledger.write(work) == "b"
    assert len(runs) == 2
    assert there(ledger) == {"a", "b"}

    def hopeless(connection: Connection) -> None:
        put("c")(connection)
        hang_up()
        put("d")(connection)

    with pytest.raises(Unavailable) as caught:
        ledger.write(hopeless)
    assert not isinstance(caught.value, OutcomeUnknown), "it is known that nothing happened"
    ledger.write(put("e"))
    assert there(ledger) == {"a", "b", "e"}


def test_one_piece_that_loses_the_connection_does_not_take_its_group_along(ledger: PostgresLedger, hang_up: Hang) -> None:
    started, gate = threading.Event(), threading.Event()
    held = ledger.submit(lambda c: (started.set(), gate.wait(10)))
    started.wait(10)

    def hopeless(connection: Connection) -> None:
        hang_up()
        put("never")(connection)

    futures = [ledger.submit(work) for work in (put("a"), hopeless, put("b"))]
    gate.set()
    held.result(10)
    assert (futures[0].result(20), futures[2].result(20)) == ("a", "b")
    with pytest.raises(Unavailable):
        futures[1].result(20)
    assert there(ledger) == {"a", "b"}


@pytest.mark.parametrize("reached", [False, True])
def test_a_connection_lost_during_the_commit_is_called_unknown(
    ledger: PostgresLedger, hang_up: Hang, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    ledger.write(put("a"))
    real = PostgresSide.commit

    def cut(side: PostgresSide) -> None:
        if reached:
            side._raw.execute("commit")  # the server did it, and the answer is lost
        hang_up()
        side._raw.execute("select 1")
        real(side)

    started, gate = threading.Event(), threading.Event()
    held = ledger.submit(lambda c: (started.set(), gate.wait(10)))
    started.wait(10)
    futures = [ledger.submit(put(name)) for name in "bc"]
    bad = ledger.submit(lambda c: 1 / 0)
    with monkeypatch.context() as patched:
        # The held piece commits as it should; the group after it is cut off.
        patched.setattr(PostgresSide, "commit", lambda side: (patched.setattr(PostgresSide, "commit", cut), real(side)))
        gate.set()
        held.result(10)
        with pytest.raises(ZeroDivisionError):
            bad.result(20)  # this one is known
        for future in futures:
            with pytest.raises(OutcomeUnknown, match="may or may not have happened") as caught:
                future.result(20)
            assert caught.value.next_step == "look whether it is there before you try again"
    assert there(ledger) == ({"a", "b", "c"} if reached else {"a"})
    ledger.write(put("d"))


def test_hanging_up_all_the_time_under_load(ledger: PostgresLedger, hang_up: Hang) -> None:
    done: list[str] = []
    unknown: list[str] = []
    failed: list[str] = []
    stop = threading.Event()

    def run(me: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            name = f"{me}-{n}"
            try:
                done.append(ledger.write(put(name)))
            except OutcomeUnknown:
                unknown.append(name)
            except Unavailable:
                failed.append(name)

    threads = [threading.Thread(target=run, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        time.sleep(0.05)
        hang_up()
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    found = there(ledger)
    assert set(done) <= found, "an acknowledged write is lost"
    assert not found & set(failed), "what was said to have failed has happened"
    assert found <= set(done) | set(unknown)
    ledger.write(put("last"))


def test_a_reader_that_is_cut_off_is_told(ledger: PostgresLedger, hang_up: Hang) -> None:
    def read() -> None:
        with ledger.read() as connection:
            connection.execute(select(tag_changes)).all()
            hang_up()
            connection.execute(select(tag_changes)).all()

    with pytest.raises(Unavailable):
        read()
    assert there(ledger) == set()


def test_a_lock_that_is_never_let_go_is_named(ledger: PostgresLedger, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_writing, "_TAKE_TURN", postgres_writing._TAKE_TURN.replace("30s", "50ms"))
    with psycopg.connect(postgres_url) as other:
        other.execute("select pg_advisory_xact_lock(%s)", (WRITER_LOCK,))
        futures = [ledger.submit(put(f"n{n}")) for n in range(10)]
        for future in futures:
            with pytest.raises(Unavailable, match="another process has been writing"):
                future.result(10)
    assert ledger.write(put("a")) == "a"
    assert there(ledger) == {"a"}


def test_sessions_are_set_up_to_notice_the_dead(ledger: PostgresLedger) -> None:
    names = ("tcp_keepalives_idle", "synchronous_commit", "lock_timeout")

    def asked(connection: Connection) -> list[Any]:
        return [connection.execute(text(f"show {name}")).scalar() for name in names]

    assert ledger.write(asked) == ["20", "on", "30s"]


def test_a_user_who_may_only_read(postgres_url: str, ledger: PostgresLedger) -> None:
    ledger.write(put("a"))
    name = f"reader_{time.time_ns()}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"create role {name} login")
        admin.execute(f"grant select on all tables in schema public to {name}")
    try:
        reader = PostgresLedger(postgres_url.replace("andon@", f"{name}@"))
        assert there(reader) == {"a"}
        with pytest.raises(ReadOnly, match="grant this user"):
            reader.write(put("b"))
        reader.close()
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute(f"drop owned by {name}")
            admin.execute(f"drop role {name}")


def test_a_server_that_is_not_there_and_a_url_that_is_none() -> None:
    for url, kind in {
        "postgresql://andon:secret@127.0.0.1:1/x": Unavailable,
        "postgresql://andon:secret@host:port/x": InvalidSettings,
    }.items():
        with pytest.raises(kind) as caught:
            open_ledger(Settings(home="/nonexistent", ledger=url))
        assert "secret" not in str(caught.value)


def test_what_postgres_cannot_hold_is_bad_input(ledger: PostgresLedger) -> None:
    for change in ({"value": "a\x00b"}, {"at_us": 2**63}):
        row = {"subject": "s", "key": "k", "value": None, "at_us": 1, "actor": "a", "reason": ""} | change
        with pytest.raises(InvalidInput):
            ledger.write(lambda c, row=row: c.execute(insert(tag_changes).values(row)))


def test_changes_misses_no_commit_however_close_it_looks(ledger: PostgresLedger) -> None:
    """A watcher that looks all the time never keeps an old picture after the last commit."""
    total, shown, stop = 150, [-1], threading.Event()

    def watch() -> None:
        seen = None
        while not stop.is_set():
            now = ledger.changes()
            if now != seen:
                seen = now
                shown[0] = len(there(ledger))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for n in range(total):
        ledger.write(put(str(n)))
        if n % 50 == 49:
            until = time.monotonic() + 10
            while shown[0] != n + 1 and time.monotonic() < until:
                time.sleep(0.002)
            assert shown[0] == n + 1
    stop.set()
    watcher.join(10)
