"""Columns that lie side by side in one array: what a table of floats is, and what many models take as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Block(dict[str, "np.ndarray[Any, Any]"]):
    """Columns by name, each a view ``[n]`` of ``together``. Nobody changes one: who needs other columns makes another mapping."""

    __slots__ = ("names", "rows", "together")

    def __init__(self, names: tuple[str, ...], together: np.ndarray[Any, Any], rows: Sequence[tuple[float, ...]] | None = None) -> None:
        super().__init__(zip(names, together.T, strict=True))
        self.names = names
        self.together = together
        """``[n, len(names)]``, of one float dtype."""
        self.rows = rows
        """The same values as Python's floats, where they are at hand; none is NaN."""
