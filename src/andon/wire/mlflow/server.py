"""What a client asks of the server itself."""

from __future__ import annotations

from typing import Any

from andon.wire.mlflow.calls import Call, Route

SPOKEN = "3.17.2"
"""The release of the protocol's server whose answers these are held against."""


async def server_info(_: Call) -> dict[str, Any]:
    """Which optional parts are here: a ledger in SQL, and no workspaces."""
    return {"store_type": "SqlStore", "workspaces_enabled": False}


async def version(_: Call) -> bytes:
    """The release whose protocol this speaks."""
    return SPOKEN.encode()


ROUTES = [
    Route("GET", "3.0/mlflow/server-info", server_info, "inline"),
    Route("GET", "/version", version, "inline"),
]
