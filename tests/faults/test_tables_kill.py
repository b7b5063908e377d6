"""Processes that append, seal, compact, drop, purge and collect are killed at every boundary and at random moments.

Then: every acknowledged row is there exactly once, no row is there twice, and whoever comes next can go on.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from andon.core import faults
from andon.core.clocks import HOUR_US, ManualClock
from andon.core.errors import AndonError
from andon.core.ids import Ids
from andon.core.settings import Settings
from andon.store.ledger import open_ledger
from andon.store.tables import compact
from andon.store.tables.check import check_tables
from andon.store.tables.files import FileTables

STORY = Path(__file__).with_name("tables_story.py")
LIMIT_US = 1000
UTC = pa.timestamp("us", "UTC")
Tell = Callable[[Path, str], int]


@pytest.fixture(scope="module")
def tell() -> Iterator[Tell]:
    """Tells the story in a child of a process without threads, armed with a fault; returns the wait status."""
    server = subprocess.Popen([sys.executable, str(STORY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None

    def one(home: Path, fault: str) -> int:
        server.stdin.write(f"{home} {fault}\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield one
    server.stdin.close()
    server.wait()
    server.stdout.close()


@pytest.fixture(autouse=True)
def two_parts_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "plan", partial(compact.plan, fan_in=2))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a ledger, so that each child need not make one."""
    home = tmp_path_factory.mktemp("template")
    open_ledger(Settings(home=str(home))).close()
    return home


def notes(home: Path) -> tuple[dict[str, set[int]], dict[str, set[int]], set[str]]:
    """Rows tried and acknowledged by table, and the other notes."""
    tried: dict[str, set[int]] = {}
    acknowledged: dict[str, set[int]] = {}
    words = set()
    file = home / "acks"
    for line in file.read_text().splitlines() if file.exists() else ():
        kind, *rest = line.split()
        if kind in ("try", "ack"):
            book = tried if kind == "try" else acknowledged
            book.setdefault(rest[0], set()).update(map(int, rest[1:]))
        else:
            words.add(kind)
    return tried, acknowledged, words


def judge(home: Path) -> None:
    """The invariant, before and after somebody else has sealed, compacted and collected."""
    tried, acknowledged, words = notes(home)
    ledger = open_ledger(Settings(home=str(home)))
    tables = FileTables(ledger, home / "tables", home / "inbox", ManualClock(2_000 * HOUR_US), Ids())
    try:
        for settled in (False, True):
            if settled:
                tables.seal()
                for table in tables.names():
                    tables.compact(table)
                tables.gc(older_than_us=0)
            for table in tried:
                found = tables.query(f'select who, epoch_us(event_time) as at from "{table}"') if table in tables.names() else None
                rows = {} if found is None else dict(zip(found["who"].to_pylist(), found["at"].to_pylist(), strict=True))
                assert found is None or len(rows) == found.num_rows, "a row is there twice"
                assert rows.keys() <= tried[table]
                lost = acknowledged.get(table, set()) - rows.keys()
                if table != "old" or not words & {"dropping", "dropped"}:
                    assert not lost, f"{len(lost)} acknowledged rows of {table} are gone"
                if table == "old" and "dropped" in words:
                    assert all(at >= LIMIT_US for at in rows.values())
                    assert len(rows) * 3 == len(acknowledged["old"])
            findings = check_tables(ledger, tables.root, tables.inbox)
            assert not [finding for finding in findings if finding.is_error]
            if settled:
                assert findings == []
                assert list(tables.root.rglob(".*")) == list(tables.inbox.glob("*")) == []
    finally:
        tables.close()
        ledger.close()


def test_killed_at_every_boundary(tell: Tell, template: Path, tmp_path: Path) -> None:
    for n in range(1, 400):
        home = tmp_path / str(n)
        shutil.copytree(template, home)
        status = tell(home, f"*:{n}")
        judge(home)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        if n % 7 == 0:  # the same story once more, over what the first left
            assert tell(home, "-") == 0
            judge(home)
        shutil.rmtree(home)
    assert 40 < n < 399


