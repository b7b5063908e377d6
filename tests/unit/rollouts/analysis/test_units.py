"""Who counts and with which chance, held against the splits themselves."""

from __future__ import annotations

import numpy as np
import pytest

from andon.core.errors import InvalidInput
from andon.releases.splits import Arm, Split, assign, place
from andon.rollouts.analysis import Place, chances, enter
from andon.rollouts.analysis.units import bounds


def split(*shares: int) -> Split:
    arms = tuple(Arm(channel=f"c{k}", release=f"release:a@{k + 1}", share=share) for k, share in enumerate(shares))
    return Split(rollout="rollout:1", salt="salt", arms=arms)


@pytest.mark.parametrize("shares", [(9_500, 500), (5_000, 2_000, 3_000), (0, 10_000), (10_000, 0)])
def test_bounds_are_the_splits_own(shares: tuple[int, ...]) -> None:
    ours = bounds(shares)
    for k in range(300):
        at = place("salt", f"u{k}")
        low, high = ours[[arm.channel for arm in split(*shares).arms].index(assign(split(*shares), f"u{k}").channel)]
        assert low <= at < high


def test_the_chance_is_the_share_among_units_with_the_same_past() -> None:
    """20,000 units go through 5 %, 25 % and 10 %; among those with the same past, the candidate's part is the chance, within 4 sigma."""
    steps = ((9_500, 500), (7_500, 2_500), (9_000, 1_000))
    units = [f"u{k}" for k in range(20_000)]
    known: dict[str, Place] = {}
    for stage, shares in enumerate(steps):
        present = units if stage != 1 else units[: len(units) // 2]
        arms = [0 if assign(split(*shares), unit).channel == "c0" else 1 for unit in present]
        entered = enter(known, present, arms, shares, stage)
        assert not len(entered.astray)
        assert len(entered.rows) == len(present)
        for chance in np.unique(entered.chance[:, 1]):
            group = entered.arm[entered.chance[:, 1] == chance]
            assert abs(group.mean() - chance) <= 4 * np.sqrt(chance * (1 - chance) / len(group))
        known |= entered.places
    assert {0.0, 1.0} < set(np.unique(entered.chance[:, 1]).tolist())


def test_a_unit_counts_once_a_stage() -> None:
    first = enter({}, ["a", "b", "a", "c", "b"], [0, 1, 0, 0, 1], (7_500, 2_500), 0)
    assert first.rows.tolist() == [0, 1, 3]
    assert first.fresh.tolist() == [True, True, True]
    assert not len(enter(first.places, ["a", "b"], [0, 1], (7_500, 2_500), 0).rows)
    again = enter(first.places, ["b", "a"], [1, 0], (5_000, 5_000), 1)
    assert again.rows.tolist() == [0, 1]
    assert again.fresh.tolist() == [False, False]
    assert again.chance[:, 1].tolist() == [1.0, 2_500 / 7_500]


def test_a_unit_in_an_arm_that_it_cannot_be_in_is_left_out() -> None:
    known = enter({}, ["a"], [1], (5_000, 5_000), 0).places
    astray = enter(known, ["a", "a", "b"], [0, 1, 0], (5_000, 5_000), 1)
    assert astray.astray.tolist() == [0]
    assert astray.rows.tolist() == [2]


def test_a_holdback_is_the_upper_end_of_the_control() -> None:
    """At 100 % with a holdback of 5 %: who was in the candidate stays (chance 1), who was in the control has likely moved."""
    known = enter({}, ["a", "b"], [0, 1], (5_000, 5_000), 0).places
    held = enter(known, ["a", "b", "new"], [1, 1, 0], (500, 9_500), 1)
    assert held.chance[:, 1].tolist() == [0.9, 1.0, 0.95]


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(InvalidInput):
        chances((5_000, 4_000), [0], [10_000])
