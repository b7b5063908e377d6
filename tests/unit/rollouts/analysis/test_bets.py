"""Every bet is fair, exactly: the inequalities that the bounds rest on, and the sums against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from andon.rollouts.analysis import differences, odds
from andon.rollouts.analysis.differences import (
    BETS,
    WARM,
    add,
    harm_evidence,
    harmless_evidence,
    interval,
    log_evidence,
    tuned,
    within_evidence,
)
from andon.rollouts.analysis.records import Difference, Odds


def test_a_bet_on_an_arm_is_worth_its_stake_at_any_chance_and_ratio() -> None:
    for ratios in (odds.HARM, odds.MISMATCH):
        for chance in (0.0, 0.01, 0.05, 0.5, 0.95, 1.0):
            both = np.exp(odds.log_steps(np.array([1.0, 0.0]), np.array([chance, chance]), ratios))
            assert chance * both[0] + (1 - chance) * both[1] == pytest.approx(1.0, abs=1e-12)
            tolerated = np.exp(odds.log_steps(np.array([1.0, 0.0]), np.array([chance, chance]), ratios, 2.0))
            at_null = 2 * chance / (1 + chance)
            assert at_null * tolerated[0] + (1 - at_null) * tolerated[1] == pytest.approx(1.0, abs=1e-12)


def test_a_bet_on_several_arms_is_worth_its_stake() -> None:
    chance = np.array([[0.5, 0.3, 0.2]])
    worth = [math.exp(odds.log_mean_exp(np.array([odds.bet_on_arms(Odds(), np.array([k]), chance).log_wealth]))[0]) for k in range(3)]
    assert float(chance[0] @ worth) == pytest.approx(1.0, abs=1e-12)


def test_a_bet_on_a_difference_is_worth_at_most_its_stake() -> None:
    """exp(t x - psi(t) x^2) <= 1 + t x for every t that is bet and every x that can be, and for -x; equal to second order at 0."""
    x = np.linspace(-1, 1, 4_001)
    for t in BETS.tolist():
        psi = -math.log1p(-t) - t
        assert (np.exp(t * x - psi * x**2) <= 1 + t * x + 1e-12).all()
        assert (np.exp(t * x - 0.9 * psi * x**2) > 1 + t * x + 1e-12).any()
    assert float(log_evidence(np.array(-1.0), np.array(0.0))) == pytest.approx(math.log(np.exp(-BETS).mean()))


@pytest.mark.parametrize("margin", [None, 0.05])
def test_the_sums_are_a_plain_loop(margin: float | None) -> None:
    rng = np.random.default_rng(3)
    n = 300
    chance = rng.choice([0.05, 0.25, 1.0], n)
    arm = (rng.random(n) < chance).astype(np.float64)
    value = rng.random(n)
    found = add(Difference(), value, arm, chance, np.arange(n), tolerance=0.01, margin=margin)
    excess = weight = variance = total = peak = 0.0
    for i in range(n):
        x = (value[i] - total / i) * (arm[i] - chance[i]) if i else 0.0
        if i and (margin is None or i >= WARM):
            excess, weight, variance = excess + x, weight + chance[i] * (1 - chance[i]), variance + x * x
            wealth = sum(math.exp(t * (excess - 0.01 * weight) - (-math.log1p(-t) - t) * variance) for t in BETS.tolist()) / len(BETS)
            peak = max(peak, math.log(wealth))
        total += value[i]
    assert (found.excess, found.weight, found.variance) == pytest.approx((excess, weight, variance))
    assert found.peak == pytest.approx(peak)
    assert (found.centre > 0) == (margin is not None)


def test_the_interval_is_what_neither_direction_refutes() -> None:
    rng = np.random.default_rng(4)
    arm = (rng.random(3_000) < 0.5).astype(np.float64)
    found = add(Difference(), np.clip(rng.normal(0.4 + 0.1 * arm, 0.2), 0, 1), arm, np.full(3_000, 0.5), np.arange(3_000), margin=0.2)
    low, high = interval(found, 0.01, 0.05)
    assert harm_evidence(found, low - 1e-6) > math.log(100) > harm_evidence(found, low + 1e-6)
    assert harmless_evidence(found, high + 1e-6) > math.log(20) > harmless_evidence(found, high - 1e-6)
    assert 0.04 < low < 0.1 < high < 0.15
    assert within_evidence(found, 0.2) == harmless_evidence(found, 0.2)
    assert interval(Difference(), 0.05, 0.05) == (-1.0, 1.0)


def test_the_weights_of_the_bets_add_up_wherever_they_are_tuned() -> None:
    for centre in (0.0, 0.9, 0.1, 1e-4):
        assert float(log_evidence(np.array(0.0), np.array(0.0), centre)) == pytest.approx(0.0, abs=1e-12)
    assert tuned(0.0, 0.0, 0.1) == 0.0
    assert tuned(0.25, 0.0025, 0.01) == pytest.approx(0.01 * 0.25 / (0.0025 + 0.125 / WARM))
    assert tuned(0.25, 0.0, 5.0) == BETS[0]
    assert differences.played(Difference(n=100)) == 100
