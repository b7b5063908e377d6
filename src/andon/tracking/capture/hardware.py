"""The machine, read from ``/proc`` and ``/sys`` where there are such, with no child process."""

from __future__ import annotations

import os
import platform
import socket
from functools import lru_cache
from pathlib import Path

from andon.tracking.records import Hardware


def capture_hardware() -> Hardware:
    """Cores and memory are what this process may use (affinity and control group), not what the machine has.

    >>> capture_hardware().cores >= 1
    True
    """
    return Hardware(host=socket.gethostname(), cpu=_cpu(), cores=_cores(), memory_bytes=_memory_bytes(), gpus=_gpus())


@lru_cache(1)
def _cpu() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = (_lines("/sys/fs/cgroup/cpu.max") or ["max"])[0].partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def _memory_bytes() -> int:
    total = 0
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
            break
    if not total and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = (_lines("/sys/fs/cgroup/memory.max") or ["max"])[0].strip()
    return min(total, int(limit)) if limit.isdigit() and total else total


@lru_cache(1)
def _gpus() -> tuple[str, ...]:
    """NVIDIA devices by the driver's own listing; a driver that lists nothing there leaves this empty."""
    names: list[str] = []
    try:
        devices = sorted(Path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return ()
    for device in devices:
        names += [line.partition(":")[2].strip() for line in _lines(str(device / "information")) if line.startswith("Model:")]
    return tuple(names)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
