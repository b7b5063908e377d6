"""Whether the process behind a running run still lives.

A run that Andon's library started holds the lease ``run:ID``, whose holder names host, boot, process namespace, process id and its start
time. On the same machine the process table answers at once; from elsewhere the lease does: it is renewed while the process lives, so a run
is called killed ``LEASE_US`` after its last renewal. Runs created over the wire hold no lease and are never called killed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from functools import lru_cache
from pathlib import Path

from andon.core.clocks import SECOND_US
from andon.core.errors import AndonError
from andon.store import Store, leases

LEASE_US = 90 * SECOND_US
RENEW_S = 20.0


def holder(pid: int | None = None) -> str:
    """The name under which this process (or ``pid``, on this machine) holds its runs' leases."""
    pid = os.getpid() if pid is None else pid
    return f"{_machine()}/{pid}/{_start_ticks(pid)}"


def is_alive(held_by: str, expires_us: int, *, now_us: int) -> bool:
    """Whether the process named by a lease is running, as far as can be seen from here.

    >>> is_alive(holder(), expires_us=0, now_us=1)
    True
    >>> is_alive("elsewhere/boot/ns/1/1", expires_us=0, now_us=1)
    False
    """
    machine, _, process = held_by.rpartition("/")[0].rpartition("/")
    ticks = held_by.rpartition("/")[2]
    if machine == _machine() and process.isdigit() and ticks:
        return _start_ticks(int(process)) == ticks
    return expires_us > now_us


def renew(store: Store, run: str, held_by: str) -> None:
    """Renew a run's lease; a ledger that is away for a while is met again at the next call."""
    now_us = store.clock.now_us()
    with contextlib.suppress(AndonError):
        store.ledger.write(lambda c: leases.take_lease(c, f"run:{run}", held_by, now_us=now_us, for_us=LEASE_US))


def keep_lease(store: Store, run: str, stop: threading.Event) -> None:
    """Renew a run's lease until ``stop`` is set: the body of a thread."""
    held_by = holder()
    while not stop.wait(RENEW_S):
        renew(store, run, held_by)


@lru_cache(1)
def _machine() -> str:
    # The namespace keeps two containers apart that share a host's boot id and were given one name.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        boot = namespace = ""
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _start_ticks(pid: int) -> str:
    """When the process started, in clock ticks since boot; empty when there is no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self/stat").exists() else _start_without_proc(pid)
    return "" if fields[0] in ("Z", "X") else fields[19]


def _start_without_proc(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "?"
    except OSError:
        return ""
    return "?"
