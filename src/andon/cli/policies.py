"""Registering policies from a file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec

from andon.cli.output import common, say_json, with_store
from andon.core.errors import InvalidInput, NotFound
from andon.store import Store


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--why", default="", help="The reason, for whoever reads the history.")
@common
@with_store
def policy(store: Store, name: str, file: str, why: str, as_json: bool) -> None:
    """Register policy:NAME from a JSON or TOML FILE.

    NAME is gate/…, monitor/SERVICE, incident/SERVICE, logging/SERVICE, rollout/SERVICE, serving/SERVICE or retention/NAME.
    """
    from andon.operations import policies

    version = policies.register_policy(name, read(Path(file)), why=why, store=store)
    if as_json:
        say_json(version)
    else:
        click.echo(f"{version.address} {version.digest[:19]}")


def read(file: Path) -> dict[str, Any]:
    """A JSON or TOML file as a mapping. Raises ``InvalidInput``, or ``NotFound`` when there is no such file."""
    if not file.is_file():
        raise NotFound("there is no such file", field="file", got=file, next_step="give the path of a JSON or TOML file")
    text = file.read_text(encoding="utf-8")
    try:
        return tomllib.loads(text) if file.suffix == ".toml" else msgspec.json.decode(text, type=dict[str, Any])
    except (tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise InvalidInput(f"this file cannot be read: {error}", field="file", got=file.name) from None
