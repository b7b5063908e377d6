"""Open Inference Protocol v2 (KServe, Triton), JSON form: bodies in, columns out, and back. No HTTP here: ``andon.api`` calls this."""

from andon.wire.openinference.translate import Infer, error_body, infer_response, model_metadata, parse_infer, server_metadata

__all__ = ["Infer", "error_body", "infer_response", "model_metadata", "parse_infer", "server_metadata"]
