"""What one release's runner may use: memory, CPU, open files, time, processes. Read from ``settings.runner`` of its manifest.

``memory_mb`` is kept in three steps, so that a slow leak costs no request and a sudden one only its own:

- over it after a batch: a fresh process is started beside the leaking one and takes its place between two batches;
- over 1.5 times of it: no further batch goes to the old process, requests wait for the fresh one;
- over twice of it in the middle of a batch: the process is ended, and that batch fails.

Where ``memory_mb`` was set, the kernel refuses allocations well over that (``RLIMIT_DATA``). It ends a runner before the front when the
machine itself runs out. This bounds accidents. It is no sandbox: a release's code runs as the user that the front runs as.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from andon.core.errors import InvalidInput

HOLD_AT, END_AT = 1.5, 2.0
ROOM_MB = 512
"""What ``RLIMIT_DATA`` adds: memory that libraries set aside and do not touch counts there, too."""
OPEN_FILES = 1024
MAX_REPLICAS = 64
MB = 1 << 20
PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
)
"""The environment variables that every runner gets; no others, since the front's may hold secrets."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class RunnerLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``settings.runner`` of a release. What is left out has these values."""

    memory_mb: int | None = None
    """Resident memory of one process; None: a third of this machine's, shared by the replicas."""
    cpu_s: float | None = None
    """CPU seconds, over all threads, that one batch may take; the process is ended beyond."""
    threads: int = 1
    """Threads that numeric libraries may start in one process (``OMP_NUM_THREADS`` and its like)."""
    nice: int = 0
    """0 to 19: how much the runner gives way to the front."""
    replicas: int = 1
    """Processes (for a model in the front: threads) that run batches of this release at the same time."""
    open_files: int = OPEN_FILES
    batch_timeout_s: float = 30.0
    load_timeout_s: float = 60.0
    env: tuple[str, ...] = ()
    """Names of environment variables of the front that the runner gets besides ``PASSED_ON``."""


_LEAST: dict[str, float] = {"memory_mb": 16, "threads": 1, "nice": 0, "replicas": 1, "open_files": 32}
_MOST: dict[str, float] = {"nice": 19, "replicas": MAX_REPLICAS, "threads": 1024, "open_files": 1 << 20}


def limits_of(settings: Mapping[str, Any]) -> RunnerLimits:
    """The limits that a release's settings ask for. Raises ``InvalidInput`` naming the setting.

    >>> limits_of({"runner": {"replicas": 2}}).replicas
    2
    """
    given = settings.get("runner") or {}
    if not isinstance(given, Mapping):
        raise InvalidInput("the runner's settings are a mapping", field="settings.runner", got=type(given).__name__)
    unknown = sorted(given.keys() - set(RunnerLimits.__struct_fields__))
    if unknown:
        known = ", ".join(RunnerLimits.__struct_fields__)
        raise InvalidInput("a runner has no such setting", field=f"settings.runner.{unknown[0]}", settings=known)
    flat = {name: settings[name] for name in ("batch_timeout_s", "load_timeout_s") if name in settings}
    try:
        limits = msgspec.convert({**flat, **given}, RunnerLimits)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise InvalidInput(what, field=f"settings.runner.{where.rstrip('`')}") from None
    for name in RunnerLimits.__struct_fields__:
        value = getattr(limits, name)
        if name.endswith("_s") and value is not None and not 0 < value < 86_400:
            raise InvalidInput("this takes seconds, more than 0 and less than a day", field=f"settings.runner.{name}", got=value)
        if isinstance(value, int) and not _LEAST.get(name, value) <= value <= _MOST.get(name, value):
            least, most = _LEAST.get(name, 0), _MOST.get(name)
            said = f"at least {least:g}" + ("" if most is None else f" and at most {most:g}")
            raise InvalidInput(f"this is {said}", field=f"settings.runner.{name}", got=value)
    return limits


def memory_bytes(limits: RunnerLimits) -> int:
    """``memory_mb`` of one process in bytes, or its default on this machine."""
    if limits.memory_mb is not None:
        return limits.memory_mb * MB
    return max(256 * MB, _machine_bytes() // (3 * limits.replicas))


def _machine_bytes() -> int:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(whole, int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group here, or it says "max"
            continue
    return whole


def for_child(limits: RunnerLimits) -> dict[str, Any]:
    """What the runner program is told to set for itself before it loads anything."""
    # Only where somebody said how much: drivers of accelerators set address space aside by the terabyte, which may count here.
    data = None if limits.memory_mb is None else int(END_AT * memory_bytes(limits)) + ROOM_MB * MB
    return {"data_bytes": data, "open_files": limits.open_files, "nice": limits.nice, "cpu_s": limits.cpu_s}


def environment_of(limits: RunnerLimits, folder: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a runner whose private folder is ``folder``."""
    names: Iterable[str] = (*PASSED_ON, *limits.env)
    passed = {name: environ[name] for name in names if name in environ}
    threads = dict.fromkeys(_THREADS, str(limits.threads))  # boosters of two releases on two cores crawl otherwise
    return {**threads, "HOME": folder, "TMPDIR": folder, **passed}
