"""Open Inference Protocol v2 (KServe, Triton) over REST and gRPC, with the binary tensor data extension.

``rest`` has no HTTP in it: ``andon.api`` calls it. ``grpc_server`` is imported only when a gRPC port is asked for.
"""

from andon.wire.openinference.binding import Binding
from andon.wire.openinference.models import Asker, Inference
from andon.wire.openinference.requests import InferRequest, parse_infer
from andon.wire.openinference.rest import Asked, Reply, Rest, error_body

__all__ = ["Asked", "Asker", "Binding", "InferRequest", "Inference", "Reply", "Rest", "error_body", "parse_infer"]
