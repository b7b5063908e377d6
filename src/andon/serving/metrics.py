"""What a front counts. Plain numbers on the event loop's thread: counting a request costs well under a microsecond."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

from andon.serving.exposition import Family, Labels, counter, gauge, histogram, labels

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_STARTED_S = time.time()


class Histogram:
    """Counts between bounds, and the sum of what was seen."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def seen(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """Counters of one service."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.requests: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(release, error code or ``ok``) -> requests."""
        self.rows: defaultdict[str, int] = defaultdict(int)
        self.durations: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(BUCKETS_S))
        """Release -> seconds from a decoded request to its answer."""
        self.waits: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(BUCKETS_S))
        """Release -> seconds that an answered request waited for its batch."""
        self.batches: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(ROWS_BUCKETS))
        """Release -> rows of the batches it ran."""
        self.rejected: defaultdict[str, int] = defaultdict(int)
        """Reason -> requests that were never run."""
        self.log_dropped_rows = 0
        """Rows that were answered but could not be written to the prediction log."""
        self.log_unsampled_rows = 0
        """Rows that the logging policy's sample left out."""
        self.exposures_dropped = 0
        """Exposures that could not be written."""
        self.shadow_dropped_rows: defaultdict[str, int] = defaultdict(int)
        """Release -> rows of copies that its mirror had no room for."""
        self.swaps = 0
        self.load_failures = 0
        self.labels = 0

    def answered(self, release: str, rows: int, seconds: float, waited_s: float = 0.0) -> None:
        """Count one good answer, ``waited_s`` of which it was queued."""
        self.requests[release, "ok"] += 1
        self.rows[release] += rows
        # As `Histogram.seen`, without its call: this is the hot path.
        taken = self.durations[release]
        taken.counts[bisect_left(BUCKETS_S, seconds)] += 1
        taken.sum += seconds
        taken = self.waits[release]
        taken.counts[bisect_left(BUCKETS_S, waited_s)] += 1
        taken.sum += waited_s

    def refused(self, release: str, code: str, reason: str | None = None) -> None:
        """Count one error; ``reason`` is why it was never run, where that is so."""
        self.requests[release, code] += 1
        reason = reason or _NOT_RUN.get(code)
        if reason is not None:
            self.rejected[reason] += 1

    def shadow_dropped(self, release: str, rows: int) -> None:
        """Count a copy that a mirror had no room for."""
        self.shadow_dropped_rows[release] += rows

    def families(self) -> list[Family]:
        """What was counted so far."""
        service = self.service
        one = labels(service=service)
        requests = {labels(service=service, release=name, code=code): n for (name, code), n in sorted(self.requests.items())}
        return [
            counter("andon_requests_total", "Requests by release and outcome.", requests),
            counter("andon_rows_total", "Rows answered.", self._by_release(self.rows)),
            self._seconds("andon_request_duration_seconds", "From the decoded request to its answer, of those answered.", self.durations),
            self._seconds("andon_queue_wait_seconds", "What of that was waiting for a batch.", self.waits),
            histogram(
                "andon_batch_rows",
                "Rows of the batches that were run.",
                ROWS_BUCKETS,
                {labels(service=service, release=name): (list(seen.counts), int(seen.sum)) for name, seen in sorted(self.batches.items())},
            ),
            counter(
                "andon_requests_rejected_total",
                "Requests that were never run, by reason.",
                {labels(service=service, reason=reason): n for reason, n in sorted(self.rejected.items())},
            ),
            counter(
                "andon_shadow_dropped_rows_total",
                "Rows of copies that a mirror had no room for.",
                self._by_release(self.shadow_dropped_rows),
            ),
            counter("andon_exposures_dropped_total", "Exposures that could not be written.", {one: self.exposures_dropped}),
            counter("andon_prediction_log_dropped_rows_total", "Rows answered but not logged.", {one: self.log_dropped_rows}),
            counter(
                "andon_prediction_log_unsampled_rows_total", "Rows that the sample left out of the log.", {one: self.log_unsampled_rows}
            ),
            counter("andon_labels_total", "Labels kept.", {one: self.labels}),
            counter("andon_swaps_total", "Moves of traffic to another release.", {one: self.swaps}),
            counter("andon_load_failures_total", "Releases that could not be loaded.", {one: self.load_failures}),
        ]

    def _by_release(self, counts: defaultdict[str, int]) -> dict[Labels, int]:
        return {labels(service=self.service, release=name): n for name, n in sorted(counts.items())}

    def _seconds(self, name: str, said: str, found: defaultdict[str, Histogram]) -> Family:
        values = {
            labels(service=self.service, release=release): (list(seen.counts), round(seen.sum * 1e9))
            for release, seen in sorted(found.items())
        }
        return histogram(name, said, BUCKETS_S, values, nano=True)


_NOT_RUN = {"busy": "busy", "deadline-exceeded": "deadline", "client-gone": "client-gone", "unavailable": "not-ready"}
"""Error codes whose requests were not run -> the reason, where the error says no closer one."""


def process_families() -> list[Family]:
    """This process, under the names that every Prometheus client uses; what the system does not say is left out."""
    found = [
        Family("andon_build_info", "info", "The version of Andon.", [("", labels(version=_version()), 1)], own=True),
        counter("process_cpu_seconds_total", "User and system processor time.", {(): round(time.process_time(), 6)}, own=True),
        gauge("process_start_time_seconds", "When the process started, since 1970.", {(): _started_s(os.getpid())}),
    ]
    with contextlib.suppress(OSError, ValueError, IndexError):
        size, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
        page = os.sysconf("SC_PAGE_SIZE")
        found.append(gauge("process_resident_memory_bytes", "Resident memory.", {(): int(resident) * page}))
        found.append(gauge("process_virtual_memory_bytes", "Address space.", {(): int(size) * page}))
    with contextlib.suppress(OSError):
        found.append(gauge("process_open_fds", "Open files.", {(): len(os.listdir("/proc/self/fd")) - 1}))  # noqa: PTH208  # names only
    if sys.platform != "win32":
        import resource

        found.append(gauge("process_max_fds", "Files that may be open.", {(): resource.getrlimit(resource.RLIMIT_NOFILE)[0]}))
    return found


@cache
def _version() -> str:
    return version("andon")


@cache
def _started_s(pid: int) -> float:
    """When this process, ``pid``, was made; when this module was imported, where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        return round(time.time() - _uptime_s() + ticks / os.sysconf("SC_CLK_TCK"), 2)
    return round(_STARTED_S, 2)


def _uptime_s() -> float:
    return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
