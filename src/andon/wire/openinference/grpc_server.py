"""``inference.GRPCInferenceService``. Import this only when a gRPC port is asked for.

grpc.aio runs in a thread with an event loop of its own, and hands the bytes of each call to the replica's loop. On the replica's own loop
it accepts one call in each turn, so that batches are of one request, whatever waits; beside it, what arrives while the model is busy is
taken together (measured at 64 calls at a time: twice the calls a second at half the processor time; alone, a call costs the same).

A call's deadline is the request's; a call that is cancelled leaves the queue. Messages are as large as ``max_body_bytes`` at most, also
once they are unpacked. In a stream each request has one answer, in order, and up to ``STREAM_AHEAD`` of them run at a time, so that a
stream is batched too; an error is the answer of its own request, and the stream goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from importlib.metadata import version
from typing import Any

import msgspec

from andon.core.errors import AndonError, InvalidInput, NotFound, PortTaken
from andon.serving.front import Front
from andon.serving.validation import check_request_id
from andon.wire.openinference import describing
from andon.wire.openinference.errors import grpc_code, said
from andon.wire.openinference.grpc_translate import fill, read_infer, write_config, write_infer
from andon.wire.openinference.messages import SERVICE, messages
from andon.wire.openinference.models import MODEL_INFER, Asker, Models

STREAM_AHEAD = 64
MAX_STREAMS = 1024
"""Calls at a time on one connection."""
MAX_NAME = 200
"""Characters of a name that are looked at."""
_METADATA = frozenset(("x-request-id", "x-andon-key", "x-andon-client", "traceparent"))
log = logging.getLogger("andon.serving")

Call = Callable[[Any], Any]


class GrpcServer:
    """A listening server. Make it with ``start``, on the replica's loop."""

    def __init__(self, front: Front, address: str, options: list[tuple[str, int]]) -> None:
        self.port = 0
        self._home = asyncio.get_running_loop()
        self._service = Service(front, self._home)
        self._address = address
        self._options = options
        self._started: asyncio.Future[int] = self._home.create_future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None
        self._ended = asyncio.Event()  # belongs to the thread's loop
        self._thread = threading.Thread(target=self._run, name="andon-grpc", daemon=True)

    async def start(self) -> None:
        """Listen. Raises what ``start`` does."""
        self._thread.start()
        self.port = await self._started

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and give those that run ``grace_s`` to end."""
        assert self._loop is not None
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._server.stop(grace_s), self._loop))
        self._loop.call_soon_threadsafe(self._ended.set)
        await asyncio.to_thread(self._thread.join, 5.0)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        import grpc.aio

        self._loop = asyncio.get_running_loop()
        try:
            self._server = grpc.aio.server(options=self._options)
            self._server.add_generic_rpc_handlers((self._service.handlers(),))
            port = self._server.add_insecure_port(self._address)
            await self._server.start()
        except Exception as error:  # noqa: BLE001  # the replica's loop waits to hear it
            if isinstance(error, RuntimeError):  # what gRPC raises for a port that it does not get
                taken = f"gRPC cannot listen on {self._address}"
                error = PortTaken(taken, address=self._address, next_step="choose another with --grpc-port")
            self._home.call_soon_threadsafe(self._started.set_exception, error)
            return
        self._home.call_soon_threadsafe(self._started.set_result, port)
        await self._ended.wait()


async def start(front: Front, *, host: str, port: int, max_bytes: int, reuse_port: bool = False) -> GrpcServer:
    """Listen. Raises ``PortTaken``, or ``InvalidInput`` when the extra ``andon[grpc]`` is not installed."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # runners are started by fork and exec, and use none of it
    try:
        import grpc.aio  # noqa: F401  # here, where its absence is said well
    except ImportError:
        raise InvalidInput("gRPC needs grpcio and protobuf", field="grpc-port", next_step="install andon[grpc]") from None
    options = [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
    ]
    address = f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"
    server = GrpcServer(front, address, options)
    await server.start()
    return server


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


class Answer(msgspec.Struct, frozen=True):
    """A call's answer: a message's bytes, or the name of a gRPC status and what to say."""

    data: bytes = b""
    code: str | None = None
    said: str = ""


