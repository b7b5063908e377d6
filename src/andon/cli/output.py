"""How commands speak: JSON with ``--json``, else text for people; errors to stderr with the next step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from andon.core.clocks import SECOND_US, to_iso
from andon.core.errors import AndonError

if TYPE_CHECKING:
    from rich.console import Console

    from andon.registry import Change

F = TypeVar("F", bound=Callable[..., Any])
ALGORITHM = "b3:"
PROSE_WIDTH = 24
"""What a column of words gets at least; columns of addresses, times and numbers get all they need."""


def json_option(command: F) -> F:
    """Adds ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON value instead of text.")(command)


def home_option(command: F) -> F:
    """Adds ``--home``."""
    return click.option(
        "--home", type=click.Path(file_okay=False), help="The folder that holds everything (default: the nearest .andon, or ANDON_HOME)."
    )(command)


def common(command: F) -> F:
    """``--home`` and ``--json``."""
    return home_option(json_option(command))


def say_json(value: Any) -> None:
    """One JSON value on stdout; addresses as text."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


def console() -> Console:
    """Where tables go; plain text as wide as it needs when stdout is not a terminal, so that nothing is cut off in a pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 2000)


def say_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table with the columns aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    prose = [any(len(row[n].split()) > 1 for row in cells) for n in range(len(columns))]
    widest = [max(len(text) for text in (column, *(row[n] for row in cells))) for n, column in enumerate(columns)]
    out = console()
    if sum(min(width, PROSE_WIDTH) if folds else width for width, folds in zip(widest, prose, strict=True)) + 3 * len(columns) > out.width:
        _say_stacked(columns, cells, title)
        return
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column, folds in zip(columns, prose, strict=True):
        table.add_column(column, overflow="fold", no_wrap=not folds)
    for row in cells:
        table.add_row(*map(escape, row))
    out.print(table)


def _say_stacked(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str | None) -> None:
    """Row below row, for a terminal in which the columns have no room beside each other."""
    if title:
        click.echo(title)
    width = max(map(len, columns))
    for row in cells:
        for n, (column, text) in enumerate(zip(columns, row, strict=True)):
            if text:
                click.echo(f"{' ' if n else '-'} {column:<{width}}  {text}")


def second(at_us: int) -> str:
    """A moment for people: ISO 8601 in UTC, to the second."""
    return to_iso(at_us - at_us % SECOND_US)


def short(value: Any) -> str:
    """A value for a cell: at most 60 letters, and of a digest what tells it from others."""
    text = "-" if value is None else str(value)
    if text.startswith(ALGORITHM):
        return text[:19]
    return text if len(text) <= 60 else text[:57] + "…"


def root_of(change: Change) -> str:
    """The part of a manifest that a change is in: ``data`` of ``data[dataset:rides].digest``."""
    return change.path.partition(".")[0].partition("[")[0]


def change_rows(changes: Iterable[Change]) -> list[tuple[str, str, str]]:
    """Changes as rows of a table."""
    return [(change.path, short(change.before), short(change.after)) for change in changes]


def fail(error: AndonError, *, as_json: bool) -> int:
    """Tell an error; returns the exit status."""
    if as_json:
        click.echo(msgspec.json.encode(error.envelope()).decode(), err=True)
    else:
        click.echo(f"andon: {error}", err=True)
    return error.exit_code


class Group(click.Group):
    """A group whose commands are imported when they are called, and whose errors become exit statuses."""

    def __init__(self, *args: Any, commands_in: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._where = commands_in or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._where})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = self._where.get(cmd_name)
        if where is None:
            return super().get_command(ctx, cmd_name)
        import importlib

        module, _, name = where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=3)
            if not close:
                raise
            raise click.UsageError(f"{error.message} Did you mean {', '.join(close)}?", ctx) from None


def with_store(command: F) -> F:
    """Opens the store of ``--home`` and hands it in as ``store``."""

    @click.pass_context
    def opened(ctx: click.Context, /, *args: Any, home: str | None = None, **kwargs: Any) -> Any:
        from andon.operations.session import use
        from andon.store import open_store

        with open_store(home) as store, use(store):
            return ctx.invoke(command, *args, store=store, **kwargs)

    return update_wrapper(opened, command)  # type: ignore[return-value]
