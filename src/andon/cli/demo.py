"""The demo, from the command line."""

from __future__ import annotations

import click


@click.command()
@click.option("--home", type=click.Path(file_okay=False), default=".andon-demo", show_default=True, help="Where the demo keeps its line.")
@click.option("--port", type=click.IntRange(0, 65535), default=4700, show_default=True, help="Port of the board; another if it is taken.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the models and of the faults' details.")
@click.option(
    "--fault",
    type=click.Choice(["workingday", "hr-utc", "temp-unit"]),
    default="workingday",
    show_default=True,
    help="What goes wrong upstream.",
)
@click.option("--stay/--no-stay", default=None, help="Keep the board up at the end until Ctrl-C (default: on a terminal).")
def demo(home: str, port: int, seed: int, fault: str, stay: bool | None) -> int:
    """Watch a real model go from run to release, break in three ways, be noticed, explained and put right."""
    from andon.demo import story

    return story.tell(home, port=port, seed=seed, fault=fault, stay=stay)
