"""Servers: the control plane, and one service's data plane."""

from __future__ import annotations

from typing import IO

import click

from andon.cli.output import common, home_option, say_json, with_store
from andon.core.settings import load
from andon.store import Store


@click.command()
@home_option
@click.option("--host", help="Address to bind (default: 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes any free one (default: 4700).")
@click.option("--serve/--no-serve", default=True, show_default=True, help="Start serving for each service as child processes.")
def up(home: str | None, host: str | None, port: int | None, serve: bool) -> None:
    """Run the control plane: API, board and controllers, with serving as child processes."""
    from andon import board
    from andon.api.server import up as run_up
    from andon.operations.controllers import controllers

    run_up(load(home, host=host, port=port), controllers=controllers(), extra_routes=board.routes(), serve=serve)


@click.command()
@click.argument("service")
@home_option
@click.option("--host", help="Address to bind (default: 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Port; 0 takes any free one.")
def serve(service: str, home: str | None, host: str | None, port: int) -> None:
    """Serve what holds a service's production channel, and follow it when it moves."""
    from andon.api.serving_server import serve as run_serve

    run_serve(load(home, host=host), service, port=port)


@click.command()
@click.argument("service")
@click.argument("file", type=click.File("rb"))
@common
@with_store
def label(store: Store, service: str, file: IO[bytes], as_json: bool) -> None:
    """Record labels from a JSON-lines FILE ('-' for stdin): {"request_id": …, "label": …} a line."""
    from andon.operations import labelling

    count = labelling.labels_from_lines(service, file, store=store)
    if as_json:
        say_json({"labels": count})
    else:
        click.echo(f"{count} labels kept")