def test_the_disk_fills_at_every_boundary(tell: Tell, template: Path, tmp_path: Path) -> None:
    for n in range(1, 400, 3):
        home = tmp_path / str(n)
        shutil.copytree(template, home)
        status = tell(home, f"*:{n}=ENOSPC")
        judge(home)
        if os.WEXITSTATUS(status) == 0 and "dropped" in notes(home)[2] and n > 40:
            break
        shutil.rmtree(home)
    assert 40 < n < 399


LOOP = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import tables_story as s
ledger, tables, clock = s.opened(Path(sys.argv[1]))
acks = s.Acks(Path(sys.argv[1]))
n = 0
while True:
    n += 1
    s.append(tables, acks, "t", [n] * (n % 40 + 1), durable=n % 3 == 0)
    if n % 20 == 0:
        tables.seal()
    if n % 100 == 0:
        tables.compact("t")
        tables.gc(older_than_us=0)
"""


def test_killed_at_random_moments(template: Path, tmp_path: Path) -> None:
    """Two processes at a time over one home, so that they also seal each other's segments."""
    home = tmp_path / "home"
    shutil.copytree(template, home)
    dice = random.Random(11)
    for _ in range(4):
        children = [subprocess.Popen([sys.executable, "-c", LOOP, str(home), str(STORY.parent)]) for _ in range(2)]
        size = (home / "acks").stat().st_size if (home / "acks").exists() else 0
        while not (home / "acks").exists() or (home / "acks").stat().st_size == size:
            time.sleep(0.02)
        for child in children:
            time.sleep(0.2 + dice.random() * 0.3)
            child.kill()
        for child in children:
            assert child.wait() == -signal.SIGKILL
    assert len(notes(home)[1]["t"]) > 100
    judge(home)


def test_readers_see_every_row_once_while_others_seal_and_compact(template: Path, tmp_path: Path) -> None:
    """One thread appends, one seals, one compacts, purges and collects; each count is exact at a moment between two acknowledgements."""
    home = tmp_path / "home"
    shutil.copytree(template, home)
    ledger = open_ledger(Settings(home=str(home)))
    clock = ManualClock(1_000 * HOUR_US)
    ours = [FileTables(ledger, home / "tables", home / "inbox", clock, Ids()) for _ in range(3)]
    acknowledged = 0
    done = threading.Event()
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                while not done.is_set():
                    work()
            except BaseException as error:
                failures.append(error)
                done.set()

        return run

    def keep() -> None:
        ours[1].compact("t")
        clock.advance(HOUR_US)
        ours[1].purge(HOUR_US)
        ours[1].gc(older_than_us=0)
        time.sleep(0.02)  # a purge without any grace is far from how it is used: readers try again, not for ever

    def read() -> None:
        before = acknowledged
        (found,) = ours[2].query('select count(*) as n, count(distinct who) as d from "t"').to_pylist() or [{"n": 0, "d": 0}]
        assert before <= found["n"] <= acknowledged + 3
        assert found["n"] == found["d"]

    threads = [threading.Thread(target=guarded(work)) for work in (ours[0].seal, keep, read, read)]
    instant = pa.array([1] * 3, UTC)
    ours[0].append("t", pa.record_batch({"event_time": instant, "arrival_time": instant, "who": [-1, -2, -3]}))
    acknowledged = 3
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 4
    n = 0
    while time.monotonic() < deadline and not done.is_set():
        ours[n % 2].append(
            "t", pa.record_batch({"event_time": instant, "arrival_time": instant, "who": [n, n + 1, n + 2]}), durable=n % 2 == 0
        )
        n += 3
        acknowledged += 3
    done.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert ours[2].scan("t").num_rows == acknowledged
    for one in ours:
        one.close()
    assert not [finding for finding in check_tables(ledger, home / "tables", home / "inbox") if finding.is_error]
    ledger.close()


