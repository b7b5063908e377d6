"""A full disk and a read-only one, for real: a small file system of our own. (What needs no mount is in ``tests/unit/store``.)"""

from __future__ import annotations

import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select

from andon.core.errors import AndonError, DiskFull, ReadOnly
from andon.store.ledger.sqlite import SqliteLedger
from andon.store.schema import tag_changes

ROWS = 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"may not mount a small disk here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    filler = disk / "filler"
    free = os.statvfs(disk)
    size = free.f_bavail * free.f_frsize - leave_bytes
    with filler.open("wb") as out:
        out.write(b"\0" * size)
    return filler


def piece(name: str):  # type: ignore[no-untyped-def]
    def work(connection: Connection) -> str:
        row = {"subject": name, "value": None, "at_us": 1, "actor": "a", "reason": "x" * 100}
        connection.execute(insert(tag_changes), [row | {"key": str(key)} for key in range(ROWS)])
        return name

    return work


def there(ledger: SqliteLedger) -> set[str]:
    with ledger.read() as connection:
        rows = Counter(connection.execute(select(tag_changes.c.subject)).scalars())
    assert set(rows.values()) <= {ROWS}, "a piece is half there"
    return set(rows)


def test_a_full_disk_is_said_and_nothing_acknowledged_is_lost(disk: Path) -> None:
    path = disk / "ledger.db"
    ledger = SqliteLedger(path)
    filler = fill(disk, 500_000)
    acknowledged: list[str] = []
    errors: list[BaseException] = []

    def run(me: int) -> None:
        for n in range(10_000):
            try:
                acknowledged.append(ledger.write(piece(f"{me}-{n}")))
            except AndonError as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=run, args=(me,)) for me in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in errors] == [DiskFull] * 6
    assert "andon gc" in str(errors[0])
    assert there(ledger) == set(acknowledged), "reads still work, and what failed is not there"
    filler.unlink()
    acknowledged += [ledger.write(piece(f"after-{n}")) for n in range(20)]
    assert there(ledger) == set(acknowledged)
    ledger.close()
    again = SqliteLedger(path)
    assert there(again) == set(acknowledged)
    again.close()


def test_opening_on_a_full_disk(disk: Path) -> None:
    fill(disk)
    with pytest.raises(DiskFull):
        SqliteLedger(disk / "ledger.db")
    (disk / "filler").unlink()
    ledger = SqliteLedger(disk / "ledger.db")
    ledger.write(piece("a"))
    ledger.close()
    filler = fill(disk)
    with pytest.raises(DiskFull):
        SqliteLedger(disk / "ledger.db")
    filler.unlink()
    again = SqliteLedger(disk / "ledger.db")
    assert there(again) == {"a"}
    again.close()


def test_a_read_only_disk_can_be_read(disk: Path) -> None:
    path = disk / "ledger.db"
    ledger = SqliteLedger(path)
    ledger.write(piece("a"))
    ledger.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        reader = SqliteLedger(path)
        assert there(reader) == {"a"}
        assert reader.changes() == reader.changes()
        with pytest.raises(ReadOnly, match="--home"):
            reader.write(piece("b"))
        reader.close()
        with pytest.raises(ReadOnly, match="none can be made"):
            SqliteLedger(disk / "other.db")
        with pytest.raises(ReadOnly):
            SqliteLedger(disk / "deeper" / "ledger.db")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    again = SqliteLedger(path)
    again.write(piece("b"))
    assert there(again) == {"a", "b"}
    again.close()
