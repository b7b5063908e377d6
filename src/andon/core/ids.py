"""Time-ordered ids: 48 bits of milliseconds and 80 random bits in 26 characters of Crockford base 32 (the ULID layout)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from andon.core.clocks import Clock, SystemClock
from andon.core.forks import follow

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80
_STEP_BITS = 48
_MAX_MS = (1 << 48) - 1


class Ids:
    """A source of ids that sort by creation within one process, also within one millisecond and when the clock steps back.

    >>> ids = Ids()
    >>> first, second = ids.new(), ids.new()
    >>> first < second, len(first)
    (True, 26)
    """

    def __init__(self, clock: Clock | None = None, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock or SystemClock()
        self._entropy = entropy
        self._last = 0
        self._lock = threading.Lock()
        follow(self)

    def new(self) -> str:
        """The next id, 26 characters."""
        fresh = int.from_bytes(self._entropy(_RANDOM_BITS // 8), "big")
        now_ms = min(max(self._clock.now_us() // 1000, 0), _MAX_MS)
        candidate = now_ms << _RANDOM_BITS | fresh
        with self._lock:
            if candidate <= self._last:
                # A random step, not 1: a forked child has the same last id, and must not count on to the same next ones.
                candidate = self._last + 1 + (fresh & ((1 << _STEP_BITS) - 1))
            self._last = candidate
        return _encode(candidate)

    def before_fork(self) -> bool:
        return False  # the lock is held for nanoseconds, and the child gets a new one

    def after_fork_in_parent(self) -> None:
        """Nothing was stopped."""

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()


def _encode(value: int) -> str:
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
