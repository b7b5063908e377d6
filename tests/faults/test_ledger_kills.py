"""kill -9 in the middle of it: what was acknowledged is there exactly once, nothing is half there, and the ledger opens again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from andon.registry.check import check_registry
from andon.store import Store, open_store
from andon.store import schema as s

ROWS = 5
WRITERS = 8

VICTIM = """
import os, sys, threading
from sqlalchemy import insert
from andon.core.actors import Actor
from andon.registry import move_alias_in, register_in
from andon.store import open_store
from andon.store import schema as s

home, ledger, writers, rows, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
store = open_store(home, ledger=ledger)
me = Actor("process", "victim")

def piece(name):
    def work(c):
        for key in range(rows):
            c.execute(insert(s.tag_changes).values(subject=name, key=str(key), value=None, at_us=1, actor="a", reason=""))
        made = register_in(c, "model", "m", {"name": name}, now_us=1, actor=me)
        move_alias_in(c, "model:m@newest", made.address, now_us=1, actor=me)
    return work

def run(writer):
    for n in range(last):
        name = f"{os.getpid()}-{writer}-{n}"
        store.ledger.write(piece(name))
        os.write(1, (name + "\\n").encode())  # acknowledged

os.write(1, b"ready\\n")
threads = [threading.Thread(target=run, args=(w,)) for w in range(writers)]
[t.start() for t in threads]
[t.join() for t in threads]
store.close()
"""


def start(home: Path, ledger: str, *, fault: str | None = None, writers: int = WRITERS, last: int = 10_000) -> subprocess.Popen[str]:
    environ = {key: value for key, value in os.environ.items() if key != "ANDON_FAULT"}
    if fault is not None:
        environ["ANDON_FAULT"] = fault
    command = [sys.executable, "-c", VICTIM, str(home), ledger, str(writers), str(ROWS), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def finish(victim: subprocess.Popen[str], *, killed: bool) -> set[str]:
    """What it acknowledged."""
    out, err = victim.communicate(timeout=60)
    assert victim.returncode == (-signal.SIGKILL if killed else 0), err
    lines = [line for line in out.split("\n")[:-1] if line]  # the last piece may be torn by the kill
    return set(lines) - {"ready"}


def judge(store: Store, acknowledged: set[str], in_flight: int) -> int:
    """Every promise, checked; returns how many pieces are there."""
    with store.ledger.read() as connection:
        rows = Counter(connection.execute(select(s.tag_changes.c.subject)).scalars())
        manifests = [row.manifest for row in connection.execute(select(s.versions.c.manifest))]
    assert acknowledged <= rows.keys(), "an acknowledged write is lost"
    assert set(rows.values()) <= {ROWS}, "a piece is half there, or there twice"
    assert len(rows.keys() - acknowledged) <= in_flight, "more is there than was ever on its way"
    assert len(manifests) == len(set(manifests)) == len(rows)
    assert check_registry(store) == []
    return len(rows)


def go_on(home: Path, ledger: str, acknowledged: set[str], in_flight: int) -> None:
    """The ledger opens again, is whole, and takes more."""
    with open_store(home, ledger=ledger) as store:
        there = judge(store, acknowledged, in_flight)
    more = finish(start(home, ledger, writers=2, last=5), killed=False)
    assert len(more) == 10
    with open_store(home, ledger=ledger) as store:
        assert judge(store, acknowledged | more, in_flight) == there + 10


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest) -> str:
    return "sqlite:///ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.mark.parametrize("fault", ["ledger.before_commit:1", "ledger.before_commit:9", "ledger.after_commit:1", "ledger.after_commit:9"])
def test_killed_at_each_point_of_a_commit(tmp_path: Path, ledger: str, fault: str) -> None:
    acknowledged = finish(start(tmp_path, ledger, fault=fault), killed=True)
    with open_store(tmp_path, ledger=ledger) as store:
        judge(store, acknowledged, WRITERS)


def test_killed_at_any_moment_again_and_again(tmp_path: Path, ledger: str) -> None:
    seed = int(os.environ.get("ANDON_TEST_SEED", time.time_ns() % 10**6))
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    rounds = 4
    for _ in range(rounds):
        victim = start(tmp_path, ledger)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.25))
        victim.kill()
        acknowledged |= finish(victim, killed=True)
        with open_store(tmp_path, ledger=ledger) as store:
            judge(store, acknowledged, WRITERS * rounds)
    assert acknowledged, f"nothing was written at all; seed {seed}"
    go_on(tmp_path, ledger, acknowledged, WRITERS * rounds)


def test_one_of_three_processes_is_killed_and_the_others_never_notice(tmp_path: Path, ledger: str) -> None:
    victims = [start(tmp_path, ledger, writers=2, last=15) for _ in range(2)]
    doomed = start(tmp_path, ledger, fault="ledger.before_commit:9", writers=2)
    acknowledged = finish(doomed, killed=True)
    for victim in victims:
        acknowledged |= finish(victim, killed=False)
    with open_store(tmp_path, ledger=ledger) as store:
        judge(store, acknowledged, 2)
    assert len(acknowledged) >= 60
