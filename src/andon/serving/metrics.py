"""What a front counts, and its Prometheus text. Plain integers on the event loop's thread: counting costs well under a microsecond."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one service."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.requests: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(release, error code or ``ok``) -> requests."""
        self.rows: defaultdict[str, int] = defaultdict(int)
        self.log_dropped_rows = 0
        """Rows that were answered but could not be written to the prediction log."""
        self.swaps = 0
        self.load_failures = 0
        self.labels = 0
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0

    def answered(self, release: str, rows: int, seconds: float) -> None:
        """Count one good answer."""
        self.requests[release, "ok"] += 1
        self.rows[release] += rows
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds += seconds

    def refused(self, release: str, code: str) -> None:
        """Count one error."""
        self.requests[release, code] += 1

    def text(self, gauges: Iterable[tuple[str, str, float]] = ()) -> str:
        """The Prometheus exposition; ``gauges`` are (name, help, value) of what the caller measures now."""
        service = _quoted(self.service)
        lines = ["# HELP andon_requests_total Requests by release and outcome.", "# TYPE andon_requests_total counter"]
        for (release, code), count in sorted(self.requests.items()):
            lines.append(f"andon_requests_total{{service={service},release={_quoted(release)},code={_quoted(code)}}} {count}")
        lines += ["# HELP andon_rows_total Rows answered.", "# TYPE andon_rows_total counter"]
        lines += [f"andon_rows_total{{service={service},release={_quoted(name)}}} {count}" for name, count in sorted(self.rows.items())]
        name = "andon_request_duration_seconds"
        lines += [f"# HELP {name} From the decoded request to its answer.", f"# TYPE {name} histogram"]
        total = 0
        for bound, count in zip((*BUCKETS_S, None), self._buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{service={service},le="{"+Inf" if bound is None else bound}"}} {total}')
        lines += [f"{name}_sum{{service={service}}} {self._seconds:.6f}", f"{name}_count{{service={service}}} {total}"]
        counters = (
            ("andon_prediction_log_dropped_rows_total", "Rows answered but not logged.", self.log_dropped_rows),
            ("andon_labels_total", "Labels kept.", self.labels),
            ("andon_swaps_total", "Moves of traffic to another release.", self.swaps),
            ("andon_load_failures_total", "Releases that could not be loaded.", self.load_failures),
        )
        for name, said, value in counters:
            lines += [f"# HELP {name} {said}", f"# TYPE {name} counter", f"{name}{{service={service}}} {value}"]
        for name, said, gauge in gauges:
            lines += [f"# HELP {name} {said}", f"# TYPE {name} gauge", f"{name}{{service={service}}} {gauge:g}"]
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
