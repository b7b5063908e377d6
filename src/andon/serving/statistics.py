"""What one loaded release has done: requests, rows and batches, and the nanoseconds each part of the work took. All since it was loaded.

Fed by the batcher, once a batch; read by the Open Inference Protocol's statistics. Plain integers on the event loop's thread.
"""

from __future__ import annotations

EXACT_SIZES = 64
"""Batches of up to so many rows are counted by their size, larger ones by the power of two below it: sizes are a client's to choose."""


class Duration:
    """How often something happened, and how long it took in all."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, count: int, ns: int) -> None:
        """Count it."""
        self.count += count
        self.ns += ns


class BatchSize:
    """Batches of one size: making their columns, running them, and taking their outputs apart."""

    __slots__ = ("infer", "input", "output")

    def __init__(self) -> None:
        self.input = Duration()
        self.infer = Duration()
        self.output = Duration()


class Statistics:
    """One release's counts. A request's queue time ends when its batch is taken; its compute times are its batch's."""

    __slots__ = ("batch_sizes", "batches", "fail", "infer", "input", "last_ms", "output", "queue", "rows", "success")

    def __init__(self) -> None:
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.input = Duration()
        self.infer = Duration()
        self.output = Duration()
        self.rows = 0
        self.batches = 0
        self.last_ms = 0
        """When the last request was answered, in milliseconds since 1970."""
        self.batch_sizes: dict[int, BatchSize] = {}

    def executed(self, requests: int, rows: int, queued_ns: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count one batch that was run; ``queued_ns`` is the sum over its requests."""
        self.queue.add(requests, queued_ns)
        self.input.add(requests, input_ns * requests)
        self.infer.add(requests, infer_ns * requests)
        self.output.add(requests, output_ns * requests)
        self.rows += rows
        self.batches += 1
        size = rows if rows <= EXACT_SIZES else 1 << (rows.bit_length() - 1)
        found = self.batch_sizes.get(size)
        if found is None:
            found = self.batch_sizes[size] = BatchSize()
        found.input.add(1, input_ns)
        found.infer.add(1, infer_ns)
        found.output.add(1, output_ns)

    def answered(self, ns: int, now_ms: int) -> None:
        """Count one request that got its answer, ``ns`` after it arrived."""
        self.success.add(1, ns)
        self.last_ms = now_ms

    def failed(self, ns: int) -> None:
        """Count one request that got an error."""
        self.fail.add(1, ns)
