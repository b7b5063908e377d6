"""Logs: schemas and writers of predictions and labels. Queries over them are in ``andon.telemetry``."""

from andon.logs.labels import Label, record_labels
from andon.logs.predictions import Served, log_predictions

__all__ = ["Label", "Served", "log_predictions", "record_labels"]
