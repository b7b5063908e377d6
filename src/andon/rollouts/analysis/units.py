"""Who counts, and with which chance: the place of a unit among the splits, as far as it is known.

A unit's place is uniform over 0 … 9,999 and independent of everything else (``releases/splits.py``). Being seen in an arm that covers the
places ``[a, b)`` tells that its place lies there, so what is known of a unit is a set of places, and it starts as all of them. When it
appears in a stage whose arm k covers ``[a_k, b_k)``, then, by Bayes' rule with a uniform prior,

    P(arm k | all that was seen before) = |known ∩ [a_k, b_k)| / |known|.

For a canary that grows from 5 % to 25 %: a unit not seen before is the candidate's with chance 0.25; one seen in the control at 5 % with
chance (0.25 - 0.05) / (1 - 0.05) = 4/19; one seen in the candidate with chance 1, and so it says nothing new.

Why once a stage: within a stage a unit never changes its arm, so from its second request on its arm is known and nothing is left to bet
on. Its later requests belong to the same draw: they may add to what the unit did (a window), never a second bet.

Why in the order of exposure: the chance is right given everything about units that were exposed before, the advance from step to step
included, since that was decided on those alone. It would not be right given what units exposed *later* did.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from andon.core.errors import InvalidInput
from andon.releases.splits import WHOLE
from andon.rollouts.analysis.records import Floats, Ints


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a unit may stand: ``low <= place < high``; and the last stage that it was counted in."""

    low: int = 0
    high: int = WHOLE
    stage: int = -1


class Entered(msgspec.Struct, frozen=True):
    """Which exposures begin a unit's part in the stage; all arrays are aligned with ``rows``."""

    rows: Ints
    """Positions among the given exposures, ascending."""
    arm: Ints
    chance: Floats
    """Shape (len(rows), arms)."""
    fresh: np.ndarray
    """bool: never seen in the rollout before."""
    astray: Ints
    """Positions of exposures whose arm contradicts the split (a replica that had fallen back to production): units to leave out."""
    places: dict[str, Place]
    """What is known now of the units that entered; merge into what was known."""


def bounds(shares: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The places ``[low, high)`` of each arm, production first, as ``splits.arm_at`` lays them out: production at the upper end.

    >>> bounds((7_500, 2_000, 500))
    ((2500, 10000), (0, 2000), (2000, 2500))
    """
    if sum(shares) != WHOLE or min(shares) < 0:
        raise InvalidInput(f"the shares of a split add up to {WHOLE}", field="shares", got=str(list(shares)))
    at, found = 0, []
    for share in shares[1:]:
        found.append((at, at + share))
        at += share
    return ((at, WHOLE), *found)


def chances(shares: Sequence[int], low: Ints | Sequence[int], high: Ints | Sequence[int]) -> Floats:
    """The chance of each arm (n, arms) for units known to stand in ``[low, high)``, each (n,).

    >>> chances((7_500, 2_500), [0, 500], [10_000, 10_000]).round(4).tolist()
    [[0.75, 0.25], [0.7895, 0.2105]]
    """
    low, high = np.asarray(low, dtype=np.int64), np.asarray(high, dtype=np.int64)
    overlap = [np.clip(np.minimum(high, end) - np.maximum(low, start), 0, None) for start, end in bounds(shares)]
    found: Floats = np.stack(overlap, axis=1) / (high - low)[:, None]
    return found


def enter(known: dict[str, Place], units: Sequence[str], arms: Sequence[int], shares: Sequence[int], stage: int) -> Entered:
    """Find the first exposure in ``stage`` of each unit, in order of exposure, with its chances; ``known`` is not changed.

    ``units`` and ``arms`` (n,) are the exposures; ``shares`` of the split, production's first, in parts of ten thousand. Where each request
    is its own unit, ``known`` may stay empty. A unit astray does not enter, and is not entered later in the stage either.

    >>> entered = enter({}, ["ana", "ben", "ana"], [0, 1, 0], (9_500, 500), stage=0)
    >>> entered.rows.tolist(), entered.chance[0].tolist(), entered.places["ana"]
    ([0, 1], [0.95, 0.05], Place(low=500, high=10000, stage=0))
    """
    ranges = bounds(shares)
    places: dict[str, Place] = {}
    rows, low, high, fresh, astray = [], [], [], [], []
    for row, (unit, arm) in enumerate(zip(units, arms, strict=True)):
        place = places.get(unit) or known.get(unit)
        new = place is None
        place = place or Place()
        start, end = ranges[arm]
        left, right = max(place.low, start), min(place.high, end)
        if left >= right:
            astray.append(row)
            if place.stage != stage:
                places[unit] = Place(place.low, place.high, stage)
            continue
        if place.stage == stage:
            continue
        rows.append(row)
        low.append(place.low)
        high.append(place.high)
        fresh.append(new)
        places[unit] = Place(left, right, stage)
    index = np.asarray(rows, dtype=np.int64)
    return Entered(
        rows=index,
        arm=np.asarray(arms, dtype=np.int64)[index],
        chance=chances(shares, low, high) if rows else np.zeros((0, len(shares))),
        fresh=np.asarray(fresh, dtype=bool),
        astray=np.asarray(astray, dtype=np.int64),
        places=places,
    )
