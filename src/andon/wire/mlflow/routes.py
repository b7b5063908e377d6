"""Every endpoint that is answered here: each module's own list, joined."""

from __future__ import annotations

from andon.wire.mlflow import server
from andon.wire.mlflow.calls import Route

ROUTES: list[Route] = [*server.ROUTES]
