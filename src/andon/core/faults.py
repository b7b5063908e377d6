"""Named points where a test can kill this process or make the disk refuse, so that every boundary of a durable write is tried.

``ANDON_FAULT`` (read once, at import) or ``arm()`` holds ``PATTERN[:N][=WHAT]``: at the Nth point whose name matches the shell pattern,
``kill`` (the default: SIGKILL, as a power switch would), ``stop`` (SIGSTOP), or the name of an errno such as ``ENOSPC``, raised as
``OSError``. ``*:17`` is the 17th point reached, whatever its name. Unset, a point costs one comparison.
"""

from __future__ import annotations

import errno
import os
import signal
from fnmatch import fnmatchcase

import msgspec

from andon.core.errors import InvalidInput


class Fault(msgspec.Struct):
    """What is armed, and how many matching points are still to pass before it strikes."""

    pattern: str
    left: int
    what: str


_armed: Fault | None = None  # one per process: the process is what a fault ends


def parse(text: str) -> Fault:
    """Read ``PATTERN[:N][=WHAT]``. Raises ``InvalidInput``.

    >>> parse("seal.*:3=ENOSPC")
    Fault(pattern='seal.*', left=3, what='ENOSPC')
    """
    rest, _, what = text.partition("=")
    pattern, _, count = rest.partition(":")
    what = what or "kill"
    if not pattern or not (count or "1").isdigit() or not (what in ("kill", "stop") or hasattr(errno, what)):
        raise InvalidInput("a fault is PATTERN[:N][=kill|stop|ERRNO]", field="ANDON_FAULT", got=text[:80])
    return Fault(pattern, int(count or 1), what)


def arm(text: str | None) -> None:
    """Set, or with ``None`` clear, this process's fault."""
    global _armed
    _armed = parse(text) if text else None


def point(name: str) -> None:
    """A boundary that a fault may strike at, such as ``seal.part_written``."""
    if _armed is not None:
        _strike(_armed, name)


def _strike(fault: Fault, name: str) -> None:
    if fault.left <= 0 or not fnmatchcase(name, fault.pattern):
        return
    fault.left -= 1
    if fault.left:
        return
    if fault.what in ("kill", "stop"):
        os.kill(os.getpid(), signal.SIGKILL if fault.what == "kill" else signal.SIGSTOP)
        return
    number = getattr(errno, fault.what)
    raise OSError(number, os.strerror(number), name)


arm(os.environ.get("ANDON_FAULT"))
