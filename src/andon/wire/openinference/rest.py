"""The protocol over HTTP, without the HTTP: a method, a path and a body in; a status, headers and a body out.

Beside the Open Inference Protocol v2 proper: the binary tensor data extension, the repository, the statistics and the configuration as
Triton has them, and plain answers to what its clients ask of tracing, logging and shared memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from andon.core.errors import AndonError, InvalidInput, NotFound
from andon.serving.front import Front
from andon.serving.validation import parse_json
from andon.wire.openinference import describing
from andon.wire.openinference.answers import infer_answer
from andon.wire.openinference.errors import said
from andon.wire.openinference.models import Asker, Inference, Models
from andon.wire.openinference.requests import parse_infer

Headers = list[tuple[bytes, bytes]]
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_encode = msgspec.json.Encoder().encode
_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
MAX_HEADER_DIGITS = 18


class Reply(msgspec.Struct, frozen=True):
    """An answer."""

    status: int
    body: bytes
    headers: Headers


class Asked(msgspec.Struct, frozen=True):
    """A request; ``read`` gives its body and is awaited only when the path is right."""

    method: str
    path: str
    read: Callable[[], Awaitable[bytes]]


class Rest:
    """Answers ``/v2`` for one front."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._models = Models(front)
        self._version = version("andon")

    async def answer(self, asked: Asked) -> Reply:
        """The answer to all but ``POST …/infer``. Raises the ``AndonError`` that ``error_body`` renders."""
        if self.infer_of(asked.path) is not None:
            return _wrong_method("POST")
        try:
            return await self._described(asked)
        except AndonError as error:
            self._front.metrics.refused("", error.code)
            raise

    async def _described(self, asked: Asked) -> Reply:
        parts = self._parts(asked.path)
        route = next((route for pattern, route in _ROUTES if _matches(pattern, parts)), None)
        if route is None:
            raise NotFound("there is no such path in the Open Inference Protocol", next_step="see GET /v2", got=asked.path[:100])
        method = "GET" if asked.method == "HEAD" else asked.method
        if method not in route:
            return _wrong_method(", ".join(sorted(route)))
        body = await asked.read() if method == "POST" else b""
        return _json(route[method](self, parts, body))

    def _parts(self, path: str) -> list[str]:
        """What follows ``/v2``; the name of a service is one part, also where it has slashes."""
        parts = path.strip("/").split("/")[1:]
        name = self._front.service.split("/")
        if len(name) > 1 and "models" in parts[:2]:
            at = parts.index("models") + 1
            if parts[at : at + len(name)] == name:
                parts[at : at + len(name)] = [self._front.service]
        return parts

    # --- infer

    def infer_of(self, path: str) -> tuple[str, str] | None:
        """The model and the version ("" for none) that a path asks to infer; None for another path."""
        parts = self._parts(path)
        return _model(parts[:-1]) if parts and parts[-1] == "infer" and _is_model(parts[:-1]) else None

    def check(self, name: str, version: str) -> None:
        """Raises ``NotFound`` or ``Unavailable`` for a model that cannot answer, whatever it is asked."""
        try:
            self._models.loaded(name, version)
        except AndonError as error:
            self._front.metrics.refused("", error.code)
            raise

    def read(self, name: str, version: str, body: bytes, header_length: bytes | None, asker: Callable[[], Asker]) -> Inference:
        """A request to ``infer``, for the front to answer next. ``header_length`` is ``Inference-Header-Content-Length`` as it came.

        Raises ``InvalidInput``, ``NotFound`` or ``Unavailable``, which has been counted, likewise when ``asker`` does.
        """
        try:
            return self._models.prepare(name, version, parse_infer(body, _header_length(header_length)), asker())
        except AndonError as error:
            self._front.metrics.refused("", error.code)
            raise

    def answered(self, inference: Inference, outputs: Mapping[str, Any]) -> tuple[Headers, bytes]:
        """The headers and the body. Raises ``ModelFailed``."""
        body, header_length = infer_answer(self._models.outcome(inference, outputs))
        headers = [inference.choice.loaded.header, (b"x-request-id", inference.request_id.encode())]
        if header_length is None:
            return [_JSON, *headers], body
        return [_BINARY, (b"inference-header-content-length", b"%d" % header_length), *headers], body

    # --- what the server and its models say of themselves

    def _server(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        return describing.server_metadata(self._version)

    def _live(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        return {"live": True}

    def _ready(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        self._models.server_ready()
        return {"ready": True}

    def _model_ready(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        name, number = _model(parts[:-1])
        self._models.ready(name, number)
        return {"name": name, "ready": True}

    def _metadata(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        name, number = _model(parts)
        loaded = self._models.loaded(name, number)
        return describing.model_metadata(name, [loaded.version], loaded.signature)

    def _config(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        name, number = _model(parts[:-1])
        return describing.model_config(name, self._models.loaded(name, number))

    def _statistics(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        name, number = _model(parts[:-1]) if len(parts) > 2 else (self._front.service, "")
        return {"model_stats": [describing.model_statistics(name, loaded) for loaded in self._models.meant(name, number)]}

    # --- the repository

    def _index(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        only_ready = _object(body).get("ready", False)
        if not isinstance(only_ready, bool):
            raise InvalidInput("`ready` is true or false", field="ready", got=repr(only_ready)[:40])
        return [{k: v for k, v in row.items() if v or k != "reason"} for row in self._models.index(only_ready=only_ready)]

    def _load(self, parts: Sequence[str], body: bytes) -> Any:
        self._models.load(parts[2], configured=bool(_object(body).get("parameters")))
        return {}

    def _unload(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        return self._models.unload(parts[2])

    # --- Triton's tracer, log and shared memory, which are not here

    def _tracing(self, parts: Sequence[str], body: bytes) -> Any:
        if parts[0] == "models":
            self._models.loaded(parts[1])
        _refuse_settings(body, "traces are OpenTelemetry's here, and set in andon.toml")
        return describing.TRACE_SETTINGS

    def _logging(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        _refuse_settings(body, "the log goes to stderr and is not set by clients")
        return describing.LOG_SETTINGS

    def _regions(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        if len(parts) == 4:
            raise NotFound("there is no such shared-memory region", next_step="send tensors as bytes", got=parts[2][:100])
        return []

    def _register(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        raise InvalidInput("shared memory is not spoken here", field=parts[2][:100], next_step="send tensors as bytes")

    def _unregister(self, parts: Sequence[str], body: bytes) -> Any:  # noqa: ARG002
        return {}  # there are no regions, so none is left


_Handler = Callable[[Rest, Sequence[str], bytes], Any]
_MEMORY = ("systemsharedmemory", "cudasharedmemory")


def _routes() -> list[tuple[tuple[str, ...], dict[str, _Handler]]]:
    routes: dict[str, dict[str, _Handler]] = {
        "": {"GET": Rest._server},
        "health/live": {"GET": Rest._live},
        "health/ready": {"GET": Rest._ready},
        "models/stats": {"GET": Rest._statistics},
        "models/*": {"GET": Rest._metadata},
        "models/*/versions/*": {"GET": Rest._metadata},
        "repository/index": {"POST": Rest._index},
        "repository/models/*/load": {"POST": Rest._load},
        "repository/models/*/unload": {"POST": Rest._unload},
        "trace/setting": {"GET": Rest._tracing, "POST": Rest._tracing},
        "models/*/trace/setting": {"GET": Rest._tracing, "POST": Rest._tracing},
        "logging": {"GET": Rest._logging, "POST": Rest._logging},
    }
    for model in ("models/*", "models/*/versions/*"):
        routes[f"{model}/ready"] = {"GET": Rest._model_ready}
        routes[f"{model}/config"] = {"GET": Rest._config}
        routes[f"{model}/stats"] = {"GET": Rest._statistics}
    for memory in _MEMORY:
        routes[f"{memory}/status"] = routes[f"{memory}/region/*/status"] = {"GET": Rest._regions}
        routes[f"{memory}/region/*/register"] = {"POST": Rest._register}
        routes[f"{memory}/unregister"] = routes[f"{memory}/region/*/unregister"] = {"POST": Rest._unregister}
    return [(tuple(path.split("/")) if path else (), methods) for path, methods in routes.items()]


_ROUTES = _routes()


def _matches(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    return len(pattern) == len(parts) and all(part in ("*", there) for part, there in zip(pattern, parts, strict=True))


def _is_model(parts: Sequence[str]) -> bool:
    return _matches(("models", "*"), parts) or _matches(("models", "*", "versions", "*"), parts)


def _model(parts: Sequence[str]) -> tuple[str, str]:
    """``models/NAME`` or ``models/NAME/versions/V`` as name and version."""
    return parts[1], parts[3] if len(parts) == 4 else ""


def _header_length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > MAX_HEADER_DIGITS:
        raise InvalidInput("this is a number of bytes", field="inference-header-content-length", got=value.decode("latin-1")[:40])
    return int(value)


def _object(body: bytes) -> dict[str, Any]:
    """A body that may be left out."""
    value = parse_json(body, _anything) if body.strip() else {}
    if not isinstance(value, dict):
        raise InvalidInput("the body is an object, or nothing", field="body")
    return value


def _refuse_settings(body: bytes, why: str) -> None:
    changed = next(iter(_object(body)), None)
    if changed is not None:
        raise InvalidInput(why, field=changed[:100], next_step="leave it out")


def _json(value: Any) -> Reply:
    return Reply(200, _encode(value), [_JSON])


def _wrong_method(allowed: str) -> Reply:
    return Reply(405, _encode({"error": f"this path takes {allowed}"}), [_JSON, (b"allow", allowed.encode())])


def error_body(error: AndonError) -> bytes:
    """The protocol's error: one string."""
    return _encode({"error": said(error)})
