"""What units say, in the two shapes that a comparison can have: each unit in one arm, or the same request answered by both.

Both can be asked the same things, so that errors, latency, scores and metrics are written once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from andon.rollouts.analysis import differences
from andon.rollouts.analysis.records import Array, Difference, Floats, Ints


class Sample(Protocol):
    """Values of units in order of exposure."""

    def __len__(self) -> int: ...

    def part(self, rows: slice) -> Self:
        """Some of the units."""
        ...

    def above(self, threshold: float) -> Self:
        """The same units, saying 1.0 where they said more than ``threshold`` and 0.0 elsewhere."""
        ...

    def events(self) -> tuple[Array, Floats, Floats]:
        """Of units that say 0 or 1, each (n,): which are evidence (bool), whether of the candidate (0.0, 1.0), the chance of that."""
        ...

    def steps(self, difference: Difference) -> tuple[Floats, Floats]:
        """What each unit adds to S and to W, when it comes after ``difference``."""
        ...

    def add(self, difference: Difference, *, tolerance: float | None = None, margin: float | None = None) -> Difference:
        """The difference after these units."""
        ...

    def pooled(self) -> Floats:
        """The values of both arms, in order."""
        ...

    def of(self, arm: int) -> Floats:
        """The values of the control (0) or of the candidate (1)."""
        ...


@dataclass(frozen=True, slots=True)
class Units:
    """Each unit in one arm: ``arm`` 1.0 for the candidate, with its ``chance``."""

    value: Floats
    arm: Floats
    chance: Floats
    at_us: Ints

    def __len__(self) -> int:
        return len(self.value)

    def part(self, rows: slice | Array) -> Units:
        return Units(self.value[rows], self.arm[rows], self.chance[rows], self.at_us[rows])

    def above(self, threshold: float) -> Units:
        return Units((self.value > threshold).astype(np.float64), self.arm, self.chance, self.at_us)

    def events(self) -> tuple[Array, Floats, Floats]:
        return self.value > 0, self.arm, self.chance

    def steps(self, difference: Difference) -> tuple[Floats, Floats]:
        return differences.unpaired(difference, self.value, self.arm, self.chance)

    def add(self, difference: Difference, *, tolerance: float | None = None, margin: float | None = None) -> Difference:
        return differences.add(difference, self.value, self.arm, self.chance, self.at_us, tolerance=tolerance, margin=margin)

    def pooled(self) -> Floats:
        return self.value

    def of(self, arm: int) -> Floats:
        mine: Floats = self.value[self.arm == arm]
        return mine


@dataclass(frozen=True, slots=True)
class Pairs:
    """Each request answered by both arms: ``value`` (n, 2), the control's first."""

    value: Floats
    at_us: Ints

    def __len__(self) -> int:
        return len(self.value)

    def part(self, rows: slice | Array) -> Pairs:
        return Pairs(self.value[rows], self.at_us[rows])

    def above(self, threshold: float) -> Pairs:
        return Pairs((self.value > threshold).astype(np.float64), self.at_us)

    def events(self) -> tuple[Array, Floats, Floats]:
        """Only requests on which the arms disagree tell them apart, and either is as likely to be the one that failed (McNemar, 1947)."""
        return self.value[:, 0] != self.value[:, 1], self.value[:, 1], np.full(len(self.value), 0.5)

    def steps(self, difference: Difference) -> tuple[Floats, Floats]:  # noqa: ARG002  (a pair needs no baseline)
        return self.value[:, 1] - self.value[:, 0], np.ones(len(self.value))

    def add(self, difference: Difference, *, tolerance: float | None = None, margin: float | None = None) -> Difference:
        return differences.add_pairs(difference, self.value[:, 0], self.value[:, 1], self.at_us, tolerance=tolerance, margin=margin)

    def pooled(self) -> Floats:
        return self.value.ravel()

    def of(self, arm: int) -> Floats:
        column: Floats = self.value[:, arm]
        return column
