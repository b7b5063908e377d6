"""Files of runs, logged models and traces: up, down, listed, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from andon.core.errors import Conflict, Gone
from andon.core.errors import NotFound as Absent
from andon.tracking import Artifact
from andon.tracking.artifacts import SHARED, delete_files_in, find_artifact_in, list_artifacts_in, media_type_of, write_files_in
from andon.wire.mlflow.artifact_paths import Place, owner_in, place_in, plain, proxied_path
from andon.wire.mlflow.artifact_streams import BATCH_BYTES, Receive, Send, give, next_piece, take
from andon.wire.mlflow.artifact_streams import Gone as Left
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.mlflow.rendering_runs import run_artifact_uri

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")
MAX_UPLOADED_BYTES = 10 << 20
"""What the protocol lets ``upload-artifact`` take."""
_ROOT = "2.0/mlflow-artifacts/artifacts"


class _Folder(msgspec.Struct):
    path: str = ""


class _OfRun(msgspec.Struct):
    run_id: str = ""
    run_uuid: str = ""
    path: str = ""


async def download(call: Call, receive: Receive, send: Send) -> None:
    """A file by its path below the root."""
    path = plain(call.path["artifact_path"], folder=True)

    def find(connection: Connection) -> Artifact:
        return file_in(connection, place_in(connection, path) if path else Place("", ""), path)

    await give(call.store, await call.look(find), call.headers, receive, send, head=call.method == "HEAD")


async def upload(call: Call, receive: Receive, send: Send) -> None:
    """Take a file: durable, and only then named in the ledger, when the answer comes."""
    path = plain(call.path["artifact_path"])
    place = await call.look(lambda c: place_in(c, path))
    if not place.path:
        raise invalid("Invalid path")
    try:
        digest, size_bytes = await _body(call, receive)
    except Left:
        return
    await name_file(call, place, digest, size_bytes)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def name_file(call: Call, place: Place, digest: str, size_bytes: int) -> None:
    """Give bytes that are durable their name."""
    file = Artifact(
        path=place.path, digest=digest, size_bytes=size_bytes, media_type=media_type_of(place.path), at_us=call.store.clock.now_us()
    )
    await _told(call, lambda c: write_files_in(c, place.owner, [file], actor=call.actor))


async def remove(call: Call) -> dict[str, Any]:
    """Forget a file, or all below a folder; nothing when there is none."""
    path = plain(call.path["artifact_path"], folder=True)
    if not path:
        raise invalid("Invalid path")

    def work(connection: Connection) -> int:
        place = place_in(connection, path)
        return delete_files_in(connection, place.owner, place.path, actor=call.actor)

    await _told(call, work)
    return {}


def list_below(call: Call) -> dict[str, Any]:
    """What lies in a folder below the root, by its name alone."""
    path = plain(call.read(_Folder).path, folder=True)

    def look(connection: Connection) -> list[tuple[str, bool, int]]:
        if not path:
            return list_artifacts_in(connection, SHARED)
        try:
            place = place_in(connection, path)
        except WireError as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":  # the protocol lists nothing where nothing is
                return []
            raise
        return list_artifacts_in(connection, place.owner, place.path)

    with call.store.ledger.read() as connection:
        found = look(connection)
    return _files([(name.rpartition("/")[2], is_folder, size) for name, is_folder, size in found])


def list_of_run(call: Call) -> dict[str, Any]:
    """What lies in a folder of a run, by its path from the run's root."""
    asked = call.read(_OfRun)
    run = asked.run_id or asked.run_uuid
    if not run:
        raise invalid("Missing value for required parameter 'run_id'. See the API docs for more information about request parameters.")
    path = plain(asked.path, folder=True)
    with call.store.ledger.read() as connection:
        owner, experiment, location = owner_in(connection, "run", run)
        found = list_artifacts_in(connection, owner, path)
    return {"root_uri": run_artifact_uri(experiment, location, run), **_files(found)}


async def get_of_run(call: Call, receive: Receive, send: Send) -> None:
    """A run's file."""
    path = asked_path(call, "path")
    run = asked_text(call, "run_id") or asked_text(call, "run_uuid")
    if not run:
        raise missing("Run with id=None not found")
    await _give_of(call, "run", run, path, receive, send)


async def get_of_model(call: Call, receive: Receive, send: Send) -> None:
    """A logged model's file."""
    if not asked_text(call, "artifact_file_path"):
        raise WireError("BAD_REQUEST", 'Request must include the "artifact_file_path" query parameter.')
    await _give_of(call, "logged-model", call.path["model_id"], asked_path(call, "artifact_file_path"), receive, send)


