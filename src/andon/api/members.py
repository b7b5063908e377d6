"""A supervisor's replicas and the zygotes they are forked from, as it knows them: their channels, and what came through them last."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from typing import Any, Literal, Self

import msgspec

from andon.api.zygote import Word
from andon.autoscaling import Load
from andon.core import errors
from andon.core.errors import AndonError

State = Literal["forking", "starting", "stuck", "ready", "draining"]
Condition = Literal["starting", "stuck", "ready", "draining"]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error, on its way to another process."""

    kind: str
    message: str
    next_step: str | None = None
    fields: dict[str, Any] = {}

    @classmethod
    def of(cls, error: AndonError) -> Self:
        """Of this error."""
        return cls(kind=type(error).__name__, next_step=error.next_step, **{k: error.envelope()["error"][k] for k in ("message", "fields")})

    def error(self) -> AndonError:
        """The error again."""
        kind: type[AndonError] = getattr(errors, self.kind, AndonError)
        return kind(self.message, next_step=self.next_step, **self.fields)


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a replica says."""

    state: Condition
    load: Load = Load()
    connections: int = 0
    why: str = ""
    """Why it is not ready."""
    refusal: Refusal | None = None
    """Why it could not open its stores; its last words."""


class Member:
    """One replica, as its supervisor knows it."""

    def __init__(self, number: int, slot: int, generation: int, channel: socket.socket, state: State = "forking", pid: int = 0) -> None:
        channel.setblocking(False)
        self.number, self.slot, self.generation, self.channel = number, slot, generation, channel
        self.state: State = state
        self.pid = pid
        self.load = Load()
        self.answered = 0  # since the last decision
        self.why = ""
        self.refusal: Refusal | None = None
        self.spoke = False
        self.connections = 0
        self.started_s = self.heard_s = time.monotonic()
        self.told_to_accept = False
        self.buffer = b""

    def tell(self, order: str) -> None:
        """Send an order; a replica that has just gone will be noticed by its channel."""
        with contextlib.suppress(OSError):
            self.channel.send(order.encode() + b"\n")

    def hear(self) -> bool:
        """Take in what it has said; False when it has ended."""
        try:
            data = self.channel.recv(65_536)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data:
            return False
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):  # half a line, from before the program was replaced
                self._take(msgspec.json.decode(line, type=Report))
        return True

    def _take(self, report: Report) -> None:
        self.heard_s, self.spoke, self.refusal = time.monotonic(), True, report.refusal
        if self.state != "draining":  # an order is not taken back
            self.state = report.state
        self.load, self.connections, self.why = report.load, report.connections, report.why
        self.answered += report.load.answered


class Zygote:
    """A zygote, and what it has said."""

    def __init__(self, generation: int, channel: socket.socket, pid: int, process: subprocess.Popen[bytes] | None) -> None:
        channel.setblocking(False)
        self.generation, self.channel, self.pid, self.process = generation, channel, pid, process
        self.ready = process is None  # one that was handed over has been for long
        self.started_s = time.monotonic()
        self.buffer = b""

    def hear(self) -> list[Word] | None:
        """New words; None when it has ended."""
        try:
            data = self.channel.recv(65_536)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        words = []
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):
                words.append(msgspec.json.decode(line, type=Word))
        return words

    def let_go(self) -> None:
        """It ends by itself; its replicas do not."""
        self.channel.close()
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2.0)