class Model(RuleBasedStateMachine):
    """Appends, seals, compactions, retention, crashes and refusals in any order, against a Python list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.home = Path(self.folder.name)
        self.ledger = open_ledger(Settings(home=str(self.home), ledger="memory:"))
        self.clock = ManualClock(1_000 * HOUR_US)
        self.rows: list[tuple[str, int, int]] = []  # table, event time, who
        self.sealed: set[int] = set()
        self.versions: dict[int, Counter[tuple[str, int, int]]] = {0: Counter()}
        self.next = 0

    @initialize()
    def open(self) -> None:
        self.tables = FileTables(self.ledger, self.home / "tables", self.home / "inbox", self.clock, Ids())

    @rule(
        table=st.sampled_from(["a", "b/c"]),
        times=st.lists(st.integers(0, 20), min_size=1, max_size=4),
        durable=st.booleans(),
        wide=st.booleans(),
    )
    def append(self, table: str, times: list[int], durable: bool, wide: bool) -> None:
        who = list(range(self.next, self.next + len(times)))
        self.next += len(times)
        instants = pa.array(times, UTC)
        extra = {"x": [0.5] * len(times)} if wide else {"x": times}
        self.tables.append(table, pa.record_batch({"event_time": instants, "arrival_time": instants, "who": who, **extra}), durable=durable)
        self.rows += [(table, at, one) for at, one in zip(times, who, strict=True)]

    @rule()
    def seal(self) -> None:
        assert self.tables.seal() == sum(row[2] not in self.sealed for row in self.rows)
        self.sealed = {row[2] for row in self.rows}
        self._remember()

    @rule(table=st.sampled_from(["a", "b/c"]))
    def compact(self, table: str) -> None:
        self.tables.compact(table)
        self._remember()

    @rule(table=st.sampled_from(["a", "b/c"]), before=st.integers(0, 20))
    def drop(self, table: str, before: int) -> None:
        gone = [row for row in self.rows if row[0] == table and row[1] < before and row[2] in self.sealed]
        assert self.tables.drop_before(table, before) == len(gone)
        self.rows = [row for row in self.rows if row not in gone]
        self._remember()

    @rule()
    def collect(self) -> None:
        self.tables.gc(older_than_us=0)

    @rule(point=st.sampled_from(["part.*", "seal.*", "segment.*", "compact.*", "retain.*"]), n=st.integers(1, 3), verb=st.integers(0, 3))
    def fail(self, point: str, n: int, verb: int) -> None:
        """The disk refuses at some boundary; what the verb did not finish it did not begin, or is found done later."""
        faults.arm(f"{point}:{n}=ENOSPC")
        try:
            if verb == 0:
                self.tables.seal()
            elif verb == 1:
                self.tables.compact("a")
            elif verb == 2:
                self.tables.drop_before("a", 0)
            else:
                self.append("a", [1], True, False)
        except (AndonError, OSError):
            pass
        finally:
            faults.arm(None)
        found = self.tables.query('select who from "a"') if "a" in self.tables.names() else None
        last = self.next - 1
        if verb == 3 and found is not None and last in found["who"].to_pylist() and all(row[2] != last for row in self.rows):
            self.rows.append(("a", 1, last))  # refused, and yet there: allowed, once
        self.tables.seal()
        self.sealed = {row[2] for row in self.rows}
        self._remember()

    @rule()
    def crash(self) -> None:
        """The process is gone: locks and descriptors with it, nothing finished; another opens the same folders."""
        writer = self.tables._writer
        with writer._changed:
            writer._closed = True
            if writer._segment is not None:
                os.close(writer._segment.fd)
                writer._segment = None
        self.tables.close()
        self.open()

    @invariant()
    def every_row_once(self) -> None:
        if not hasattr(self, "tables"):
            return
        assert self._found(None) == Counter(self.rows)
        for version, expected in list(self.versions.items())[-3:]:
            assert self._found(version) == expected
        assert not [finding for finding in check_tables(self.ledger, self.home / "tables", self.home / "inbox") if finding.is_error]

    def _remember(self) -> None:
        self.versions[self.tables.version()] = Counter(row for row in self.rows if row[2] in self.sealed)

    def _found(self, as_of: int | None) -> Counter[tuple[str, int, int]]:
        found: Counter[tuple[str, int, int]] = Counter()
        for table in ("a", "b/c"):
            scanned = self.tables.scan(table, as_of=as_of)
            if scanned.num_rows:
                times = scanned["event_time"].cast(pa.int64()).to_pylist()
                assert times == sorted(times)
                found.update((table, at, who) for at, who in zip(times, scanned["who"].to_pylist(), strict=True))
        return found

    def teardown(self) -> None:
        self.tables.close()
        self.ledger.close()
        self.folder.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=8, stateful_step_count=15, deadline=None)
