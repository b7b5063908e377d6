"""The protocol of MLflow's scoring server: ``/invocations``, ``/ping`` and ``/version``. No HTTP here: ``andon.api`` calls this."""

from andon.wire.mlflow_scoring.scoring import PATHS, Asker, Reply, answered, check_type, describe, read, refused

__all__ = ["PATHS", "Asker", "Reply", "answered", "check_type", "describe", "read", "refused"]
