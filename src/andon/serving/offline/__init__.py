"""Offline prediction: a release over a whole table, part by part, each row exactly once, in bounded memory."""

from andon.serving.offline.records import Options, Progress, Summary
from andon.serving.offline.running import predict

__all__ = ["Options", "Progress", "Summary", "predict"]
