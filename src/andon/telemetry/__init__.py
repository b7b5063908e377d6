"""Queries over the logs: what was served, with the labels that are known by then, and spans."""

from andon.telemetry.served import Reach, first_us, reach, served_rows
from andon.telemetry.spans import spans_of, tokens_by_model, traces_with

__all__ = ["Reach", "first_us", "reach", "served_rows", "spans_of", "tokens_by_model", "traces_with"]
