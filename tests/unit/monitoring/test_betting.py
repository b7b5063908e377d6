from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from andon.monitoring.betting import Bettor, bet_on_change, bet_once
from andon.monitoring.tails import binomial_tail, both, fit_tail

gains = st.lists(st.floats(-3, 100), max_size=80)


@given(gains, st.floats(0.1, 1))
def test_wealth_is_finite_and_serialisable(found: list[float], worst: float) -> None:
    for step in (bet_on_change, bet_once):
        bettor = Bettor()
        for at, gain in enumerate(found):
            bettor = step(bettor, gain, worst, at)
        assert math.isfinite(bettor.evidence)
        assert 0 <= bettor.onset_us <= max(0, len(found) - 1)
        assert msgspec.json.decode(msgspec.json.encode(bettor), type=Bettor) == bettor


def test_a_fair_game_keeps_the_expected_wealth_at_one() -> None:
    """Over every path of a fair coin the mean wealth plus the cash not yet staked is 1: a martingale, exactly."""
    steps = 8
    total = 0.0
    for path in range(2**steps):
        bettor = Bettor()
        for step in range(steps):
            bettor = bet_once(bettor, 1.0 if path >> step & 1 else -1.0, 1.0, step)
        total += math.exp(bettor.evidence)
    assert abs(total / 2**steps + 1 / (steps + 1) - 1) < 1e-9


def test_a_change_is_dated() -> None:
    bettor = Bettor()
    for day in range(40):
        bettor = bet_on_change(bettor, 0.4 if day >= 25 else -0.3, 0.5, day)
    assert bettor.onset_us == 25


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0, 1))
def test_binomial_tail_is_a_probability(k: int, n: int, p: float) -> None:
    assert 0 <= binomial_tail(k, n, p) <= 1 + 1e-9
    assert binomial_tail(k + 1, n, p) <= binomial_tail(k, n, p) + 1e-9


@given(st.lists(st.floats(0, 1e6), max_size=80), st.floats(0, 1e9))
def test_a_tail_never_rises(sample: list[float], value: float) -> None:
    import numpy as np

    tail = fit_tail(np.array(sample), resolution=0.1)
    assert 0 <= tail.p(value + 1) <= tail.p(value) <= 1
    assert 0 <= both(tail.p(value), 0.5) <= 1
