"""Logs: schemas and writers of predictions, labels and spans, and the records of traces. Queries over them are in ``andon.telemetry``."""

from andon.logs.labels import Label, record_labels
from andon.logs.predictions import Served, log_predictions
from andon.logs.spans import SpanRow, append_spans
from andon.logs.traces import TraceRecord, TraceSeed, get_trace, reap_spans

__all__ = [
    "Label",
    "Served",
    "SpanRow",
    "TraceRecord",
    "TraceSeed",
    "append_spans",
    "get_trace",
    "log_predictions",
    "reap_spans",
    "record_labels",
]
