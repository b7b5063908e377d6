"""Servers: the control plane, and one service's data plane."""

from __future__ import annotations

from typing import IO, Any, NamedTuple

import click

from andon.cli.output import common, home_option, say_json, with_store
from andon.core.settings import load
from andon.store import Store


class Replicas(NamedTuple):
    """How many processes are asked for; ``ranged`` when written as a range."""

    least: int
    most: int
    ranged: bool


class ReplicaCount(click.ParamType[Replicas]):
    """``N`` or ``MIN:MAX``."""

    name = "N|MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Replicas:
        """Read it; a wrong one is a wrong use of the command."""
        if isinstance(value, Replicas):
            return value
        least, colon, most = str(value).partition(":")
        most = most if colon else least
        if not (least.isdecimal() and most.isdecimal() and int(least) <= int(most) and 1 <= int(most) <= 256):
            self.fail(f"{value!r} is neither a number from 1 to 256 nor a range such as 1:4 or 0:2", param, ctx)
        return Replicas(int(least), int(most), bool(colon))


@click.command()
@home_option
@click.option("--host", help="Address to bind (default: 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes any free one (default: 4700).")
@click.option("--serve/--no-serve", default=True, show_default=True, help="Start serving for each service as child processes.")
@click.option("--keep-serving", is_flag=True, help="Leave the child processes answering at the end; the next `andon up` adopts them.")
def up(home: str | None, host: str | None, port: int | None, serve: bool, keep_serving: bool) -> None:
    """Run the control plane: API, board and controllers, with serving as child processes.

    SIGHUP replaces the program by the one that is installed now; what serves goes on meanwhile.
    """
    from andon import board
    from andon.api.server import up as run_up
    from andon.operations.controllers import controllers

    run_up(load(home, host=host, port=port), controllers=controllers(), extra_routes=board.routes(), serve=serve, keep_serving=keep_serving)


@click.command()
@click.argument("service")
@home_option
@click.option("--host", help="Address to bind (default: 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes any free one (default: the service's last one, if free).")
@click.option("-n", "replicas", type=ReplicaCount(), help="Processes: N, or MIN:MAX to follow the load; 0:MAX may sleep.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port for gRPC (Open Inference Protocol); 0 takes any free one.")
def serve(service: str, home: str | None, host: str | None, port: int | None, replicas: Replicas | None, grpc_port: int | None) -> None:
    """Serve what holds a service's production channel, and follow it when it moves.

    How many processes it takes is said by -n, else by policy:serving/SERVICE, else it is one. SIGHUP replaces the program by the one that
    is installed now, and drops no request.
    """
    from andon.api.starting import serve as run_serve

    bounds, supervised = (None, False) if replicas is None else ((replicas.least, replicas.most), replicas.ranged)
    run_serve(load(home, host=host), service, port=port, grpc_port=grpc_port, bounds=bounds, supervised=supervised)


@click.command()
@click.argument("service")
@home_option
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=240.0, show_default=True, help="Seconds to wait for it.")
def upgrade(service: str, home: str | None, timeout_s: float) -> None:
    """Have a service go on as the Andon that is installed now; no request is dropped.

    It is the SIGHUP of `andon serve`, waited for: when the new program does not start, or its replicas do not become ready, the old one
    goes on, and this says why.
    """
    from andon.api.handover import upgrade as run_upgrade

    note = run_upgrade(load(home), service, timeout_s=timeout_s)
    click.echo(f"service:{service} goes on as generation {note.generation}")


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
