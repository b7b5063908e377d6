"""A model version's files, wherever its source says they are; only what is kept here is handed out, and no other place is ever asked."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from andon.store.statements import rows_of
from andon.tracking import Artifact
from andon.wire.mlflow.artifact_paths import Place, owner_in, place_in, plain, proxied_path
from andon.wire.mlflow.artifact_streams import Receive, Send, give
from andon.wire.mlflow.artifacts import asked_path, asked_text, file_in
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import invalid
from andon.wire.mlflow.registry_rendering import row_of, version_number

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SOURCE = "select location, source from version_sources where kind = ? and name = ? and version = ?"


async def get_of_version(call: Call, receive: Receive, send: Send) -> None:
    """A file of a registered version."""
    path = asked_path(call, "path")
    name, number = asked_text(call, "name"), version_number(asked_text(call, "version"))

    def find(connection: Connection) -> Artifact:
        row = row_of(connection, name, number)[1]
        for location, source in rows_of(connection, _SOURCE, (row.kind, row.name, row.version)):
            place = source_place_in(connection, location or source)
            below = Place(place.owner, f"{place.path}/{path}" if place.path else path)
            return file_in(connection, below, path)
        raise invalid(f"The files of {row.address} were not saved by this protocol's client")

    await give(call.store, await call.look(find), call.headers, receive, send, head=call.method == "HEAD")


def source_place_in(connection: Connection, source: str) -> Place:
    """Where a source's files are here. Raises ``WireError`` for every other place, of which nothing is asked."""
    scheme, _, rest = source.partition(":")
    if scheme == "mlflow-artifacts" and not any(sign in source for sign in "?#"):
        return place_in(connection, plain(proxied_path(source) or "", folder=False))
    identity, _, folder = rest.removeprefix("/").partition("/")
    kind = {"runs": "run", "models": "logged-model"}.get(scheme)
    if kind is not None and rest.startswith("/") and not rest.startswith("//") and unquote(identity) == identity:
        return Place(owner_in(connection, kind, identity)[0], plain(folder, folder=True))
    raise invalid("The files of this version are not kept here")


ROUTES = [
    *(
        Route(method, path, get_of_version, "stream")
        for method in ("GET", "HEAD")
        for path in ("/model-versions/get-artifact", "2.0/mlflow/model-versions/get-artifact")
    )
]
