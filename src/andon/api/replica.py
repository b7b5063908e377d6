"""One replica of a supervised service: a front in a process of its own, which takes connections from a socket that it shares.

It talks with its supervisor over a socket pair, in lines of JSON: what it measures of its own work, a few times a second; and back,
``accept`` and ``drain``. It takes connections once its release is loaded. When it drains it takes no more, goes on answering on those it
has for ``LAME_DUCK_S`` (each answer says that it is the last there), and finishes what is in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from typing import Any

import msgspec
import uvicorn

from andon.api.accepting import Acceptor, Board
from andon.api.handover import MARK, note_holder, read_note, start_successor
from andon.api.members import Condition, Refusal, Report
from andon.api.serving_server import LOADING, SETTLED_S, DrainingServer, loop_factory, serve_front
from andon.autoscaling import Load
from andon.core.errors import AndonError
from andon.core.settings import Settings
from andon.serving.front import Front
from andon.serving.siblings import EVERY_S, Siblings, group_folder

log = logging.getLogger("andon.serving")
REPORT_S = 0.1
ORDERS = ("accept", "drain")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replica stands in its group."""

    settings: Settings
    service: str
    number: int
    slot: int
    grpc_port: int | None = None
    command: tuple[str, ...] = ()
    """How its supervisor was started."""


def run_replica(place: Place, listener: socket.socket, channel: socket.socket, board: Board) -> None:
    """Answer until told to drain. Where the stores cannot be opened, tell the supervisor why, and exit with 1."""
    from andon.store import open_store

    def server_of(config: uvicorn.Config, front: Front) -> DrainingServer:
        return GroupServer(config, front, listener, channel, board, place)

    try:
        opened = open_store(place.settings)
    except AndonError as error:
        with contextlib.suppress(OSError):
            channel.send(msgspec.json.encode(Report(state="stuck", why=error.message[:300], refusal=Refusal.of(error))) + b"\n")
        raise SystemExit(1) from error
    with opened as store, asyncio.Runner(loop_factory=loop_factory()) as runner:
        front = Front(store, place.service)
        runner.run(serve_front(front, place.settings, listener, lambda _: None, server_of, grpc_port=place.grpc_port))


