"""Starting a run: capture what it is made of, write it down, hand back the handle."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from andon.core.actors import Actor
from andon.core.errors import InvalidInput, NotFound
from andon.store import Store
from andon.tracking import liveness
from andon.tracking.active import Run, active_run, end_open_runs
from andon.tracking.artifacts import write_artifacts_in
from andon.tracking.batches import log_batch
from andon.tracking.capture.code import CapturedCode, begin_code, keep_diff
from andon.tracking.capture.environment import capture_environment, environment_notes
from andon.tracking.capture.hardware import capture_hardware
from andon.tracking.capture.seeds import observed_seeds
from andon.tracking.experiments import DEFAULT
from andon.tracking.records import Artifact, RunFacts, RunRecord
from andon.tracking.runs import create_run, get_run

RUN_VARIABLE = "ANDON_RUN_ID"
DIFF_PATH = "code/uncommitted.diff"
_joined: set[str] = set()  # runs of the environment that a start_run here has joined already


def start_run(
    store: Store,
    experiment: str = DEFAULT,
    *,
    actor: Actor,
    name: str = "",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    parent: str | None = None,
    capture: bool = True,
) -> Run:
    """Start a run and make it the active one; use it as a context manager.

    Inside another run's block it is nested in that one (or in ``parent``). Under ``andon run -- CMD`` the first call joins the command's
    run instead of starting one: its params, tags, seeds and environment are added there, and its experiment if the command named none.
    When the block ends the run is ``finished``, or ``failed`` with the error when one came out, or ``killed`` after Ctrl-C; when the
    process dies first, it is reported ``killed``. ``capture=False`` leaves code, environment and hardware out.
    Raises ``InvalidInput`` naming the field; capturing never fails the run.
    """
    _end_at_exit()
    outer = os.environ.get(RUN_VARIABLE)
    around = active_run()
    if outer and outer not in _joined and parent is None and around is None and _knows(store, outer):
        _joined.add(outer)
        run = join_run(store, outer, actor=actor)
        if params or tags:
            log_batch(store, outer, params=params, tags=tags, actor=actor)
        if experiment != DEFAULT and run.experiment == DEFAULT:  # nobody has said, until the program did
            run.move_to(experiment)
        if capture:
            run.adopt_environment(capture_environment())
        return run
    if parent is None:
        parent = around.id if around is not None and around.store is store else None
        parent = parent or (outer if outer in _joined and _knows(store, outer) else None)
    facts, captured = capture_facts(store) if capture else (None, None)
    record = create_run(
        store,
        experiment=experiment,
        name=name,
        actor=actor,
        parent=parent,
        facts=facts,
        params=params,
        tags=tags,
        holder=liveness.holder(),
    )
    if captured is not None and captured.diff is not None and facts is not None and facts.code.dirty_diff is not None:
        name_diff(store, record, facts.code.dirty_diff, len(captured.diff), actor)
    return Run(store, record, actor, owned=True)


def _knows(store: Store, run: str | None) -> bool:
    """Whether the command's run is in this store: a program may well use another, such as one in memory for its tests."""
    try:
        return run is not None and get_run(store, run).deleted_us is None
    except (NotFound, InvalidInput):
        return False


def join_run(store: Store, run: str, *, actor: Actor) -> Run:
    """A handle on a run that another process (or the wire) started: it logs there, and its end does not end the run."""
    return Run(store, get_run(store, run), actor, owned=False)


def capture_facts(store: Store, *, folder: Path | None = None) -> tuple[RunFacts, CapturedCode]:
    """Code, environment, hardware and seeds of this process; the difference from the commit is kept in the artifact store."""
    home = Path(store.settings.home)
    git = begin_code(folder, ignore=home)  # git works while we look at the rest
    environment, hardware, notes = capture_environment(), capture_hardware(), environment_notes()
    captured = git.finish()
    code = keep_diff(store.blobs, captured)
    extra: dict[str, Any] = {"folder": str(folder or Path.cwd())}
    if captured.missing:
        extra["code_missing"] = list(captured.missing)
    if notes:
        extra["not_from_index"] = notes
    return RunFacts(code=code, environment=environment, hardware=hardware, seeds=observed_seeds(), extra=extra), captured


def name_diff(store: Store, record: RunRecord, digest: str, size_bytes: int, actor: Actor) -> None:
    """Name the kept difference from the commit as an artifact of the run."""
    diff = Artifact(path=DIFF_PATH, digest=digest, size_bytes=size_bytes, media_type="text/x-diff", at_us=record.started_us)
    store.ledger.write(lambda c: write_artifacts_in(c, record.id, [diff], actor=actor))


_registered = False


def _end_at_exit() -> None:
    global _registered
    if not _registered:
        _registered = True
        atexit.register(end_open_runs)
