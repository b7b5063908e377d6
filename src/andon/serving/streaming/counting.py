"""What a streamer counts, and its Prometheus text."""

from __future__ import annotations

import time
from collections import Counter


class StreamMetrics:
    """Counters of one stream. ``lag`` is None until it has been asked for."""

    def __init__(self, service: str, source: str, group: str) -> None:
        self._labels = f'service="{_quoted(service)}",source="{_quoted(source)}",group="{_quoted(group)}"'
        self.messages: Counter[str] = Counter()
        """Outcome (``answered``, ``dead``) -> messages that were committed."""
        self.rows = 0
        self.redelivered = 0
        self.retries = 0
        self.interruptions = 0
        """Times that a log could not be reached."""
        self.in_flight = 0
        self.lag: int | None = None
        self.batches = 0
        self.problem = ""
        self._marks: list[tuple[float, int]] = []

    def committed(self, outcome: str, messages: int, rows: int = 0) -> None:
        """Count messages that are finished."""
        self.messages[outcome] += messages
        self.rows += rows

    def rate_s(self) -> float:
        """Messages finished a second, over about the last ten seconds."""
        now_s, total = time.monotonic(), sum(self.messages.values())
        self._marks = [mark for mark in self._marks if now_s - mark[0] <= 10.0]
        first = self._marks[0] if self._marks else None
        self._marks.append((now_s, total))
        return 0.0 if first is None or now_s <= first[0] else (total - first[1]) / (now_s - first[0])

    def text(self) -> str:
        """The Prometheus exposition."""
        lines = ["# HELP andon_stream_messages_total Messages finished, by outcome.", "# TYPE andon_stream_messages_total counter"]
        lines += [
            f'andon_stream_messages_total{{{self._labels},outcome="{outcome}"}} {self.messages[outcome]}'
            for outcome in ("answered", "dead")
        ]
        counters = (
            ("rows", "Rows answered.", self.rows),
            ("redelivered", "Messages that came again.", self.redelivered),
            ("retries", "Answers tried again after the model failed.", self.retries),
            ("interruptions", "Times that a log could not be reached.", self.interruptions),
            ("batches", "Commits.", self.batches),
        )
        for name, said, value in counters:
            metric = f"andon_stream_{name}_total"
            lines += [f"# HELP {metric} {said}", f"# TYPE {metric} counter", f"{metric}{{{self._labels}}} {value}"]
        gauges = [("in_flight_messages", "Messages fetched and not finished.", self.in_flight)]
        if self.lag is not None:
            gauges.append(("lag_messages", "Messages of the source that the group has not finished.", self.lag))
        for name, said, value in gauges:
            metric = f"andon_stream_{name}"
            lines += [f"# HELP {metric} {said}", f"# TYPE {metric} gauge", f"{metric}{{{self._labels}}} {value}"]
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