class GroupServer(DrainingServer):
    """uvicorn's server without its own way to listen: it takes its share, and keeps its supervisor informed."""

    others_answer = True

    def __init__(
        self, config: uvicorn.Config, front: Front, listener: socket.socket, channel: socket.socket, board: Board, place: Place
    ) -> None:
        super().__init__(config, front)
        channel.setblocking(False)
        self._channel = channel
        self._listener = listener
        self._board = board
        self._place = place
        self._acceptor: Acceptor
        self._talk: asyncio.Task[None] | None = None
        self._meter = Meter(front)
        self._told_to_accept = False
        self._started_s = time.monotonic()
        self._ended = asyncio.Event()
        self._counting: asyncio.Task[None] | None = None
        try:
            front.siblings = Siblings(group_folder(place.settings.home, place.service, listener.fileno()), place.number)
        except OSError as error:
            log.warning("a scrape of replica %d is about it alone: %s", place.number, error)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Instead of listening: begin to report, and to accept when there is something to answer with."""
        await self.lifespan.startup()
        self._acceptor = Acceptor(self._listener, self._protocol, self._board, self._place.slot, lambda: len(self.server_state.connections))
        self.servers = [self._acceptor]  # type: ignore[list-item]  # uvicorn closes it and waits for it, no more
        self.started = True
        self._talk = self._loop.create_task(self._report())
        self._counting = self._loop.create_task(self._count())
        self._loop.add_reader(self._channel.fileno(), self._hear)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn; its supervisor hears of it until the end."""
        await super().shutdown(sockets=sockets)
        self._loop.remove_reader(self._channel.fileno())
        if self._talk is not None:
            self._talk.cancel()
        self._ended.set()
        if self._counting is not None:
            await self._counting

    async def _count(self) -> None:
        """Keep what was counted, for the siblings to show: now and then, and at the end."""
        siblings = self._front.siblings
        while siblings is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), EVERY_S)
            await siblings.keep(self._front.families)
            if self._ended.is_set():
                siblings.close()
                self._front.siblings = siblings = None

    def begin_end(self) -> None:
        """Take no more connections, then end in order."""
        self._acceptor.close()
        super().begin_end()

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn's own startup calls it
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=self._loop
        )

    def _hear(self) -> None:
        try:
            data = self._channel.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        orders = data.split()
        if not data:
            self._loop.remove_reader(self._channel.fileno())
            self.deserted()
        if b"accept" in orders:
            self._told_to_accept = True
            self._look()
        if b"drain" in orders:
            self.begin_end()

    def deserted(self) -> None:
        """The supervisor has gone without a word, so somebody killed it.

        Where it was a child of ``andon up``, which is to go on serving, this process answers until another supervisor has replicas that
        are ready, and starts that if no sibling does. Else it ends in order: who kills what they started themselves wants it to end.
        """
        log.warning("the supervisor of replica %d has gone", self._place.number)
        if MARK in os.environ and not self._front.draining:
            self._talk = self._loop.create_task(self._outlive())
        else:
            self.begin_end()

    async def _outlive(self) -> None:
        place, started = self._place, False
        while True:
            note = read_note(place.settings, place.service)
            if note_holder(note) is None:
                started = started or start_successor(place.settings, place.service, place.command, self._listener)
            elif note is not None and note.ready:
                self.begin_end()
                return
            self._look()
            await asyncio.sleep(REPORT_S)

    def _look(self) -> tuple[Condition, str]:
        front = self._front
        if front.draining:
            return "draining", ""
        why = front.not_ready()
        if (why is None or self._told_to_accept) and not self._acceptor.open:
            self._acceptor.start()
        if why is None:
            return "ready", ""
        loading = why.endswith(LOADING) or time.monotonic() - self._started_s < SETTLED_S
        return ("starting" if loading else "stuck"), why

    async def _report(self) -> None:
        said, last_s = "", 0.0
        while True:
            state, why = self._look()
            now_s = time.monotonic()
            if state != said or now_s - last_s >= REPORT_S:
                said, last_s = state, now_s
                self._acceptor.tell()
                report = Report(state=state, load=self._meter.read(), connections=len(self.server_state.connections), why=why[:300])
                with contextlib.suppress(OSError):  # a supervisor that is gone, or so slow that the pipe is full, misses one
                    self._channel.send(msgspec.json.encode(report) + b"\n")
            await asyncio.sleep(0.005 if state == "starting" else REPORT_S)


class Meter:
    """Reads a front's work: what waits, and which share of the time since the last reading went into answering."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._at_s = time.monotonic()
        self._cpu_s = time.process_time()
        self._ran_ns: dict[str, int] = {}
        self._answered = 0

    def read(self) -> Load:
        """The load since the last reading."""
        now_s, cpu_s = time.monotonic(), time.process_time()
        past_s = max(now_s - self._at_s, 1e-6)
        cpu = (cpu_s - self._cpu_s) / past_s
        held = self._front.held()
        answered = sum(self._front.metrics.requests.values())
        load = Load(
            work_s=sum(loaded.batcher.backlog_s() for loaded in held),
            busy=round(min(1.0, max(cpu, self._ran(held) / past_s)), 4),
            in_flight=sum(loaded.in_flight for loaded in held),
            answered=answered - self._answered,
        )
        self._at_s, self._cpu_s, self._answered = now_s, cpu_s, answered
        return load

    def _ran(self, held: list[Any]) -> float:
        """Seconds that batches ran since the last reading, over the places where they can run: also outside of this process."""
        seconds, known = 0.0, {}
        for loaded in held:
            ran_ns = sum(size.infer.ns for size in loaded.batcher.statistics.batch_sizes.values())
            seconds += max(0, ran_ns - self._ran_ns.get(loaded.address, 0)) / 1e9 / max(1, loaded.runner.slots)
            known[loaded.address] = ran_ns
        self._ran_ns = known
        return seconds
