"""The socket a service listens on, and the terminal it was started in: what its supervisor needs too, so without the servers."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys

from andon.api.handover import read_note
from andon.core.errors import PortTaken, Unavailable
from andon.core.settings import Settings

LAME_DUCK_S = 0.5
DRAIN_S = 30.0


def open_listener(settings: Settings, service: str, host: str, port: int | None) -> socket.socket:
    """A listening socket; ``port`` None is the one that this service had last, as long as nobody else has it now. Raises as ``listen``."""
    note = read_note(settings, service)
    if port is None and note is not None and note.host == host:
        with contextlib.suppress(PortTaken, Unavailable):
            return listen(host, note.port)
    return listen(host, port or 0)


def inherit(fd: int) -> socket.socket:
    """The listening socket that the program before this one left open."""
    listener = socket.socket(fileno=fd)
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises ``PortTaken``, or ``Unavailable`` for an address that is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"another process listens on port {port}", host=host, port=port) from None
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror or error}", host=host, port=port) from None
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # what to call, not what to bind
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def terminal_gone() -> bool:
    """Whether this process was started in a terminal that has been closed since: then SIGHUP means to end, not to begin again."""
    return _HAD_TERMINAL and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


_HAD_TERMINAL = _has_terminal()


def announce_grpc(service: str, port: int) -> None:
    """Say where gRPC is spoken, in a line of its own."""
    sys.stdout.write(f"andon: service:{service} on gRPC port {port}\n")
    sys.stdout.flush()