def upload_of_run(call: Call) -> bytes:
    """A small file for a run, as the protocol's own pages send it."""
    run, path = asked_text(call, "run_uuid"), asked_text(call, "path")
    for name, value in (("run_uuid", run), ("path", path)):
        if not value:
            raise invalid(f"Request must specify {name}.")
    named = plain(path)
    if not call.body:
        raise invalid("Request must specify data.")
    if len(call.body) > MAX_UPLOADED_BYTES:
        raise invalid("Artifact size is too large. Max size is 10MB.")
    with call.store.ledger.read() as connection:
        owner = owner_in(connection, "run", run)[0]
    digest, at_us = call.store.blobs.put(call.body), call.store.clock.now_us()
    file = Artifact(path=named, digest=digest, size_bytes=len(call.body), media_type=media_type_of(named), at_us=at_us)
    with _in_their_words():
        call.store.ledger.write(lambda c: write_files_in(c, owner, [file], actor=call.actor))
    return b""


def file_in(connection: Connection, place: Place, path: str) -> Artifact:
    """The file at a place, which the client called ``path``. Raises ``WireError``."""
    found = find_artifact_in(connection, place.owner, place.path)
    if found is not None:
        return found
    if list_artifacts_in(connection, place.owner, place.path):
        raise invalid(f"Artifact path refers to a directory, not a file: '{path}'")
    raise missing(f"No such artifact: '{path}'")


async def _give_of(call: Call, kind: str, identity: str, path: str, receive: Receive, send: Send) -> None:
    def find(connection: Connection) -> Artifact:
        owner, experiment, location = owner_in(connection, kind, identity)
        folder = identity if kind == "run" else f"models/{identity}"
        whole = proxied_path(run_artifact_uri(experiment, location, folder))
        return file_in(connection, Place(owner, path), path if whole is None else f"{whole}/{path}")

    await give(call.store, await call.look(find), call.headers, receive, send, head=call.method == "HEAD")


async def _body(call: Call, receive: Receive) -> tuple[str, int]:
    """The digest and size of a body that is durable now. What is small is put in one go."""
    piece, more = await next_piece(receive)
    blobs, limit = call.store.blobs, call.settings.max_artifact_bytes
    if not more and len(piece) <= min(limit, BATCH_BYTES):
        return await asyncio.get_running_loop().run_in_executor(None, blobs.put, piece), len(piece)
    held: list[tuple[bytes, bool]] = [(piece, more)]

    async def receiving() -> Any:
        if held:
            body, following = held.pop()
            return {"type": "http.request", "body": body, "more_body": following}
        return await receive()

    sink = await take(receiving, blobs.begin, limit)
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(None, sink.keep), sink.size_bytes
    finally:
        await loop.run_in_executor(None, sink.drop)


async def _told(call: Call, work: Callable[[Connection], T]) -> T:
    with _in_their_words():
        return await call.write(work)


class _in_their_words:  # noqa: N801 - reads as a statement
    """What the records refuse, as the protocol says it."""

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Conflict):
            raise invalid(error.message) from None
        if isinstance(error, Gone | Absent):  # between the look and the write
            raise missing(error.message) from None


def _files(found: list[tuple[str, bool, int]]) -> dict[str, Any]:
    files: list[dict[str, Any]] = []
    for path, is_folder, size in found:
        if "#" in path:  # the protocol's client refuses a whole listing over such a name, and could not ask for it
            continue
        files.append({"path": path, "is_dir": is_folder, **({"file_size": size} if size and not is_folder else {})})
    return {"files": files} if files else {}


def asked_text(call: Call, name: str) -> str:
    """A text of the query; "" when it is not there."""
    return call.query.get(name, [""])[0]


def asked_path(call: Call, name: str) -> str:
    """A plain path of the query. Raises ``WireError``."""
    path = asked_text(call, name)
    if not path:
        raise WireError("BAD_REQUEST", f"The request must say {name}.")
    return plain(path)


ROUTES = [
    *(Route(method, _ROOT + "/{artifact_path:path}", download, "stream") for method in ("GET", "HEAD")),
    Route("PUT", _ROOT + "/{artifact_path:path}", upload, "stream"),
    Route("DELETE", _ROOT + "/{artifact_path:path}", remove, "inline"),
    Route("GET", _ROOT, list_below),
    Route("GET", "2.0/mlflow/artifacts/list", list_of_run),
    *(Route(method, path, get_of_run, "stream") for method in ("GET", "HEAD") for path in ("/get-artifact", "2.0/mlflow/get-artifact")),
    Route("GET", "2.0/mlflow/logged-models/{model_id}/artifacts/files", get_of_model, "stream"),
    Route("POST", "2.0/mlflow/upload-artifact", upload_of_run),
]
