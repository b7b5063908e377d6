"""Large files in parts, several at once: each part goes to an address of our own that only its sender knows."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from andon.core.errors import Conflict, InvalidInput, NotFound
from andon.store.blobs.uploads import MAX_PARTS, Uploads
from andon.wire.mlflow.artifact_paths import Place, place_in, plain
from andon.wire.mlflow.artifact_streams import Gone, Receive, Send, take, too_large
from andon.wire.mlflow.artifacts import name_file
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing

_MPU = "2.0/mlflow-artifacts/mpu"
_UNASKED = "Missing value for required parameter '{}'. See the API docs for more information about request parameters."


class _Create(msgspec.Struct):
    path: str = ""
    num_parts: int = 1


class _Part(msgspec.Struct):
    part_number: int = 0
    etag: str = ""


class _Finish(msgspec.Struct):
    path: str = ""
    upload_id: str = ""
    parts: list[_Part] | None = None


async def create(call: Call) -> dict[str, Any]:
    """Begin: an id, and where to send each part."""
    asked = call.read(_Create)
    place = await _place(call, asked.path)
    if not 1 <= asked.num_parts <= MAX_PARTS:
        raise invalid(f"Invalid value for parameter 'num_parts': it is 1 to {MAX_PARTS}")
    uploads = _uploads(call)
    identity = await asyncio.get_running_loop().run_in_executor(None, uploads.begin, msgspec.json.encode(list(place)))
    host = call.headers.get(b"host", b"").decode("latin-1")  # one that the guard has let in
    url = f"{call.scope.get('scheme', 'http')}://{host}/api/{_MPU}/part/{identity}"
    credentials = [{"url": f"{url}/{number}", "part_number": number, "headers": {}} for number in range(1, asked.num_parts + 1)]
    return {"upload_id": identity, "credentials": credentials}


async def put_part(call: Call, receive: Receive, send: Send) -> None:
    """Take one part; its ETag is the digest of its bytes."""
    identity, number = call.path["upload_id"], call.path["part_number"]
    if not (number.isascii() and number.isdigit() and len(number) <= 5):
        raise invalid("Invalid value for parameter 'part_number'")
    uploads, loop = _uploads(call), asyncio.get_running_loop()
    limit = call.settings.max_artifact_bytes
    left = limit - await loop.run_in_executor(None, uploads.size_bytes, identity)
    if left <= 0 or int(call.headers.get(b"content-length", b"0")) > left:
        raise too_large(limit)
    try:
        sink = await take(receive, lambda: uploads.part(identity, int(number)), left)
        try:
            etag = await loop.run_in_executor(None, sink.keep)
        finally:
            await loop.run_in_executor(None, sink.drop)
    except Gone:
        return
    except NotFound as error:
        raise missing(error.message) from None
    except InvalidInput as error:
        raise invalid(error.message) from None
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0"), (b"etag", f'"{etag}"'.encode())]})
    await send({"type": "http.response.body", "body": b""})


async def complete(call: Call) -> dict[str, Any]:
    """Join the parts in their order; durable, and named, when the answer comes."""
    asked = call.read(_Finish)
    if not asked.parts:
        raise invalid(_UNASKED.format("parts"))
    parts = [(part.part_number, part.etag.strip('"')) for part in asked.parts]
    numbers = [number for number, _ in parts]
    if numbers != sorted(set(numbers)) or not numbers[0] >= 1 or numbers[-1] > MAX_PARTS:
        raise invalid("Invalid value for parameter 'parts': they come by rising part_number, each once")
    place = await _checked(call, asked)
    uploads, loop = _uploads(call), asyncio.get_running_loop()
    try:
        digest, size_bytes = await loop.run_in_executor(None, _join, call, uploads, asked.upload_id, parts)
    except Conflict as error:
        raise invalid(f"{error.message} (part {error.fields.get('part_number')})") from None
    await name_file(call, place, digest, size_bytes)
    await loop.run_in_executor(None, uploads.forget, asked.upload_id)
    return {}


async def abort(call: Call) -> dict[str, Any]:
    """Forget the upload and its parts."""
    asked = call.read(_Finish)
    await _checked(call, asked)
    await asyncio.get_running_loop().run_in_executor(None, _uploads(call).forget, asked.upload_id)
    return {}


async def no_presigned_download(_: Call) -> None:
    """There is no other place to fetch a file from than this server."""
    raise WireError("NOT_IMPLEMENTED", "Multipart download is not supported for the current artifact repository")


async def no_presigned_urls(call: Call) -> None:
    """Files go through this server."""
    word = "upload" if call.scope["path"].endswith("upload-url") else "download"
    raise invalid(f"Presigned {word} is not supported for proxied artifact storage (artifact URI scheme: mlflow-artifacts).")


def _join(call: Call, uploads: Uploads, identity: str, parts: list[tuple[int, str]]) -> tuple[str, int]:
    incoming = call.store.blobs.begin()
    try:
        for piece in uploads.pieces(identity, parts):
            incoming.write([piece])
            if incoming.size_bytes > call.settings.max_artifact_bytes:
                raise too_large(call.settings.max_artifact_bytes)
        return incoming.keep(), incoming.size_bytes
    finally:
        incoming.drop()


async def _place(call: Call, file: str) -> Place:
    """The file ``file`` in the folder that the request's path names: of ``file``, which is a path on the client, only its name counts."""
    if not file:
        raise invalid(_UNASKED.format("path"))
    folder = plain(call.path["artifact_path"], folder=True)
    path = plain("/".join(part for part in (folder, file.replace("\\", "/").rpartition("/")[2]) if part))
    place = await call.look(lambda c: place_in(c, path))
    if not place.path:
        raise invalid("Invalid path")
    return place


async def _checked(call: Call, asked: _Finish) -> Place:
    """The place of the upload that is asked for, if it is the one that it was begun for."""
    place = await _place(call, asked.path)
    try:
        facts = await asyncio.get_running_loop().run_in_executor(None, _uploads(call).facts, asked.upload_id)
    except NotFound as error:
        raise missing(error.message) from None
    if facts != msgspec.json.encode(list(place)):
        raise invalid("Invalid value for parameter 'upload_id': it was begun for another file")
    return place


def _uploads(call: Call) -> Uploads:
    return Uploads(call.store.blobs.uploads_folder())


ROUTES = [
    Route("POST", _MPU + "/create/{artifact_path:path}", create, "inline"),
    Route("PUT", _MPU + "/part/{upload_id}/{part_number}", put_part, "stream"),
    Route("POST", _MPU + "/complete/{artifact_path:path}", complete, "inline"),
    Route("POST", _MPU + "/abort/{artifact_path:path}", abort, "inline"),
    Route("GET", "2.0/mlflow-artifacts/presigned/{artifact_path:path}", no_presigned_download, "inline"),
    Route("POST", "2.0/mlflow/artifacts/presigned-upload-url", no_presigned_urls, "inline"),
    Route("POST", "2.0/mlflow/artifacts/presigned-download-url", no_presigned_urls, "inline"),
]
