"""The gRPC server's own life: its port, and calls that cross from its thread's loop to the replica's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from andon.core.errors import PortTaken
from andon.serving.front import Front
from andon.wire.openinference.grpc_server import Answer, Bridge, start
from andon.wire.openinference.messages import SERVICE, messages
from tests.unit.serving.line import Line
from tests.unit.serving.splitting import with_front


def test_a_port_that_is_taken_is_said(line: Line) -> None:
    async def use(front: Front, source: object) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            with pytest.raises(PortTaken, match="--grpc-port"):
                await start(front, host="127.0.0.1", port=holder.getsockname()[1], max_bytes=1000)

    with_front(line, use)


def test_a_front_without_a_release_says_why_and_then_answers(line: Line) -> None:
    kinds = messages()

    def ask(port: int, method: str, **fields: Any) -> Any:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            data = channel.unary_unary(f"/{SERVICE}/{method}")(kinds[f"{method}Request"](**fields).SerializeToString(), timeout=10)
        return kinds[f"{method}Response"].FromString(data)

    async def use(front: Front, source: object) -> None:
        server = await start(front, host="127.0.0.1", port=0, max_bytes=1000)
        try:
            assert (await asyncio.to_thread(ask, server.port, "ServerLive")).live
            assert not (await asyncio.to_thread(ask, server.port, "ServerReady")).ready
            assert not (await asyncio.to_thread(ask, server.port, "ModelReady", name="bikes")).ready
            (model,) = (await asyncio.to_thread(ask, server.port, "RepositoryIndex")).models
            assert (model.state, "points to no release" in model.reason) == ("UNAVAILABLE", True)
            assert not (await asyncio.to_thread(ask, server.port, "RepositoryIndex", ready=True)).models
            with pytest.raises(grpc.RpcError) as caught:
                await asyncio.to_thread(ask, server.port, "ModelMetadata", name="bikes")
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # type: ignore[union-attr]
            line.point(line.onnx())
            assert await front.wait_ready(10)
            assert (await asyncio.to_thread(ask, server.port, "ModelReady", name="bikes")).ready
        finally:
            await server.stop(0)

    with_front(line, use)


def beside(use: Callable[[Bridge], Any]) -> None:
    """Run ``use`` with a bridge to a loop that runs in another thread."""
    home = asyncio.new_event_loop()
    thread = threading.Thread(target=home.run_forever)
    thread.start()
    try:
        asyncio.run(use(Bridge(home)))
    finally:
        home.call_soon_threadsafe(home.stop)
        thread.join()
        home.close()


def test_a_call_that_is_cancelled_is_cancelled_on_the_other_side() -> None:
    began, ended = threading.Event(), threading.Event()

    async def work() -> Answer:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise
        return Answer()

    async def use(bridge: Bridge) -> None:
        call = asyncio.create_task(bridge.run(work))
        await asyncio.to_thread(began.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(ended.wait, 10)

    beside(use)


def test_what_the_other_side_returns_or_gives_up() -> None:
    async def answers() -> Answer:
        return Answer(b"x")

    async def gives_up() -> Answer:
        raise asyncio.CancelledError

    async def use(bridge: Bridge) -> None:
        assert await bridge.run(answers) == Answer(b"x")
        assert (await bridge.run(gives_up)).code == "CANCELLED"

    beside(use)
