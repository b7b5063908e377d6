"""``andon run -- CMD``: any program as a run. What it prints is shown as it comes and kept; ``start_run`` inside it joins the run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from andon.core.actors import Actor
from andon.core.errors import InvalidInput
from andon.store import Store
from andon.tracking import artifacts, liveness, runs
from andon.tracking.capture.code import redacted
from andon.tracking.experiments import DEFAULT
from andon.tracking.records import RunRecord, RunStatus
from andon.tracking.starting import RUN_VARIABLE, capture_facts, name_diff

CHUNK_BYTES = 64 * 1024
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # the shell's own codes
CONTEXT_VARIABLE = "MLFLOW_RUN_CONTEXT"
AROUND = "andon.run"
"""The tag of a run that names the run of the command it was made in."""


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended: its exit code (128 + n when signal n ended it) and its run."""

    run: RunRecord
    exit_code: int


def run_command(
    store: Store,
    command: Sequence[str],
    *,
    actor: Actor,
    experiment: str = DEFAULT,
    name: str = "",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    out: IO[bytes] | None = None,
    err: IO[bytes] | None = None,
) -> CommandResult:
    """Run ``command`` as a run named after it, and wait for it.

    Its output goes to ``out`` and ``err`` (default: ours) as it comes, to ``HOME/running/RUN/stdout.log`` and ``stderr.log`` while it
    runs, and is kept as the artifacts ``logs/stdout.log`` and ``logs/stderr.log``. The exit code is taken as it is: 0 is finished,
    anything else failed, a signal killed. Interrupts go to the command; we wait for it. Raises ``InvalidInput`` for an empty command.
    """
    if not command:
        raise InvalidInput("there is no command to run", field="command", next_step="andon run -- python train.py")
    facts, captured = capture_facts(store)
    code = msgspec.structs.replace(facts.code, entry_point=_entry_point(command), argv=redacted(list(command)))
    record = runs.create_run(
        store,
        experiment=experiment,
        name=name or "".join(letter for letter in Path(_entry_point(command)).name[:200] if letter.isprintable()),
        actor=actor,
        facts=msgspec.structs.replace(facts, code=code),
        params=params,
        tags=tags,
        holder=liveness.holder(),
    )
    if captured.diff is not None and code.dirty_diff is not None:
        name_diff(store, record, code.dirty_diff, len(captured.diff), actor)
    folder = _spool(store, record)
    with _renewing(store, record):
        exit_code, problem = _run(command, store, record, folder, out or sys.stdout.buffer, err or sys.stderr.buffer)
        for stream in ("stdout", "stderr"):
            log = folder / f"{stream}.log"
            if log.exists() and log.stat().st_size:
                artifacts.log_artifact(store, record.id, log, f"logs/{stream}.log", actor=actor)
            log.unlink(missing_ok=True)
        folder.rmdir()
    status: RunStatus = "finished" if exit_code == 0 else "killed" if exit_code > 128 else "failed"
    body = {"exit_code": exit_code} | ({"error": problem} if problem else {})
    return CommandResult(run=runs.update_run(store, record.id, actor=actor, status=status, body=body), exit_code=exit_code)


def spool_of(store: Store, run: str) -> Path:
    """Where the output of a running command is, as ``stdout.log`` and ``stderr.log``, on the machine that runs it."""
    return Path(store.settings.home, "running", run)


def _spool(store: Store, record: RunRecord) -> Path:
    if not store.ledger.capabilities.durable:  # a store in memory has no home folder
        return Path(tempfile.mkdtemp(prefix="andon-run-"))
    folder = spool_of(store, record.id)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: Sequence[str], store: Store, record: RunRecord, folder: Path, out: IO[bytes], err: IO[bytes]) -> tuple[int, str | None]:
    environment = os.environ | {
        RUN_VARIABLE: record.id,
        "ANDON_HOME": store.settings.home,
        "PYTHONUNBUFFERED": "1",  # or its prints come when it ends
        CONTEXT_VARIABLE: _context(record.id),
    }
    try:
        child = subprocess.Popen(list(command), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=None, bufsize=0)
    except FileNotFoundError:
        return NOT_FOUND, f"{command[0]}: not found"
    except OSError as error:
        return NOT_EXECUTABLE, f"{command[0]}: {error.strerror}"
    copies = []
    for stream, source, shown in (("stdout", child.stdout, out), ("stderr", child.stderr, err)):
        copy = threading.Thread(target=_copy, args=(source, folder / f"{stream}.log", shown), name=f"andon-{stream}", daemon=True)
        copy.start()
        copies.append(copy)
    with _passing_signals(child):
        code = child.wait()
    for copy in copies:
        copy.join(timeout=10)  # a grandchild may hold the pipe open for ever
    return (code, None) if code >= 0 else (128 - code, f"ended by {signal.Signals(-code).name}")


def _context(run: str) -> str:
    """The tags that an MLflow client inside the command gives its runs: which run is around them, so that they share what it captured."""
    try:
        before = json.loads(os.environ.get(CONTEXT_VARIABLE, ""))
    except ValueError:
        before = {}
    return json.dumps((before if isinstance(before, dict) else {}) | {AROUND: run})


def _copy(source: IO[bytes], log: Path, shown: IO[bytes]) -> None:
    with log.open("wb", buffering=0) as kept:
        while chunk := source.read(CHUNK_BYTES):
            kept.write(chunk)
            with contextlib.suppress(OSError, ValueError):  # nobody looks any more: the log goes on
                shown.write(chunk)
                shown.flush()
    source.close()


@contextlib.contextmanager
def _passing_signals(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand SIGTERM on to the child; SIGINT reaches it by the terminal already. Only the main thread can set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _renewing(store: Store, record: RunRecord) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=liveness.keep_lease, args=(store, record.id, stop), name="andon-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _entry_point(command: Sequence[str]) -> str:
    """The script or module of a Python command, else the command's own name."""
    if Path(command[0]).name.startswith("python"):
        for position, argument in enumerate(command[1:], start=1):
            if argument == "-m" and position + 1 < len(command):
                return f"-m {command[position + 1]}"
            if argument == "-c":
                return f"{Path(command[0]).name} -c"
            if not argument.startswith("-"):
                return argument
    return command[0]
