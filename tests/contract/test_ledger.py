"""The same promises from every engine of the ledger."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from andon.core.errors import Conflict, InvalidSettings, LeaseHeld
from andon.core.settings import Settings
from andon.store import leases, streams
from andon.store.ledger import open_ledger
from andon.store.ports import Ledger
from andon.store.schema import tag_changes, tags
from tests.conftest import ANA


@pytest.fixture(params=["sqlite", "memory", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    urls = {
        "sqlite": lambda: "sqlite:///ledger.db",
        "memory": lambda: "memory:",
        "postgres": lambda: request.getfixturevalue("postgres_url"),
    }
    opened = open_ledger(Settings(home=str(tmp_path), ledger=urls[request.param]()))
    yield opened
    opened.close()


def _tag(key: str, value: str = "v") -> dict[str, str]:
    return {"subject": "model:m@1", "key": key, "value": value}


def _count(ledger: Ledger) -> int:
    with ledger.read() as connection:
        return connection.execute(select(func.count()).select_from(tags)).scalar_one()


def test_a_write_is_there_for_readers_once_acknowledged(ledger: Ledger) -> None:
    assert ledger.write(lambda c: c.execute(insert(tags).values(_tag("a"))) and "mine") == "mine"
    assert _count(ledger) == 1


def test_what_raises_is_undone_alone(ledger: Ledger) -> None:
    def bad(connection):  # type: ignore[no-untyped-def]
        connection.execute(insert(tags).values(_tag("bad")))
        raise KeyError("mine")

    gate = threading.Event()
    slow = ThreadPoolExecutor(1).submit(ledger.write, lambda c: gate.wait(0.2))  # while this runs, the rest gathers into one group
    with ThreadPoolExecutor(20) as pool:
        good = [pool.submit(ledger.write, lambda c, i=i: c.execute(insert(tags).values(_tag(f"good{i}")))) for i in range(10)]
        failed = [pool.submit(ledger.write, bad) for _ in range(10)]
        gate.set()
        slow.result()
        for future in good:
            future.result()
        for future in failed:
            with pytest.raises(KeyError, match="mine"):
                future.result()
    assert _count(ledger) == 10


def test_a_record_refused_by_the_database_is_a_conflict_and_harms_no_other(ledger: Ledger) -> None:
    ledger.write(lambda c: c.execute(insert(tags).values(_tag("a"))))
    with pytest.raises(Conflict):
        ledger.write(lambda c: c.execute(insert(tags).values(_tag("a"))))
    ledger.write(lambda c: c.execute(insert(tags).values(_tag("b"))))
    assert _count(ledger) == 2


def test_read_decide_write_is_safe_under_concurrency(ledger: Ledger) -> None:
    ledger.write(lambda c: c.execute(insert(tags).values(_tag("n", "0"))))

    def increment(connection):  # type: ignore[no-untyped-def]
        value = int(connection.execute(select(tags.c.value).where(tags.c.key == "n")).scalar_one())
        connection.execute(tags.update().where(tags.c.key == "n").values(value=str(value + 1)))

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(ledger.write, increment) for _ in range(200)]:
            future.result()
    with ledger.read() as connection:
        assert connection.execute(select(tags.c.value).where(tags.c.key == "n")).scalar_one() == "200"


def test_a_reader_keeps_its_snapshot(ledger: Ledger) -> None:
    if not ledger.capabilities.durable:
        pytest.xfail("the fake has one connection: a reader excludes writers")
    ledger.write(lambda c: c.execute(insert(tags).values(_tag("a"))))
    with ledger.read() as connection:
        count = select(func.count()).select_from(tags)
        before = connection.execute(count).scalar_one()
        ThreadPoolExecutor(1).submit(ledger.write, lambda c: c.execute(insert(tags).values(_tag("b")))).result()
        assert connection.execute(count).scalar_one() == before
    assert _count(ledger) == 2


def test_changes_tells_of_every_commit(ledger: Ledger) -> None:
    before = ledger.changes()
    assert ledger.changes() == before or ledger.capabilities.shared
    ledger.write(lambda c: c.execute(insert(tags).values(_tag("a"))))
    assert ledger.changes() != before


def test_writing_inside_a_write_is_refused_not_a_deadlock(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError, match="connection it was given"):
        ledger.write(lambda c: ledger.write(lambda d: None))


def test_streams_number_their_events_and_check_the_last(ledger: Ledger) -> None:
    def add(kind: str, expected: int | None = None) -> int:
        return ledger.write(
            lambda c: streams.append(c, "service:bikes", kind, {"a": 1}, at_us=5, actor=ANA, reason="why", event_us=3, expected=expected)
        )

    assert [add("deployed"), add("rolled-back", expected=1)] == [1, 2]
    with pytest.raises(Conflict):
        add("deployed", expected=1)
    with ledger.read() as connection:
        found = streams.read(connection, "service:bikes", after=1)
        assert [(event.n, event.type, event.body, event.event_us) for event in found] == [(2, "rolled-back", {"a": 1}, 3)]
        assert len(streams.between(connection, 0, 10, prefix="service:")) == 2


def test_a_lease_has_one_holder_until_it_expires(ledger: Ledger) -> None:
    def take(holder: str, now_us: int) -> int:
        return ledger.write(lambda c: leases.take_lease(c, "incidents", holder, now_us=now_us, for_us=10))

    assert take("a", 0) == 1
    assert take("a", 5) == 1
    with pytest.raises(LeaseHeld):
        take("b", 14)
    assert take("b", 15) == 2  # a new fence: what "a" still does is recognised as late
    with pytest.raises(LeaseHeld):
        take("a", 16)
    ledger.write(lambda c: leases.release_lease(c, "incidents", "b"))
    assert take("a", 17) == 3  # the fence never comes back


def test_a_cursor_moves_once_per_revision(ledger: Ledger) -> None:
    ledger.write(lambda c: leases.move_cursor(c, "monitor", {"day": 1}, expected=0, now_us=1))
    with pytest.raises(Conflict):
        ledger.write(lambda c: leases.move_cursor(c, "monitor", {"day": 2}, expected=0, now_us=1))
    ledger.write(lambda c: leases.move_cursor(c, "monitor", {"day": 2}, expected=1, now_us=1))
    with ledger.read() as connection:
        assert leases.read_cursor(connection, "monitor") == leases.Cursor(2, {"day": 2})
        assert leases.read_cursor(connection, "other").state is None


def test_it_opens_again_with_what_was_written(tmp_path: Path, postgres_url: str) -> None:
    for url in ("sqlite:///ledger.db", postgres_url):
        settings = Settings(home=str(tmp_path), ledger=url)
        first = open_ledger(settings)
        first.write(lambda c: c.execute(insert(tag_changes).values(subject="s", key="k", value="v", at_us=1, actor="a", reason="")))
        first.close()
        second = open_ledger(settings)
        with second.read() as connection:
            assert connection.execute(select(func.count()).select_from(tag_changes)).scalar_one() == 1
        second.close()


def test_an_unknown_scheme_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings) as caught:
        open_ledger(Settings(home=str(tmp_path), ledger="mysql://x"))
    assert caught.value.fields["field"] == "ledger"


def test_a_ledger_from_the_future_is_refused(tmp_path: Path) -> None:
    from sqlalchemy import text

    settings = Settings(home=str(tmp_path), ledger="sqlite:///ledger.db")
    first = open_ledger(settings)
    first.write(lambda c: c.execute(text("update alembic_version set version_num = '9999'")))
    first.close()
    with pytest.raises(InvalidSettings, match="newer Andon"):
        open_ledger(settings)
