"""Serving as children of ``andon up``: one ``andon serve`` for each service with a production release, restarted with backoff.

What a signal means:

- Ctrl-C or SIGTERM to ``andon up`` ends everything: each child gets SIGTERM, drains, and is waited for. Children run in sessions of their
  own, so a Ctrl-C in the terminal reaches them only by way of their parent, in order.
- SIGKILL (or a crash) of ``andon up`` ends nothing else: the children hold their releases and go on answering. The next ``andon up`` finds
  them by their rows in ``replicas`` and adopts them: it starts no second one, and its own orderly end stops them too.
- A second ``andon up`` on one home starts no second child either, and its end leaves the first one's children alone: it stops an adopted
  child only when the ``andon up`` that started it is dead by then.
- An ``andon serve`` that a person started is left alone, at the end too; no child is started beside it.
- SIGHUP to ``andon up`` replaces its program by the one that is installed now; the children go on, and are its own afterwards as before.
  ``--keep-serving`` leaves them answering at an orderly end, too, for the next ``andon up`` to adopt.

How many processes a child takes is the child's own business: ``policy:serving/SERVICE``. When a policy comes that wants several of a child
that is one process, it is told to begin again (SIGHUP), which drops nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import select

from andon.api.handover import MARK, note_holder, process_mark, read_note
from andon.autoscaling import policy_of
from andon.core.clocks import SECOND_US
from andon.core.errors import AndonError
from andon.core.settings import Settings
from andon.releases import PRODUCTION
from andon.store import Store
from andon.store import schema as s

__all__ = ["MARK", "PARENT", "Child", "Children", "Command", "process_mark", "serve_command"]

log = logging.getLogger("andon.children")
PARENT = "ANDON_CHILD_PARENT"
"""In a child's environment: the process that started it, as ``PID:START`` (its start time tells it from a later one with its number)."""
LOOK_S = 1.0
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
STEADY_S = 30.0
"""A child that ran this long had no trouble starting: its next restart is quick again."""
STOP_S = 35.0
FRESH_US = 15 * SECOND_US
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})

Command = Callable[[str], Sequence[str]]


def serve_command(settings: Settings) -> Command:
    """How a child is started: this Python, this home, and the port that the service had last, or any free one."""
    return lambda service: [
        sys.executable,
        "-m",
        "andon",
        "serve",
        service,
        "--home",
        settings.home,
        "--host",
        settings.host,
    ]


