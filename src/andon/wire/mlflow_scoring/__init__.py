"""The protocol of MLflow's scoring server: ``/invocations``, ``/ping`` and ``/version``. No HTTP here: ``andon.api`` calls this."""

from andon.wire.mlflow_scoring.scoring import PATHS, Asked, Reply, answer, error_body

__all__ = ["PATHS", "Asked", "Reply", "answer", "error_body"]
