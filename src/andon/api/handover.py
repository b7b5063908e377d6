"""What serving hands on: the note that says which process answers for a service, and what a process hands to the program that replaces it.

The **note** (``HOME/run/serve-SERVICE.json``) is how the next start finds the port again, how ``andon up`` finds a supervisor that has
no replica at the moment, and how ``andon upgrade`` finds whom to tell. It is a hint: nothing breaks when it is gone.

The **handover** is a list of file descriptors in the environment: ``exec`` keeps the process, its children and its open sockets, so a
program is replaced by its newer self without letting go of the port or of the replicas.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from andon.core.errors import NotFound, Unavailable
from andon.core.settings import Settings
from andon.store.disk import try_lock

HANDOVER = "ANDON_HANDOVER"
MARK = "ANDON_CHILD_OF"
"""In the environment of a child of ``andon up``: the home of the one that started it."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers for a service on this machine."""

    process: str
    """``PID:START``."""
    host: str
    port: int
    generation: int = 0
    """How often its program has been replaced."""
    supervised: bool = False
    """Whether this process looks after replicas and answers nothing itself."""
    ready: bool = False
    """Whether a supervisor has had a replica that is ready."""
    problem: str = ""
    """Why the last upgrade did not happen."""


class ReplicaLeft(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that goes on while its supervisor's program is replaced."""

    number: int
    slot: int
    pid: int
    channel: int
    generation: int
    state: str


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What the next program finds open: the listening socket, and a supervisor's replicas. Numbers of file descriptors, and ids."""

    listener: int
    generation: int
    supervised: bool = False
    board: int | None = None
    """The shared memory with the replicas' numbers of connections."""
    wanted: int = 0
    numbers: int = 0
    zygote: tuple[int, int] | None = None
    """Process id and channel."""
    replicas: tuple[ReplicaLeft, ...] = ()
    stand_in: tuple[int, int] | None = None
    """Process id and channel of who answers until the next program does."""
    stands_in: int | None = None
    """The channel to the process that this one stands in for."""


def process_mark(pid: int) -> str:
    """A process as ``PID:START``; START is empty where it cannot be read, or when the process has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return f"{pid}:"
    return f"{pid}:" if fields[0] == "Z" else f"{pid}:{fields[19]}"


def note_path(settings: Settings, service: str) -> Path:
    """Where a service's note lies."""
    return Path(settings.home, "run", f"serve-{service.replace('/', '~')}.json")


def read_note(settings: Settings, service: str) -> Note | None:
    """The note; None when there is none that can be read."""
    try:
        return msgspec.json.decode(note_path(settings, service).read_bytes(), type=Note)
    except (OSError, msgspec.DecodeError):
        return None


def note_holder(note: Note | None) -> int | None:
    """The process a note is of, while it lives."""
    if note is None or not note.process.rpartition(":")[2]:
        return None
    pid = int(note.process.partition(":")[0])
    return pid if process_mark(pid) == note.process else None


def write_note(settings: Settings, service: str, listener: socket.socket, **more: Any) -> None:
    """Leave the note, unless another living process has left one. A folder that cannot be written to is no reason not to serve."""
    holder = note_holder(read_note(settings, service))
    if holder not in (None, os.getpid()):
        return
    host, port = listener.getsockname()[:2]
    note = Note(process=process_mark(os.getpid()), host=host, port=port, **more)
    path = note_path(settings, service)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_bytes(msgspec.json.encode(note))
        aside.replace(path)


def handed_over() -> Handover | None:
    """What this program was given by the one before it; asked once."""
    text = os.environ.pop(HANDOVER, None)
    return None if text is None else msgspec.json.decode(text, type=Handover)


def hold_signals() -> None:
    """Let signals wait: a program that is being replaced, or has just begun, is not to die of one that it would obey a moment later."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def take_signals() -> None:
    """Take those that wait, and all others, from now on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def start_successor(settings: Settings, service: str, command: Sequence[str], listener: socket.socket) -> bool:
    """From a replica that was left alone: start another supervisor on the same socket, unless a sibling is at it. Whether it was this one.

    The lock is held until this process ends.
    """
    path = note_path(settings, service).with_suffix(".lock")
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    if not try_lock(lock):
        os.close(lock)
        return False
    handover = Handover(listener=listener.fileno(), generation=0, supervised=True, wanted=1)
    environment = os.environ | {HANDOVER: msgspec.json.encode(handover).decode()}
    subprocess.Popen(command, pass_fds=(listener.fileno(),), stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
    return True


def start_stand_in(listener: socket.socket, generation: int) -> tuple[int, socket.socket]:
    """Start this process's command as it is installed now, to answer from the same socket while this process is replaced.

    Returns its process id and a channel: one line comes through it, empty once it answers, else why it cannot. It ends when that is closed.
    """
    ours, theirs = socket.socketpair()
    handover = Handover(listener=listener.fileno(), generation=generation, stands_in=theirs.fileno())
    environment = os.environ | {HANDOVER: msgspec.json.encode(handover).decode()}
    with theirs:
        kept = (listener.fileno(), theirs.fileno())
        process = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], pass_fds=kept, stdin=subprocess.DEVNULL, env=environment)
    process.returncode = 0  # whoever follows here reaps it
    return process.pid, ours


def replace_program(handover: Handover) -> NoReturn:
    """Run this process's command again, as it is installed now. What ``handover`` names stays open. Raises ``OSError``."""
    descriptors = [handover.listener, *(left.channel for left in handover.replicas)]
    channels = [pair[1] for pair in (handover.zygote, handover.stand_in) if pair is not None]
    descriptors += [number for number in (handover.board, *channels) if number is not None]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    sys.stdout.flush()
    sys.stderr.flush()
    hold_signals()  # the mask outlives the program
    environment = os.environ | {HANDOVER: msgspec.json.encode(handover).decode()}
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606  # our own command
    finally:
        take_signals()


def upgrade(settings: Settings, service: str, *, timeout_s: float) -> Note:
    """Tell whoever answers for a service to go on as the program that is installed now, and wait for that. Returns the new note.

    Raises ``NotFound`` when nobody answers for it on this machine, ``Unavailable`` when the old program goes on.
    """
    before = read_note(settings, service)
    pid = note_holder(before)
    if before is None or pid is None:
        raise NotFound(f"nobody on this machine serves {service!r}", next_step=f"start it: andon serve {service}")
    os.kill(pid, signal.SIGHUP)
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        time.sleep(0.05)
        note = read_note(settings, service)
        if note is not None and note.generation > before.generation and note_holder(note) == pid:
            return note
        if note is not None and note.problem and note != before:
            raise Unavailable(f"service:{service} goes on as it was: {note.problem}", next_step="mend that, and try again")
        if note_holder(before) is None:
            raise Unavailable(f"service:{service} ended", next_step=f"see what it said, and start it again: andon serve {service}")
    raise Unavailable(f"service:{service} was not upgraded within {timeout_s:g} s", next_step="look at its log")
