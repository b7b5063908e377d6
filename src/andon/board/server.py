"""``andon up``: the control plane with its board."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from andon.api.server import up as run_up
from andon.board import routes
from andon.board.rendering import error_page
from andon.core.settings import Settings
from andon.operations.controllers import Controller


def up(
    settings: Settings, *, controllers: Sequence[Controller] = (), serve: bool = True, on_ready: Callable[[str], None] | None = None
) -> None:
    """Run API, board, controllers and serving until SIGINT or SIGTERM; see ``andon.api.server.up``."""
    run_up(settings, controllers=controllers, extra_routes=routes(), error_page=error_page, serve=serve, on_ready=on_ready)
