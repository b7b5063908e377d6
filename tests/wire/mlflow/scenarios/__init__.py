"""What users of the stock client write: scripts that read nothing but ``MLFLOW_TRACKING_URI`` and say what they saw as JSON, last."""
