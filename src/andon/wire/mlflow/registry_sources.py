"""Where a model version's files are, from what its client says: which run or logged model holds them, and whether that is so.

Nothing is fetched. A source elsewhere (``s3://…``) is kept as text; one that names another host, or a path that climbs, is refused.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, unquote, unquote_plus, urlsplit

from andon.models import files_at_in
from andon.store.statements import rows_of
from andon.wire.mlflow.artifact_paths import place_in, proxied_path
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.mlflow.registered_models import aliased_row
from andon.wire.mlflow.registry_rendering import STAGES, Row, entry_of, latest_in, no_version, row_at, title_of
from andon.wire.mlflow.rendering_runs import artifact_root, run_artifact_uri

if TYPE_CHECKING:
    from sqlalchemy import Connection

_OTHER_HOSTS = frozenset({"ftp", "sftp", "hdfs", "viewfs", "http", "https", "r2", "b2", "abfss"})
_MODEL_ID = re.compile(r"m-[0-9A-Za-z_-]+")
_DECODED = 10


class Source(NamedTuple):
    """``source`` as it is kept, ``location`` where clients download from, ``run`` an id or "", ``model`` a logged model's id or None.

    ``origin`` is what holds the files here ("": nothing does), ``copied`` the version that this one is a copy of.
    """

    source: str
    location: str
    run: str
    model: str | None
    origin: str
    copied: Row | None = None


def resolve_source(connection: Connection, source: str, run: str | None, model: str | None) -> Source:
    """What a client's source, run id and logged model id mean together. Raises ``WireError`` naming the one that does not fit."""
    parts = _split(source)
    if parts.scheme in _OTHER_HOSTS or (parts.scheme == "mlflow-artifacts" and parts.netloc):
        raise invalid(
            f"'source' cannot use the '{parts.scheme}' scheme: it addresses a host other than this server's artifact storage, so the server"
            " would connect to the host named in the URI."
        )
    if parts.scheme == "models":
        named = _registered(connection, source, parts, run, model)
        if named is not None:
            return named
    run, model = run or "", model or None
    if parts.scheme in ("", "file"):
        raise _local(connection, source, run, model)
    _check_plain(source)
    if parts.scheme == "models":
        return _logged(connection, source, parts, run, model)
    if parts.scheme == "runs":
        return _in_run(connection, source, parts, run, model)
    if parts.scheme == "mlflow-artifacts":
        return _kept_here(connection, source, run, model)
    return Source(source, source, run or _run_of(connection, model), model, "")


def _registered(connection: Connection, source: str, parts: SplitResult, run: str | None, model: str | None) -> Source | None:
    """A copy of a registered version; None when the source is a logged model."""
    if parts.netloc:
        raise invalid(f"Invalid model version source: '{source}'. Registered model sources must use the active model registry.")
    path = unquote(parts.path).strip("/")
    if _MODEL_ID.fullmatch(path):
        return None
    name, at, alias = path.partition("@")
    name, _, which = (name, "", "") if at else path.partition("/")
    if not name or not (alias or which) or "/" in which + alias:
        raise _unnamed(source, "model_id")
    entry = entry_of(connection, name)
    if entry.kind == "prompt":
        raise invalid(f"Invalid model version source: '{source}'. Prompt versions cannot be used as model version sources.")
    if alias:
        row = aliased_row(connection, entry, alias)
    elif which.isdigit():
        row = row_at(connection, entry, int(which))
    else:
        newest = {_stage(connection, found): found for found in latest_in(connection, [entry]).get((entry.kind, entry.name), [])}
        found = max(newest.values(), key=lambda item: item.version, default=None) if which == "latest" else newest.get(which.title())
        if found is None or (which != "latest" and which.lower() not in STAGES):
            raise no_version(name, -1) if which == "latest" else _unnamed(source, "model_id")
        row = found
    kept = rows_of(
        connection,
        "select location, run, logged_model from version_sources where kind = ? and name = ? and version = ?",
        (row.kind, row.name, row.version),
    )
    location, its_run, its_model = kept[0] if kept else (f"andon:/{row.address}", "", None)
    if (run is not None and run != its_run) or (model is not None and model != (its_model or "")):
        raise invalid(
            f"Invalid model version source: '{source}'. The run_id and model_id request parameters must match the referenced model version."
        )
    return Source(f"models:/{title_of(entry)}/{row.version}", location, its_run, its_model, "", row)


def _stage(connection: Connection, row: Row) -> str:
    found = rows_of(connection, "select value from tags where subject = ? and key = 'andon.stage'", (row.address,))
    return str(found[0][0]) if found else "None"


