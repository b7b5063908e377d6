"""The control plane's HTTP application: the own REST API, and whatever faces are handed in (the board, wire formats)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response, get
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from andon.api import reading, writing
from andon.api.envelopes import ErrorPage, renderer
from andon.api.guard import Guard
from andon.api.watching import Watcher
from andon.core.settings import Settings
from andon.store import Store
from andon.wire.mlflow.app import PREFIXES, Mlflow

DESCRIPTION = "Every error is {error: {code, message, next_step, fields}}. Every write takes its actor from x-andon-actor (person:NAME)."


def create_app(
    store: Store,
    settings: Settings,
    *,
    extra_routes: Sequence[Any] = (),
    error_page: ErrorPage | None = None,
    watcher: Watcher | None = None,
) -> Litestar:
    """The application over an open store. It does not own the store; ``watcher`` is started and stopped with it.

    ``extra_routes`` are Litestar handlers or routers of other faces, such as ``andon.board.routes()``; they may ask for the dependencies
    ``store``, ``actor``, ``watcher`` and ``settings``. ``error_page`` says errors to browsers.
    """
    watching = watcher or Watcher(store)

    @asynccontextmanager
    async def watch(_: Litestar) -> AsyncIterator[None]:
        watching.start()
        try:
            yield
        finally:
            watching.stop()

    app = Litestar(
        route_handlers=[get_metrics, *reading.ROUTES, *writing.ROUTES, *extra_routes],
        dependencies={
            "store": Provide(lambda: store, sync_to_thread=False),
            "settings": Provide(lambda: settings, sync_to_thread=False),
            "watcher": Provide(lambda: watching, sync_to_thread=False),
            "actor": Provide(writing.actor_of, sync_to_thread=False),
        },
        exception_handlers={Exception: renderer(error_page)},
        lifespan=[watch],
        openapi_config=OpenAPIConfig(
            title="Andon",
            version="1",
            description=DESCRIPTION,
            path="/schema",
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        request_max_body_size=settings.max_body_bytes,
        debug=False,
        logging_config=None,
    )
    mlflow = Mlflow(store, settings)
    # Around everything, so that an answer to no route at all passes it too.
    app.asgi_handler = Guard(_Beside(app.asgi_handler, mlflow), settings)  # type: ignore[assignment]
    app.on_shutdown.append(mlflow.close)
    return app


@get("/metrics", sync_to_thread=True, summary="What the ledger knows, for Prometheus")
def get_metrics(store: reading.Given, request: Request[Any, Any, Any]) -> Response[bytes]:
    """Prometheus text 0.0.4, or OpenMetrics 1.0 for a client that would rather have it."""
    from andon.serving.exposition import OPENMETRICS_TYPE, TEXT_TYPE, text, wants_openmetrics
    from andon.wire.prometheus.ledger import families

    openmetrics = wants_openmetrics(request.headers.get("accept", "")[:2000])
    kind = OPENMETRICS_TYPE.decode() if openmetrics else TEXT_TYPE.decode().partition("; charset")[0]  # Litestar adds it to text
    return Response(text(families(store), openmetrics=openmetrics).encode(), media_type=kind, headers={"vary": "accept"})


class _Beside:
    """Sends the requests of a foreign protocol to its own application, past the router: they are many and small."""

    def __init__(self, app: Any, mlflow: Mlflow) -> None:
        self._app, self._mlflow = app, mlflow

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await (self._mlflow if scope["path"].startswith(PREFIXES) else self._app)(scope, receive, send)
