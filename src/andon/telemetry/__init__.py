"""Queries over the logs: what was served, with the labels that are known by then."""

from andon.telemetry.served import Activity, activity, served_rows

__all__ = ["Activity", "activity", "served_rows"]
