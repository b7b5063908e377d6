"""Who waits for an answer: a name to be fair by, and a way to hear that they have gone."""

from __future__ import annotations

from typing import Protocol

from andon.core.errors import AndonError


class Waiting(Protocol):
    """A future, or what is used as one."""

    def done(self) -> bool:
        """Whether there is an outcome."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """What went wrong."""
        ...


class ClientGone(AndonError):
    """Whoever asked has gone; nobody reads this."""

    code = "client-gone"
    status = 499
    exit_code = 75


class Caller:
    """One connection. The front leaves here where its request's outcome goes while it waits; ``leave`` fails it, so that it is not run."""

    __slots__ = ("name", "waiting")

    def __init__(self, name: str = "") -> None:
        self.name = name
        """The peer's address. Queues are shared out between names."""
        self.waiting: Waiting | None = None

    def leave(self) -> None:
        """The connection has ended."""
        waiting = self.waiting
        if waiting is not None and not waiting.done():
            waiting.set_exception(ClientGone())