class Bridge:
    """From the thread's loop to the replica's, and back."""

    def __init__(self, home: asyncio.AbstractEventLoop) -> None:
        self._home = home

    async def run(self, make: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """What a coroutine that runs on the replica's loop returns; it is cancelled when this is."""
        here = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = here.create_future()
        tasks: list[asyncio.Task[Answer]] = []

        def begin() -> None:
            tasks.append(self._home.create_task(make()))
            tasks[0].add_done_callback(ended)

        def ended(task: asyncio.Task[Answer]) -> None:
            made = Answer(code="CANCELLED", said="the call was cancelled") if task.cancelled() else task.result()
            with contextlib.suppress(RuntimeError):  # the thread has ended
                here.call_soon_threadsafe(give, made)

        def give(made: Answer) -> None:
            if not answer.done():
                answer.set_result(made)

        self._home.call_soon_threadsafe(begin)
        try:
            return await answer
        except asyncio.CancelledError:
            self._home.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            raise


class Service:
    """The calls of one front. Each is bytes in and bytes out, so that garbage is our error and not the library's.

    ``handlers`` and what they call directly run on the thread's loop; all else runs on the replica's, whose front they ask.
    """

    def __init__(self, front: Front, home: asyncio.AbstractEventLoop) -> None:
        self._front = front
        self._home = home
        self._bridge = Bridge(home)
        self._models = Models(front)
        self._kinds = messages()
        self._version = version("andon")

    def handlers(self) -> Any:
        """What gRPC routes by."""
        import grpc

        calls = {name: grpc.unary_unary_rpc_method_handler(self._unary(kind, call)) for name, (kind, call) in self._calls().items()}
        calls["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._model_infer)
        calls["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._model_stream_infer)
        return grpc.method_handlers_generic_handler(SERVICE, calls)

    def _calls(self) -> dict[str, tuple[str, Call]]:
        calls: dict[str, tuple[str, Call]] = {
            name: (f"{name}Request", call)
            for name, call in (
                ("ServerLive", lambda _: self._kinds["ServerLiveResponse"](live=True)),
                ("ServerReady", self._server_ready),
                ("ModelReady", self._model_ready),
                ("ServerMetadata", self._server_metadata),
                ("ModelMetadata", self._model_metadata),
                ("ModelConfig", self._model_config),
                ("ModelStatistics", self._model_statistics),
                ("RepositoryIndex", self._index),
                ("RepositoryModelLoad", self._load),
                ("RepositoryModelUnload", self._unload),
                ("TraceSetting", self._tracing),
                ("LogSettings", self._logging),
            )
        }
        for memory in ("SystemSharedMemory", "CudaSharedMemory"):
            calls[f"{memory}Status"] = ("SharedMemoryRequest", self._regions)
            calls[f"{memory}Register"] = ("SharedMemoryRequest", self._register)
            calls[f"{memory}Unregister"] = ("SharedMemoryRequest", lambda _: self._kinds["SharedMemoryResponse"]())
        return calls

    # --- on the thread's loop

    def _unary(self, kind: str, call: Call) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(data: bytes, context: Any) -> bytes:
            return await _give(await self._bridge.run(lambda: self._describe(kind, call, data)), context)

        return handle

    async def _model_infer(self, data: bytes, context: Any) -> bytes:
        facts = _facts(context)
        return await _give(await self._bridge.run(lambda: self._infer(data, facts)), context)

    async def _model_stream_infer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        running: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue(STREAM_AHEAD)
        reader = asyncio.create_task(self._read_stream(requests, _facts(context), running))
        try:
            while (task := await running.get()) is not None:
                yield (await task).data
        finally:
            reader.cancel()
            while not running.empty():
                left = running.get_nowait()
                if left is not None:
                    left.cancel()

    async def _read_stream(self, requests: AsyncIterator[bytes], facts: _Facts, running: asyncio.Queue[Any]) -> None:
        try:
            async for data in requests:
                await running.put(asyncio.create_task(self._bridge.run(lambda data=data: self._streamed(data, facts))))  # type: ignore[misc]
        finally:
            await running.put(None)

    # --- on the replica's loop

    async def _describe(self, kind: str, call: Call, data: bytes) -> Answer:
        try:
            return Answer(call(self._parse(kind, data)).SerializeToString())
        except AndonError as error:
            self._front.metrics.refused("", error.code)
            return _refusal(error)
        except Exception as error:  # noqa: BLE001  # a defect becomes the caller's INTERNAL, and its traceback goes to the log
            return _defect(error)

    def _parse(self, kind: str, data: bytes) -> Any:
        from google.protobuf.message import DecodeError

        try:
            return self._kinds[kind].FromString(data)
        except DecodeError:
            raise InvalidInput(f"these bytes are no {kind}", field="message") from None

    async def _infer(self, data: bytes, facts: _Facts) -> Answer:
        try:
            return Answer((await self._inferred(data, facts)).SerializeToString())
        except AndonError as error:
            return _refusal(error)
        except Exception as error:  # noqa: BLE001  # a defect becomes the caller's INTERNAL, and its traceback goes to the log
            return _defect(error)

    async def _streamed(self, data: bytes, facts: _Facts) -> Answer:
        answer = self._kinds["ModelStreamInferResponse"]()
        try:
            made = await self._inferred(data, facts)
            made.parameters["triton_final_response"].bool_param = True
            answer.infer_response.CopyFrom(made)
        except AndonError as error:
            answer.error_message = _refusal(error).said
        except Exception as error:  # noqa: BLE001  # a defect is this request's answer, and the stream goes on
            answer.error_message = _defect(error).said
        return Answer(answer.SerializeToString())

    async def _inferred(self, data: bytes, facts: _Facts) -> Any:
        try:
            asker = facts.asker(self._home.time(), len(data))
            message = self._parse("ModelInferRequest", data)
            inference = self._models.prepare(message.model_name, message.model_version, read_infer(message), asker)
        except AndonError as error:
            self._front.metrics.refused("", error.code)
            raise
        outputs = await self._front.answer(inference)
        return write_infer(self._kinds, self._models.outcome(inference, outputs))

    # --- what the server and its models say of themselves

    def _server_ready(self, message: Any) -> Any:  # noqa: ARG002
        return self._kinds["ServerReadyResponse"](ready=self._front.not_ready() is None)

    def _model_ready(self, message: Any) -> Any:
        try:
            self._models.ready(message.name, message.version)
        except AndonError as error:
            if error.status != 503:
                raise
            return self._kinds["ModelReadyResponse"](ready=False)
        return self._kinds["ModelReadyResponse"](ready=True)

    def _server_metadata(self, message: Any) -> Any:  # noqa: ARG002
        return fill(self._kinds["ServerMetadataResponse"](), describing.server_metadata(self._version))

    def _model_metadata(self, message: Any) -> Any:
        loaded = self._models.loaded(message.name, message.version)
        values = describing.model_metadata(message.name, [loaded.version], loaded.signature)
        return fill(self._kinds["ModelMetadataResponse"](), values)

    def _model_config(self, message: Any) -> Any:
        loaded = self._models.loaded(message.name, message.version)
        return write_config(self._kinds, describing.model_config(message.name, loaded))

    def _model_statistics(self, message: Any) -> Any:
        name = message.name or self._front.service
        rows = [describing.model_statistics(name, loaded) for loaded in self._models.meant(name, message.version)]
        return fill(self._kinds["ModelStatisticsResponse"](), {"model_stats": rows})

    # --- the repository

    def _index(self, message: Any) -> Any:
        return fill(self._kinds["RepositoryIndexResponse"](), {"models": self._models.index(only_ready=message.ready)})

    def _load(self, message: Any) -> Any:
        self._models.load(message.model_name, configured=bool(message.parameters))
        return self._kinds["RepositoryModelLoadResponse"]()

    def _unload(self, message: Any) -> Any:
        self._models.unload(message.model_name)
        return self._kinds["RepositoryModelUnloadResponse"]()

    # --- Triton's tracer, log and shared memory, which are not here

    def _tracing(self, message: Any) -> Any:
        if message.model_name:
            self._models.loaded(message.model_name)
        if message.settings:
            raise InvalidInput("traces are OpenTelemetry's here, and set in andon.toml", field=next(iter(message.settings))[:100])
        answer = self._kinds["TraceSettingResponse"]()
        for name, value in describing.TRACE_SETTINGS.items():
            answer.settings[name].value.extend(value if isinstance(value, list) else [value])
        return answer

    def _logging(self, message: Any) -> Any:
        if message.settings:
            raise InvalidInput("the log goes to stderr and is not set by clients", field=next(iter(message.settings))[:100])
        answer = self._kinds["LogSettingsResponse"]()
        for name, value in describing.LOG_SETTINGS.items():
            field = "bool_param" if isinstance(value, bool) else "uint32_param" if isinstance(value, int) else "string_param"
            setattr(answer.settings[name], field, value)
        return answer

    def _regions(self, message: Any) -> Any:
        if message.name:
            raise NotFound("there is no such shared-memory region", next_step="send tensors as bytes", got=message.name[:100])
        return self._kinds["SharedMemoryResponse"]()

    def _register(self, message: Any) -> Any:
        raise InvalidInput("shared memory is not spoken here", field=message.name[:100], next_step="send tensors as bytes")


class _Facts(msgspec.Struct, frozen=True):
    """What a call says beside its message; its metadata mean what the headers of the same names do over HTTP."""

    remaining_s: float | None
    peer: str
    metadata: dict[str, str]

    def asker(self, now_s: float, size_bytes: int) -> Asker:
        """Who calls. ``now_s`` is the replica's loop's time. Raises ``InvalidInput``."""
        request_id, key = self.metadata.get("x-request-id"), self.metadata.get("x-andon-key")
        return Asker(
            request_id=None if request_id is None else check_request_id(request_id),
            key=key,
            deadline_s=None if self.remaining_s is None else now_s + self.remaining_s,
            client=self.metadata.get("x-andon-client", self.peer)[:MAX_NAME],
            size_bytes=size_bytes,
            traceparent=self.metadata["traceparent"].encode() if "traceparent" in self.metadata else None,
            face=MODEL_INFER,
        )


def _facts(context: Any) -> _Facts:
    metadata = {name: value for name, value in context.invocation_metadata() or () if name in _METADATA and isinstance(value, str)}
    return _Facts(context.time_remaining(), context.peer().rpartition(":")[0], metadata)


async def _give(answer: Answer, context: Any) -> bytes:
    """The bytes of an answer, or the end of the call with its status."""
    if answer.code is not None:
        import grpc

        await context.abort(getattr(grpc.StatusCode, answer.code), answer.said)
    return answer.data


def _refusal(error: AndonError) -> Answer:
    return Answer(code=grpc_code(error), said=said(error))


def _defect(error: Exception) -> Answer:
    log.error("a defect while answering a gRPC call", exc_info=error)
    return _refusal(AndonError(f"this is a defect of Andon's: {type(error).__name__}"))
