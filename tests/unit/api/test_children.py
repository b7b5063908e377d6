"""Serving as children: started once, restarted with backoff, adopted after a crash of their parent, stopped at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import insert

from andon.api.children import MARK, PARENT, Children, process_mark
from andon.core.settings import Settings
from andon.store import Store
from andon.store import schema as s

SLEEPER = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def served(store: Store, tmp_path: Path) -> tuple[Store, Settings]:
    row = {"kind": "service", "name": "bikes", "alias": "production", "target": "release:bikes@1", "revision": 1, "moved_us": 1}
    store.ledger.write(lambda c: c.execute(insert(s.aliases).values(**row)))
    return store, Settings(home=str(tmp_path), ledger="memory:")


def _running(children: Children) -> int:
    process = children._children["bikes"].process
    assert process is not None
    return process.pid


def _wait(condition: object, timeout_s: float = 5.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_it_is_started_once_logged_and_stopped(served: tuple[Store, Settings]) -> None:
    store, settings = served
    children = Children(store, settings, lambda service: [sys.executable, "-c", SLEEPER])
    children.look()
    pid = _running(children)
    log = Path(settings.home, "logs", "serve-bikes.log")
    _wait(lambda: log.exists() and log.read_text() == "up\n")
    children.look()
    assert _running(children) == pid
    assert os.getsid(pid) == pid  # a Ctrl-C in our terminal does not reach it but through us
    children.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_dies_is_restarted_not_at_once(served: tuple[Store, Settings]) -> None:
    store, settings = served
    children = Children(store, settings, lambda service: [sys.executable, "-c", "raise SystemExit(3)"])
    children.look()
    first = children._children["bikes"].process
    assert first is not None
    first.wait(10)
    children.look()
    child = children._children["bikes"]
    assert child.process is None
    assert child.backoff_s == 1.0
    child.not_before_s = 0.0
    children.look()
    assert child.process is not None
    child.process.wait(10)
    children.look()
    assert child.backoff_s == 2.0
    children.stop()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc to know its own children")
@pytest.mark.parametrize("whose", ["a crashed andon up", "another with its number", "a living andon up", "a person"])
def test_what_answers_already_is_not_started_again(served: tuple[Store, Settings], whose: str) -> None:
    store, settings = served
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    parent = {"a crashed andon up": f"{dead.pid}:1", "another with its number": f"{os.getpid()}:1"}.get(whose, process_mark(os.getpid()))
    mark = {MARK: settings.home, PARENT: parent} if whose != "a person" else {}
    ours = parent != process_mark(os.getpid())
    orphan = subprocess.Popen([sys.executable, "-c", SLEEPER], env=os.environ | mark, stdout=subprocess.PIPE)
    assert orphan.stdout is not None
    orphan.stdout.readline()
    now = store.clock.now_us()
    row = {
        "id": "r1",
        "service": "bikes",
        "url": "http://127.0.0.1:1",
        "pid": orphan.pid,
        "release": None,
        "status": "ready",
        "note": "",
        "started_us": now,
        "seen_us": now,
    }
    store.ledger.write(lambda c: c.execute(insert(s.replicas).values(**row)))
    children = Children(store, settings, lambda service: [sys.executable, "-c", SLEEPER])
    children.look()
    child = children._children["bikes"]
    assert child.process is None
    assert child.adopted == (orphan.pid if whose != "a person" else None)
    children.stop()
    if ours:
        assert orphan.wait(10) == 0
    else:
        assert orphan.poll() is None
        orphan.send_signal(signal.SIGKILL)
        orphan.wait(10)
    orphan.stdout.close()


def test_a_command_that_is_not_there_is_tried_again_later(served: tuple[Store, Settings]) -> None:
    store, settings = served
    children = Children(store, settings, lambda service: ["/no/such/program"])
    children.look()
    assert children._children["bikes"].process is None
    assert children._children["bikes"].not_before_s > time.monotonic()