class Child:
    """One service's process, and how often it has failed."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.process: subprocess.Popen[bytes] | None = None
        self.adopted: int | None = None
        self.started_s = 0.0
        self.backoff_s = FIRST_BACKOFF_S
        self.not_before_s = 0.0
        self.told: str | None = None
        """The version of the policy that it was told to begin again for."""


class Children:
    """Starts, watches, restarts and stops them; ``look`` is one round, ``start`` runs rounds in a thread."""

    def __init__(self, store: Store, settings: Settings, command: Command | None = None, *, again: bool = False) -> None:
        """``again``: this process had another program before, whose children are its own."""
        self._store = store
        self._settings = settings
        self._again = again
        self._home = settings.home
        self._command = command or serve_command(settings)
        self._children: dict[str, Child] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look after them."""
        self._thread = threading.Thread(target=self._run, name="andon-children", daemon=True)
        self._thread.start()

    def stop(self, *, keep: bool = False) -> None:
        """SIGTERM to our own (and to adopted ones whose parent is dead), wait for them to drain, SIGKILL for what is left.

        With ``keep`` they go on, for the next ``andon up`` to adopt.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5.0)
        if keep:
            return
        ours = [child for child in self._children.values() if child.process is not None or self._is_ours(child)]
        for child in ours:
            _signal(child, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for child in ours:
            while _alive(child) and time.monotonic() < deadline:
                time.sleep(0.02)
            if _alive(child):
                log.warning("service:%s did not stop in %.0f s; it is killed", child.service, STOP_S)
                _signal(child, signal.SIGKILL)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except AndonError as error:  # the ledger is away: what runs goes on
                log.warning("serving cannot be looked after: %s", error)
            self._stopping.wait(LOOK_S)

    def look(self) -> None:
        """Start what is missing, notice what has ended."""
        for service, running in self._wanted().items():
            child = self._children.setdefault(service, Child(service))
            if _alive(child):
                self._suggest(child)
                continue
            self._note_end(child)
            if running is not None:  # another process answers for it: ours of an earlier life, or a person's own
                child.adopted = running if _marked(running, self._home) else None
            elif time.monotonic() >= child.not_before_s and not self._stopping.is_set():
                self._spawn(child)

    def _wanted(self) -> dict[str, int | None]:
        """Services with a production release, and the process that answers for each on this machine already."""
        now_us = self._store.clock.now_us()
        a, r = s.aliases, s.replicas
        with self._store.ledger.read() as c:
            named = (
                c.execute(select(a.c.name).where(a.c.kind == "service", a.c.alias == PRODUCTION, a.c.target.is_not(None))).scalars().all()
            )
            fresh = c.execute(select(r).where(r.c.status.in_(("starting", "ready")), r.c.seen_us > now_us - FRESH_US)).all()
        here = {
            row.service: int(row.pid) for row in fresh if (urlsplit(row.url).hostname or "127.0.0.1") in LOCAL_HOSTS and _exists(row.pid)
        }
        # A supervisor answers nothing itself and may have no replica at the moment: its note says that it is there.
        return {name: note_holder(read_note(self._settings, name)) or here.get(name) for name in named}

    def _suggest(self, child: Child) -> None:
        """Tell a child that is one process to begin again where the policy wants several by now: it keeps its socket."""
        note = read_note(self._settings, child.service)
        pid = child.process.pid if child.process is not None else child.adopted
        if note is None or note.supervised or note_holder(note) != pid:
            return
        policy = policy_of(self._store, child.service)
        if policy is not None and (policy.max_replicas > 1 or policy.min_replicas == 0) and child.told != str(policy):
            child.told = str(policy)
            _signal(child, signal.SIGHUP)

    def _note_end(self, child: Child) -> None:
        if child.adopted is not None:
            with contextlib.suppress(ChildProcessError):  # it may be our own, from before our program was replaced
                os.waitpid(child.adopted, os.WNOHANG)
            child.adopted = None
        if child.process is None:
            return
        code, lived_s = child.process.returncode, time.monotonic() - child.started_s
        child.backoff_s = FIRST_BACKOFF_S if lived_s > STEADY_S else min(LONGEST_BACKOFF_S, child.backoff_s * 2)
        child.not_before_s = time.monotonic() + child.backoff_s
        child.process = None
        log.warning(
            "service:%s ended with %s after %.0f s; again in %.1f s (%s)", child.service, code, lived_s, child.backoff_s, self._log(child)
        )

    def _spawn(self, child: Child) -> None:
        path = self._log(child)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file, not our own stderr: a child that outlives us must not die of writing to a closed pipe.
            with path.open("ab") as out:
                child.process = subprocess.Popen(
                    list(self._command(child.service)),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    env=os.environ | {MARK: self._home, PARENT: process_mark(os.getpid())},
                )
        except OSError as error:
            child.not_before_s = time.monotonic() + child.backoff_s
            log.warning("service:%s could not be started: %s", child.service, error)
            return
        child.started_s = time.monotonic()

    def _is_ours(self, child: Child) -> bool:
        """Whether an adopted process is ours to stop: it descends from one that we started, or from an ``andon up`` that has ended."""
        parent = _environ(child.adopted).get(PARENT) if child.adopted is not None else None
        if parent is None:
            return False
        if parent == process_mark(os.getpid()):
            return self._again or child.started_s > 0.0  # from before our program was replaced, or the successor of what we started
        return process_mark(int(parent.partition(":")[0])) != parent

    def _log(self, child: Child) -> Path:
        return Path(self._home, "logs", f"serve-{child.service.replace('/', '~')}.log")


def _alive(child: Child) -> bool:
    if child.process is not None:
        return child.process.poll() is None
    return child.adopted is not None and _exists(child.adopted)


def _signal(child: Child, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if child.process is not None:
            child.process.send_signal(number)
        elif child.adopted is not None:
            os.kill(child.adopted, number)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:  # no /proc on this system: the signal got through, which is what we can know
        return not Path("/proc").is_dir()
    except (ProcessLookupError, PermissionError):
        return False


def _marked(pid: int, home: str) -> bool:
    """Whether a process was started by an ``andon up`` over the same home (its environment says so; only its owner can read that)."""
    return _environ(pid).get(MARK) == home


def _environ(pid: int) -> dict[str, str]:
    """What a process was started with; empty when it is gone or another user's."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (os.fsdecode(entry).partition("=") for entry in entries)}
