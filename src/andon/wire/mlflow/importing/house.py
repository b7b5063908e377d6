"""The whole move: which source an address names, everything in order, and the count at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

import msgspec

from andon.core.actors import Actor
from andon.core.errors import InvalidInput, NotFound
from andon.store import Store
from andon.wire.mlflow.importing import spans
from andon.wire.mlflow.importing.catalogue import has_version, move_registered, noting, version_of_alias
from andon.wire.mlflow.importing.checking import Checked, check_runs
from andon.wire.mlflow.importing.database import Database
from andon.wire.mlflow.importing.folders import Folders
from andon.wire.mlflow.importing.moving import Moved, Mover
from andon.wire.mlflow.importing.records import Experiment, Source
from andon.wire.mlflow.importing.remote import Remote


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a move. Whole when there are neither problems nor differences."""

    source: str
    moved: Moved
    checked: Checked | None

    @property
    def whole(self) -> bool:
        """Whether everything is here."""
        return not self.moved.problems and (self.checked is None or not self.checked.differences)


def open_source(text: str, artifacts: str | None = None) -> Remote | Database | Folders:
    """A server's URL, ``sqlite:///FILE``, a SQLite file, or an ``mlruns`` folder. Raises ``InvalidInput`` or ``NotFound``."""
    split = urlsplit(text)
    proxied = None if artifacts is None else Path(artifacts)
    if proxied is not None and not proxied.is_dir():
        raise NotFound("there is no such folder", field="artifacts", got=artifacts)
    if split.scheme in ("http", "https"):
        return Remote(text)
    if split.scheme == "sqlite":
        return Database(Path(text.removeprefix("sqlite:///")), proxied)
    if split.scheme not in ("", "file"):
        raise InvalidInput(
            "a source is a server's http URL, a SQLite file, or an mlruns folder",
            field="source",
            got=text[:200],
            next_step="start `mlflow server` over it, and name that server's URL",
        )
    path = Path(unquote(split.path)) if split.scheme == "file" else Path(text)
    if not path.exists():
        raise NotFound("there is no such file or folder", field="source", got=text[:200])
    return Folders(path, proxied) if path.is_dir() else Database(path, proxied)


def import_mlflow(
    store: Store,
    text: str,
    *,
    actor: Actor,
    artifacts: str | None = None,
    only: Sequence[str] = (),
    files: bool = True,
    verify: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Imported:
    """Bring everything over: experiments, runs, points, files, logged models, the registry with its numbers and aliases, traces.

    It can be stopped and started again; what is here is not moved twice. ``only`` names experiments (then the registry stays).
    ``artifacts`` is the folder that the old server proxied artifacts to. At the end both sides are read again and compared.
    """
    opened = open_source(text, artifacts)
    try:
        source = cast(Source, opened)
        mover = Mover(store, source, actor=actor, say=say, files=files)
        wanted = [one for one in source.experiments() if not only or one.name in only or one.id in only]
        if only and len(wanted) < len(set(only)):
            known = {one.name for one in wanted} | {one.id for one in wanted}
            raise NotFound("the source has no such experiment", field="experiment", got=", ".join(sorted(set(only) - known)))
        for experiment in wanted:
            say(f"experiment {experiment.name}")
            number = mover.move_experiment(experiment)
            for trace in source.traces(experiment.id):
                with noting(mover, f"trace {trace.id}"):
                    spans.move_trace(mover, trace, number)
            mover.hide_experiment(experiment, number)
        if not only:
            for model in source.registered_models():
                move_registered(mover, model)
        checked = check(store, source, wanted, files=files, registry=not only) if verify else None
        return Imported(source=source.identity, moved=mover.moved, checked=checked)
    finally:
        opened.close()


def check(store: Store, source: Source, experiments: Sequence[Experiment], *, files: bool = True, registry: bool = True) -> Checked:
    """Read both sides again and compare them."""
    checked = Checked()
    for experiment in experiments:
        check_runs(store, source, experiment.id, checked, files=files)
        for trace in source.traces(experiment.id):
            checked.traces += 1
            if not spans.has_trace(store, trace.id):
                checked.differences.append(f"trace {trace.id} is not here")
    for model in source.registered_models() if registry else ():
        for version in source.versions(model.name):
            checked.versions += 1
            if not has_version(store, model.name, version.version):
                checked.differences.append(f"{model.name} version {version.version} is not here")
        for alias, number in model.aliases.items():
            checked.aliases += 1
            here = version_of_alias(store, model.name, alias)
            if here != str(number):
                checked.differences.append(f"{model.name}@{alias} is {here} here and {number} there")
    return checked
