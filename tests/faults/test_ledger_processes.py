"""Several processes on one ledger: they take turns, a fork in the middle harms nobody, and opening a new one at once is safe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from andon.core.settings import Settings
from andon.store import schema as s
from andon.store.ledger import open_ledger

WRITER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from sqlalchemy import insert, select, update
from andon.core.settings import Settings
from andon.store.ledger import open_ledger
from andon.store import schema as s

home, url, me, pieces = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
sys.stdin.readline()  # all open it at once, and it is new
ledger = open_ledger(Settings(home=home, ledger=url))

def count(n):
    def work(c):
        found = c.execute(select(s.tags.c.value).where(s.tags.c.key == "n")).scalar()
        if found is None:
            c.execute(insert(s.tags).values(subject="s", key="n", value="1"))
        else:
            c.execute(update(s.tags).where(s.tags.c.key == "n").values(value=str(int(found) + 1)))
        c.execute(insert(s.tag_changes).values(subject=f"{me}-{n}", key="k", value=None, at_us=int(found or 0), actor="a", reason=""))
    return ledger.write(work)

with ThreadPoolExecutor(3) as pool:
    list(pool.map(count, range(pieces)))
ledger.close()
"""


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest) -> str:
    return "sqlite:///ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_read_decide_and_write_lose_nothing(tmp_path: Path, ledger: str, processes: int) -> None:
    pieces = 30
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), ledger, f"p{me}", str(pieces)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me in range(processes)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, err = writer.communicate(timeout=60)
        assert writer.returncode == 0, err
    opened = open_ledger(Settings(home=str(tmp_path), ledger=ledger))
    with opened.read() as connection:
        assert connection.execute(select(s.tags.c.value).where(s.tags.c.key == "n")).scalar_one() == str(processes * pieces)
        rows = connection.execute(select(s.tag_changes.c.subject, s.tag_changes.c.at_us)).all()
    opened.close()
    assert sorted(row.at_us for row in rows) == list(range(processes * pieces)), "two saw the same count"
    assert set(Counter(row.subject for row in rows).values()) == {1}


FORKER = """
import os, sys, threading, time
from sqlalchemy import func, insert, select
from andon.core.settings import Settings
from andon.store.ledger import open_ledger
from andon.store import schema as s

ledger = open_ledger(Settings(home=sys.argv[1], ledger=sys.argv[2]))
stop = threading.Event()

def put(name):
    row = dict(subject=name, key="k", value=None, at_us=1, actor="a", reason="")
    return lambda c: c.execute(insert(s.tag_changes).values(row)) and None

def read():
    with ledger.read() as c:
        return c.execute(select(func.count()).select_from(s.tag_changes)).scalar_one()

written = [0] * 4
def run(me):
    while not stop.is_set():
        ledger.write(put(f"parent-{me}-{written[me]}"))
        written[me] += 1

threads = [threading.Thread(target=run, args=(me,)) for me in range(4)]
[t.start() for t in threads]
ledger.changes()
children = []
for child in range(8):
    time.sleep(0.02)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ledger.changes()
            before = read()
            for n in range(5):
                ledger.write(put(f"child-{child}-{n}"))
            assert read() >= before + 5
            ledger.close()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    children.append(pid)
codes = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
[t.join() for t in threads]
ledger.write(put("parent-last"))
ledger.close()
print(codes, sum(written) + 1)
"""


def test_a_fork_while_the_writer_runs(tmp_path: Path, ledger: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKER, str(tmp_path), ledger],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("[0, 0, 0, 0, 0, 0, 0, 0]"), run.stderr
    assert run.stderr == ""
    opened = open_ledger(Settings(home=str(tmp_path), ledger=ledger))
    with opened.read() as connection:
        rows = Counter(connection.execute(select(s.tag_changes.c.subject)).scalars())
    opened.close()
    assert set(rows.values()) == {1}
    assert sum(name.startswith("child-") for name in rows) == 40
    assert sum(name.startswith("parent-") for name in rows) == int(run.stdout.rsplit(" ", 1)[1])
