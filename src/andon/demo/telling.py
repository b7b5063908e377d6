"""How the demo speaks: headings, facts, a progress bar, and the timeline at the end. Plain text when nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from andon.core.verdicts import Verdict

_COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "undecided": "bright_black"}


class Teller:
    """Prints the story."""

    def __init__(self) -> None:
        # A pipe has no width of its own; the timeline needs some.
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        self._progress: Progress | None = None

    def heading(self, text: str) -> None:
        """A new part of the story."""
        self._print(f"\n[bold]{escape(text)}[/bold]")

    def say(self, text: str) -> None:
        """One fact."""
        self._print(f"  {escape(text)}")

    def alarm(self, date: str, text: str) -> None:
        """Something that Andon noticed or did."""
        self._print(f"  [bold yellow]{date}[/bold yellow]  {escape(text)}")

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """What a gate found."""
        for verdict in verdicts:
            colour = _COLOURS[verdict.status]
            self._print(f"  [{colour}]{verdict.status:<9}[/{colour}] {escape(verdict.check)}: {escape(verdict.message)}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table."""
        table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        self.console.print()
        self.console.print(table)

    @contextmanager
    def progress(self, total: int) -> Iterator[Any]:
        """A bar over the replayed days; yields ``advance(description)``."""
        bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with bar:
            task = bar.add_task("replaying", total=total)
            self._progress = bar
            try:
                yield lambda description: bar.update(task, advance=1, description=description)
            finally:
                self._progress = None

    def _print(self, text: str) -> None:
        (self._progress.console if self._progress is not None else self.console).print(text, soft_wrap=True)
