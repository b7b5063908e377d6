"""Whose file a proxied path means.

Paths are names in the ledger and never paths on this machine's disk; what could lead astray on the disk of a client that downloads it is
refused all the same. ``EXPERIMENT/RUN/artifacts/…`` are a run's files, ``EXPERIMENT/models/MODEL/artifacts/…`` a logged model's,
``EXPERIMENT/traces/TRACE/artifacts/…`` a trace's; everything else below the root is shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from andon.core.errors import InvalidInput
from andon.store.statements import rows_of
from andon.tracking.artifacts import SHARED, check_path
from andon.wire.mlflow.errors import WireError, invalid, missing

if TYPE_CHECKING:
    from sqlalchemy import Connection

_DECODED = 10
_OWNERS = {
    "run": (
        "Run with id={}",
        "select r.experiment, r.deleted_us, e.location from runs r join experiments e on e.id = r.experiment where r.id = ?",
    ),
    "logged-model": (
        "Logged model with ID '{}'",
        "select m.experiment, m.deleted_us, e.location from logged_models m join experiments e on e.id = m.experiment where m.id = ?",
    ),
    "trace": (
        "Trace with ID '{}'",
        "select t.experiment, e.deleted_us, e.location from traces t join experiments e on e.id = t.experiment where t.id = ?",
    ),
}


class Place(NamedTuple):
    """A file or folder: whose, and its path there ("": all of the owner's)."""

    owner: str
    path: str


def plain(text: str, *, folder: bool = False) -> str:
    """A path from outside, decoded to the end. Raises ``WireError`` for one that could mean another than it says.

    A ``folder`` may end with one slash, and be "".
    """
    path = text
    for _ in range(_DECODED):
        decoded = unquote(path)
        if decoded == path:
            break
        path = decoded
    else:
        raise _bad()
    if folder and path != "/":
        path = path.removesuffix("/")
        if not path:
            return ""
    if "#" in path or "\ufffd" in path:
        raise _bad()
    try:
        return check_path(path)
    except InvalidInput:
        raise _bad() from None


def place_in(connection: Connection, path: str) -> Place:
    """Whose a plain path from the root is. Raises ``WireError``: 404 unless the owner is there, lives, and is where the path says."""
    parts = path.split("/")
    if "artifacts" in parts[2:]:
        at = parts.index("artifacts", 2)
        kind, above = "run", at - 1
        if at >= 3 and parts[at - 2] in ("models", "traces"):
            kind, above = ("logged-model" if parts[at - 2] == "models" else "trace"), at - 2
        root, rest = "/".join(parts[:above]), "/".join(parts[at + 1 :])
        if _owns(connection, kind, parts[at - 1], root):
            return Place(f"{kind}:{parts[at - 1]}", plain(rest, folder=True))
    if parts[0].isdigit() and parts[0].isascii():
        check_experiment(connection, parts[0])
    return Place(SHARED, path)


def owner_in(connection: Connection, kind: str, identity: str) -> tuple[str, int, str | None]:
    """The address of a living run, model or trace, its experiment's number, and where that keeps its files (None: here)."""
    word, query = _OWNERS[kind]
    rows = rows_of(connection, query, (identity,))
    if not rows:
        raise missing(word.format(identity[:200]) + " not found" + "." * (kind == "logged-model"))
    experiment, deleted_us, location = rows[0]
    if deleted_us is not None:
        raise missing(word.format(identity[:200]) + " was deleted; its files come back when it is restored")
    return f"{kind}:{identity}", experiment, location


def check_experiment(connection: Connection, number: str) -> None:
    """Raise ``WireError`` unless an experiment of this number lives."""
    rows = rows_of(connection, "select deleted_us from experiments where id = ?", (int(number),)) if len(number) < 18 else []
    if not rows or rows[0][0] is not None:
        raise missing(f"No Experiment with id={number[:40]} exists")


def proxied_path(uri: str) -> str | None:
    """The path below the root that an artifact URI means, or None when it is not kept here.

    >>> proxied_path("mlflow-artifacts:/3/r1/artifacts")
    '3/r1/artifacts'
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    return parts.path.strip("/") if parts.scheme == "mlflow-artifacts" else None


def _owns(connection: Connection, kind: str, identity: str, root: str) -> bool:
    """Whether the thing keeps its files below ``root``; a root that is a number says it does, so then it is a 404 when not."""
    said = root.isdigit() and root.isascii()
    try:
        _, experiment, location = owner_in(connection, kind, identity)
    except WireError:
        if said or rows_of(connection, _OWNERS[kind][1], (identity,)):
            raise
        return False
    if root == str(experiment) or (location is not None and root == proxied_path(location)):
        return True
    if said:
        raise missing(_OWNERS[kind][0].format(identity[:200]) + f" is not in the experiment {root[:40]}")
    return False


def _bad() -> WireError:
    return invalid("Invalid path")