def _logged(connection: Connection, source: str, parts: SplitResult, run: str, model: str | None) -> Source:
    wanted = unquote(parts.path).strip("/")
    if model != wanted:
        raise _unnamed(source, "model_id")
    rows = rows_of(connection, _LOGGED, (wanted,))
    if not rows:
        raise missing(f"Logged model with ID '{wanted}' not found.")
    made_by, experiment, location = rows[0]
    return Source(source, _model_uri(experiment, location, wanted), run or made_by or "", wanted, f"logged-model:{wanted}")


def _in_run(connection: Connection, source: str, parts: SplitResult, run: str, model: str | None) -> Source:
    if model:
        raise _unnamed(source, "model_id")
    named, _, path = unquote(parts.path).strip("/").partition("/")
    if parts.netloc or not named or named != run:
        raise _unnamed(source, "run_id")
    origin = f"run:{run}/{path}".rstrip("/")
    found = None
    if not files_at_in(connection, origin):  # a name of a model that the run logged
        query = "select id from logged_models where run = ? and name = ? and deleted_us is null order by created_us desc limit 1"
        rows = rows_of(connection, query, (run, path))
        if rows:
            found = str(rows[0][0])
            origin = f"logged-model:{found}"
    return Source(source, source, run, found, origin)


def _kept_here(connection: Connection, source: str, run: str, model: str | None) -> Source:
    which = "model_id" if model else "run_id"
    root = None
    if model:
        rows = rows_of(connection, _LOGGED, (model,))
        root = _model_uri(rows[0][1], rows[0][2], model) if rows else None
    elif run:
        query = "select r.experiment, e.location from runs r join experiments e on e.id = r.experiment where r.id = ?"
        rows = rows_of(connection, query, (run,))
        root = run_artifact_uri(rows[0][0], rows[0][1], run) if rows else None
    if root is None or not _within(source, root):
        raise _unnamed(source, which)
    owner, path = place_in(connection, proxied_path(unquote(source)) or "")
    return Source(source, source, run or _run_of(connection, model), model, f"{owner}/{path}".rstrip("/"))


def _run_of(connection: Connection, model: str | None) -> str:
    if not model:
        return ""
    rows = rows_of(connection, _LOGGED, (model,))
    if not rows:
        raise missing(f"Logged model with ID '{model}' not found.")
    return rows[0][0] or ""


_LOGGED = (
    "select m.run, m.experiment, e.location from logged_models m join experiments e on e.id = m.experiment"
    " where m.id = ? and m.deleted_us is null"
)


def _model_uri(experiment: int, location: str | None, model: str) -> str:
    return f"{artifact_root(experiment, location)}/models/{model}/artifacts"


def _within(source: str, root: str) -> bool:
    here, there = _split(source), _split(root)
    given, wanted = ([part for part in _decoded(each.path).split("/") if part] for each in (here, there))
    return (here.scheme, here.netloc) == (there.scheme, there.netloc) and bool(wanted) and given[: len(wanted)] == wanted


def _check_plain(source: str) -> None:
    """Refuse a path that is relative, climbs or hides what it says."""
    decoded = source
    for _ in range(_DECODED):
        more = unquote_plus(decoded)
        if more == decoded:
            break
        decoded = more
    path = re.sub(r"/+", "/", _split(decoded).path.rstrip("/"))
    if "\0" in decoded or ".." in decoded.split("/") or not path.startswith("/") or posixpath.normpath(path) != path:
        raise invalid(
            f"Invalid model version source: '{source[:300]}'. If supplying a source as an http, https, local file path, ftp, objectstore,"
            f" or mlflow-artifacts uri, an absolute path must be provided without relative path references present. Please provide an"
            " absolute path."
        )


def _local(connection: Connection, source: str, run: str, model: str | None) -> WireError:
    field, query = ("model_id", "select 1 from logged_models where id = ?") if model else ("run_id", "select 1 from runs where id = ?")
    given = model or run
    if given and not rows_of(connection, query, (given,)):
        return _unnamed(source, field)
    return invalid(
        f"Invalid model version source: '{source[:300]}'. To use a local path as a model version source, the {field} request parameter has"
        f" to be specified and the local path has to be contained within the artifact directory of the run specified by the {field}."
    )


def _unnamed(source: str, field: str) -> WireError:
    return invalid(
        f"Invalid model version source: '{source[:300]}'. The {field} request parameter must identify the resource that contains the"
        " source."
    )


def _decoded(text: str) -> str:
    for _ in range(_DECODED):
        more = unquote(text)
        if more == text:
            break
        text = more
    return text


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        raise invalid(f"Invalid model version source: '{text[:300]}'.") from None
