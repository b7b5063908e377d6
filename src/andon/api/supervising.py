"""Several replicas of a service behind one listening socket, and the process that looks after them.

The supervisor holds the socket and answers nothing itself. It keeps as many replicas as it wants (a fixed number, or what
``andon.autoscaling`` decides from what they report), starts one that dies again with backoff, and none at all while the service sleeps:
connections then wait in the socket's queue, and the first of them starts a replica.

**Upgrade** (SIGHUP): a new zygote is started, from the program as it is installed now; replicas are forked from it; once they are ready the
old ones drain; then this process replaces its own program too, and keeps its process id, the socket and the replicas. When the new ones do
not become ready, nothing changes, and the note says why.

It has one thread that matters and waits in one place; the ledger is another thread's business (``scaling.Journal``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from andon.api.accepting import ABSENT, SLOTS, Board
from andon.api.handover import Handover, ReplicaLeft, replace_program, take_signals, write_note
from andon.api.listening import DRAIN_S, LAME_DUCK_S, announce_grpc, terminal_gone, url_of
from andon.api.members import Member, State, Zygote
from andon.api.scaling import Journal
from andon.api.zygote import Order, Plan, start_zygote
from andon.autoscaling import Observation, ScalingState, ServingPolicy, bounded, decide
from andon.core.errors import AndonError
from andon.core.settings import Settings

log = logging.getLogger("andon.supervising")
LOOK_S = 0.1
DECIDE_S = 0.25
SILENT_S = 1.0
"""A replica that was not heard from for so long counts as wholly busy."""
HUNG_S = 30.0
"""One that was not heard from for so long is killed, and another started."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S, STEADY_S = 0.2, 30.0, 30.0
HELLO_S, READY_S = 60.0, 180.0
"""How long an upgrade waits for the new program to start, and for its replicas to be ready."""
STOP_S = DRAIN_S + LAME_DUCK_S + 5.0


