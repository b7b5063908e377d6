"""Queries over the logs: what was served, with the labels that are known by then."""

from andon.telemetry.served import Reach, first_us, reach, served_rows

__all__ = ["Reach", "first_us", "reach", "served_rows"]