class Supervisor:
    """Looks after one service's replicas until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        service: str,
        listener: socket.socket,
        policy: ServingPolicy,
        *,
        bounds: tuple[int, int] | None = None,
        grpc_port: int | None = None,
        before: Handover | None = None,
    ) -> None:
        self._settings, self._service, self._listener, self._policy = settings, service, listener, policy
        self._grpc = _reserve(listener, grpc_port)
        self._journal = Journal(settings, service, policy, url_of(listener)) if bounds is None or not policy.fixed else None
        self._bounds = bounds
        self._selector = selectors.DefaultSelector()
        self._zygotes: dict[int, Zygote] = {}
        self._members: dict[int, Member] = {}
        self._numbers = 0
        self._generation = 0
        self._next: int | None = None  # the generation of an upgrade that is under way
        self._next_s = 0.0
        self._scaling = ScalingState(wanted=max(1, policy.min_replicas))
        self._decided_s = self._not_before_s = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._stopping_s: float | None = None
        self._killing = False
        self._ready = False
        self._begun = before is not None  # whether the stores were found to open, or to be no hindrance
        self._say: Callable[[str], None] = lambda _: None
        self._refused: AndonError | None = None
        self._watching_listener = False
        self._board = Board.create() if before is None or before.board is None else Board(before.board)
        if before is not None:
            self._take_over(before)

    # --- life

    def run(self, ready: Callable[[str], None]) -> None:
        """Until SIGTERM or SIGINT, and until every replica has drained. ``ready`` is called with the URL once the first replica has opened
        its stores; connections wait. Raises what ``open_store`` raises there.
        """
        woken, wake = os.pipe()
        for end in (woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._signalled(number))
        take_signals()
        self._selector.register(woken, selectors.EVENT_READ, woken)
        self._say = ready
        if self._begun:
            self._begin()
        try:
            while self._refused is None and (self._stopping_s is None or self._members):
                self._look()
                for key, _ in self._selector.select(LOOK_S):
                    self._happened(key.data)
            if self._refused is not None:
                raise self._refused
        finally:
            if self._journal is not None:
                self._journal.stop()
            for zygote in self._zygotes.values():
                zygote.let_go()

    def _begin(self) -> None:
        """Say that this serves: the first replica has opened its stores, or has failed of something else, which is tried again."""
        self._begun = True
        self._note()
        if self._journal is not None:
            self._journal.start()
        self._say(url_of(self._listener))
        if self._grpc is not None:
            announce_grpc(self._service, self._grpc[1])

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP and not terminal_gone():
            if self._next is None and self._stopping_s is None:
                self._next, self._next_s = self._generation + 1, time.monotonic()
        elif self._stopping_s is None:
            self._stopping_s = time.monotonic()
            for member in self._members.values():
                self._drain(member)
        elif number == signal.SIGINT:
            self._killing = True

    def _happened(self, what: object) -> None:
        if isinstance(what, Member):
            lives = what.hear()
            if not self._begun and what.refusal is not None:
                self._refused = what.refusal.error()
            elif not self._begun and self._stopping_s is None and (what.spoke or not lives):
                self._begin()
            if not lives:
                self._ended(what)
        elif isinstance(what, Zygote):
            self._heard(what)
        elif isinstance(what, int):
            with contextlib.suppress(BlockingIOError):
                os.read(what, 4096)

    def _look(self) -> None:
        now_s = time.monotonic()
        if self._stopping_s is not None:
            if self._killing or now_s - self._stopping_s > STOP_S:
                self._kill(list(self._members.values()), "did not stop in time")
            return
        self._kill([m for m in self._members.values() if m.state == "ready" and now_s - m.heard_s > HUNG_S], f"was silent for {HUNG_S:g} s")
        self._decide(now_s)
        self._keep(self._generation, now_s)
        self._let_speak()
        if not self._ready and any(m.state == "ready" for m in self._members.values()):
            self._ready = True
            self._note()
        if self._next is not None:
            self._upgrade(self._next, now_s)
        asleep = not any(m.state != "draining" for m in self._members.values())
        if self._journal is not None:
            self._journal.asleep = asleep and self._scaling.wanted == 0
        self._watch_listener(asleep)

    # --- how many

    def _decide(self, now_s: float) -> None:
        if self._journal is not None:
            self._policy = bounded(self._journal.policy, self._bounds)
        waiting = self._scaling.wanted == 0 and bool(select.select([self._listener], [], [], 0)[0])
        if (now_s - self._decided_s < DECIDE_S and not waiting) or self._next is not None:
            return
        self._decided_s = now_s
        members = [m for m in self._members.values() if m.state != "draining"]
        ready = [m for m in members if m.state == "ready"]
        loads = []
        for m in ready:
            if now_s - m.heard_s <= SILENT_S:
                loads.append(msgspec.structs.replace(m.load, answered=m.answered))
            m.answered = 0
        seen = Observation(
            loads=tuple(loads), silent=len(ready) - len(loads), starting=max(0, self._scaling.wanted - len(ready)), waiting=waiting
        )
        decision, self._scaling = decide(self._policy, self._scaling, seen, now_s)
        if self._journal is not None:
            self._journal.record(decision)

    def _keep(self, generation: int, now_s: float) -> None:
        """Start what is missing of a generation, and drain what is too many."""
        members = [m for m in self._members.values() if m.generation == generation and m.state != "draining"]
        missing = self._scaling.wanted - len(members)
        if missing > 0 and now_s >= self._not_before_s:
            zygote = self._zygotes.get(generation) or self._start_zygote(generation)
            for _ in range(missing if zygote.ready else 0):
                self._fork(zygote)
        elif not self._zygotes and self._scaling.wanted == 0:
            self._start_zygote(generation)  # so that the first request does not wait for it
        for member in sorted(members, key=lambda m: (m.state == "ready", m.connections))[: max(0, -missing)]:
            self._drain(member)

    def _start_zygote(self, generation: int) -> Zygote:
        ours, theirs = socket.socketpair()
        plan = Plan(
            settings=self._settings,
            service=self._service,
            listener=self._listener.fileno(),
            board=self._board.fd,
            grpc_port=self._grpc[1] if self._grpc else None,
            command=(sys.executable, *sys.orig_argv[1:]),
        )
        with theirs:
            process = start_zygote(plan, ours, theirs)
        zygote = self._zygotes[generation] = Zygote(generation, ours, process.pid, process)
        self._selector.register(ours, selectors.EVENT_READ, zygote)
        return zygote

    def _fork(self, zygote: Zygote) -> None:
        taken = {m.slot for m in self._members.values()}
        slot = next(slot for slot in range(SLOTS) if slot not in taken)
        ours, theirs = socket.socketpair()
        self._numbers += 1
        member = self._members[self._numbers] = Member(self._numbers, slot, zygote.generation, ours)
        self._selector.register(ours, selectors.EVENT_READ, member)
        with theirs, contextlib.suppress(OSError):  # a zygote that has gone is noticed by its channel, and the member by its own
            socket.send_fds(zygote.channel, [msgspec.json.encode(Order(number=member.number, slot=slot)) + b"\n"], [theirs.fileno()])

    def _drain(self, member: Member) -> None:
        member.state = "draining"
        member.tell("drain")

    def _kill(self, members: list[Member], why: str) -> None:
        for member in members:
            log.warning("replica %d of service:%s (process %d) %s; it is killed", member.number, self._service, member.pid, why)
            member.heard_s = time.monotonic()
            if member.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(member.pid, signal.SIGKILL)  # its channel is open, so the number is still its own

    def _ended(self, member: Member) -> None:
        self._selector.unregister(member.channel)
        member.channel.close()
        del self._members[member.number]
        self._board.put(member.slot, ABSENT)
        if member.state == "draining":
            return
        now_s = time.monotonic()
        lived_s = now_s - member.started_s
        self._backoff_s = FIRST_BACKOFF_S if lived_s > STEADY_S else min(LONGEST_BACKOFF_S, self._backoff_s * 2)
        # The first to fall after a quiet time is replaced at once: its neighbours carry its load meanwhile.
        self._not_before_s = now_s if lived_s > STEADY_S else now_s + self._backoff_s
        log.warning("replica %d of service:%s (process %d) ended after %.0f s", member.number, self._service, member.pid, lived_s)
        if member.refusal is not None:
            log.warning("its stores could not be opened: %s", member.refusal.message)

    def _heard(self, zygote: Zygote) -> None:
        words = zygote.hear()
        if words is None:
            if not self._begun and self._stopping_s is None:
                self._begin()
            self._selector.unregister(zygote.channel)
            zygote.let_go()
            del self._zygotes[zygote.generation]
            if zygote.generation == self._next:
                self._give_up("the new program did not start")
            elif not zygote.ready:
                self._backoff_s = min(LONGEST_BACKOFF_S, self._backoff_s * 2)
                self._not_before_s = time.monotonic() + self._backoff_s
            return
        for word in words:
            if word.ready:
                zygote.ready = True
                if word.threads > 1:
                    log.warning("%d threads run in the process that replicas are forked from", word.threads)
            elif word.number is not None and (member := self._members.get(word.number)) is not None:
                member.pid = word.pid or 0
                if word.problem:
                    log.warning("a replica of service:%s could not be started: %s", self._service, word.problem)

    def _let_speak(self) -> None:
        """Where no replica is ready and one has a reason, it answers with that: better a 503 that says why than no answer."""
        if any(m.state == "ready" or m.told_to_accept for m in self._members.values()):
            return
        for member in self._members.values():
            if member.state == "stuck":
                member.told_to_accept = True
                member.tell("accept")

    def _watch_listener(self, asleep: bool) -> None:
        """While there is no replica, be woken by a connection; otherwise they are the replicas' business."""
        wanted = asleep and self._scaling.wanted == 0
        if wanted and not self._watching_listener:
            self._selector.register(self._listener, selectors.EVENT_READ, None)
        elif self._watching_listener and not wanted:
            self._selector.unregister(self._listener)
        self._watching_listener = wanted

    # --- upgrades

    def _upgrade(self, generation: int, now_s: float) -> None:
        """One step of bringing up the next generation."""
        self._keep(generation, now_s)
        zygote = self._zygotes.get(generation)
        new = [m for m in self._members.values() if m.generation == generation]
        ready = sum(m.state == "ready" for m in new)
        if zygote is None or not zygote.ready:
            if zygote is None:
                self._start_zygote(generation)
            if now_s - self._next_s > HELLO_S:
                self._give_up(f"the new program did not start in {HELLO_S:g} s")
        elif ready >= self._scaling.wanted:
            self._move_on(generation)
        elif new and all(m.state == "stuck" for m in new):
            self._give_up(f"the new replicas cannot answer: {new[0].why}")
        elif now_s - self._next_s > READY_S:
            why = next((m.why for m in new if m.why), "they say nothing")
            self._give_up(f"the new replicas were not ready in {READY_S:g} s: {why}")

    def _give_up(self, why: str) -> None:
        log.error("service:%s is not upgraded, it goes on as it was: %s", self._service, why)
        self._kill([m for m in self._members.values() if m.generation == self._next], "belongs to an upgrade that failed")
        for member in self._members.values():
            if member.generation == self._next:
                member.state = "draining"
        if self._next is not None and (zygote := self._zygotes.pop(self._next, None)) is not None:
            self._selector.unregister(zygote.channel)
            zygote.let_go()
        self._next = None
        self._note(why)

    def _move_on(self, generation: int) -> None:
        """The next generation is ready: drain the old one, and become the new program."""
        for member in self._members.values():
            if member.generation != generation:
                self._drain(member)
        old = self._zygotes.pop(self._generation, None)
        if old is not None:
            self._selector.unregister(old.channel)
            old.let_go()
        self._generation, self._next = generation, None
        log.info("service:%s goes on with the new program", self._service)
        self._note()
        if self._journal is not None:
            self._journal.stop()
        zygote = self._zygotes[generation]
        left = [
            ReplicaLeft(number=m.number, slot=m.slot, pid=m.pid, channel=m.channel.fileno(), generation=m.generation, state=m.state)
            for m in self._members.values()
        ]
        try:
            replace_program(
                Handover(
                    listener=self._listener.fileno(),
                    generation=generation,
                    supervised=True,
                    board=self._board.fd,
                    wanted=self._scaling.wanted,
                    numbers=self._numbers,
                    zygote=(zygote.pid, zygote.channel.fileno()),
                    replicas=tuple(left),
                )
            )
        except OSError as error:  # the replicas are the new program's already; only this process is not
            log.error("the supervisor of service:%s goes on with its old program: %s", self._service, error)  # noqa: TRY400
            if self._journal is not None:
                self._journal = Journal(self._settings, self._service, self._policy, url_of(self._listener))
                self._journal.start()

    def _note(self, problem: str = "") -> None:
        said = {"generation": self._generation, "supervised": True, "ready": self._ready, "problem": problem[:1000]}
        write_note(self._settings, self._service, self._listener, **said)

    def _take_over(self, before: Handover) -> None:
        self._generation, self._numbers = before.generation, before.numbers
        if before.supervised:
            self._scaling = ScalingState(wanted=before.wanted)
        if before.zygote is not None:
            pid, fd = before.zygote
            os.set_inheritable(fd, False)
            zygote = self._zygotes[before.generation] = Zygote(before.generation, socket.socket(fileno=fd), pid, None)
            self._selector.register(zygote.channel, selectors.EVENT_READ, zygote)
        for left in before.replicas:
            os.set_inheritable(left.channel, False)
            channel = socket.socket(fileno=left.channel)
            member = Member(left.number, left.slot, left.generation, channel, msgspec.convert(left.state, State), left.pid)
            self._members[left.number] = member
            self._selector.register(channel, selectors.EVENT_READ, member)


def _reserve(listener: socket.socket, port: int | None) -> tuple[socket.socket, int] | None:
    """A port for gRPC that is kept for this service: bound, shared (``SO_REUSEPORT``), and never listened on here."""
    if port is None:
        return None
    host = listener.getsockname()[0]
    held = socket.socket(listener.family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    return held, int(held.getsockname()[1])
