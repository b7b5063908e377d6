"""Type-I error and power of every detector of monitoring, simulated: the seed and the bound are in the test."""

from __future__ import annotations

import numpy as np
import pytest

from andon.core.clocks import DAY_US, HOUR_US
from andon.monitoring import (
    ComparisonState,
    Frame,
    InputsState,
    Policy,
    QualityState,
    Reference,
    expectations,
    frame,
    judge_comparison,
    judge_inputs,
    judge_quality,
    profile,
)
from andon.monitoring.betting import Bettor, bet_on_change, bet_once
from andon.monitoring.inputs import rare_tests
from andon.monitoring.tails import fit_tail

POLICY = Policy()


def ar1(rng: np.random.Generator, n: int, rate: float, scale: float) -> np.ndarray:
    noise = rng.normal(0, scale * np.sqrt(1 - rate**2), n)
    path = np.zeros(n)
    for i in range(1, n):
        path[i] = rate * path[i - 1] + noise[i]
    return path


def test_bet_once_is_wrong_at_most_alpha_of_the_time() -> None:
    """Seed 11, 600 fair games of 120 days: at most 5 % ever cross (plus three standard errors)."""
    rng = np.random.default_rng(11)
    crossed = 0
    for _ in range(600):
        bettor, hit = Bettor(), False
        for day, gain in enumerate(np.tanh(rng.normal(0, 2, 120)).tolist()):
            bettor = bet_once(bettor, gain, 1.0, day)
            hit = hit or bettor.crossed(0.05)
        crossed += hit
    assert crossed / 600 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


def test_bet_on_change_keeps_its_run_length() -> None:
    """Seed 12: at the very edge of the null the mean time to a false alarm is at least 1/alpha steps: at most 400 in 20,000 at 1/50."""
    rng = np.random.default_rng(12)
    bettor, alarms, steps = Bettor(), 0, 20_000
    for day, gain in enumerate(rng.uniform(-0.5, 0.5, steps).tolist()):
        bettor = bet_on_change(bettor, gain, 0.5, day)
        if bettor.crossed(1 / 50):
            alarms, bettor = alarms + 1, Bettor()
    assert alarms <= steps / 50


def test_extreme_days_are_as_rare_as_the_tail_says() -> None:
    """Seed 13: 170 training days, then a fresh day, 20,000 times: P(p <= 0.001) is at most 0.002, and P(p <= 0.01) at most 0.015."""
    for name, draw in (("normal", lambda rng, n: np.abs(rng.normal(size=n))), ("exponential", lambda rng, n: rng.exponential(size=n))):
        rng = np.random.default_rng(13)
        small = tiny = total = 0
        for _ in range(200):
            tail = fit_tail(draw(rng, 170))
            p = np.array([tail.p(value) for value in draw(rng, 100).tolist()])
            small, tiny, total = small + int((p <= 0.01).sum()), tiny + int((p <= 0.001).sum()), total + 100
        assert small / total <= 0.015, name
        assert tiny / total <= 0.002, name


def served(rng: np.random.Generator, days: int, *, first_day: int, harm: float = 1.0, growth: float = 1.0, release: str = "r") -> Frame:
    """Hourly requests whose prediction error has day-to-day correlation 0.5 and 20 % spread, on top of hourly noise."""
    when = (first_day * 24 + np.arange(days * 24, dtype=np.int64)) * HOUR_US
    hour = when // HOUR_US % 24
    level = growth * (100 + 80 * np.sin(hour / 24 * 2 * np.pi))
    days_factor = np.repeat(np.exp(ar1(rng, days, 0.5, 0.2)), 24)
    label = level * np.exp(0.1 * rng.normal(size=len(when)))
    prediction = label + harm * days_factor * 0.1 * level * rng.normal(size=len(when))
    return frame(when, {}, prediction=prediction, label=label, release=release)


def alarm_day(rng: np.random.Generator, days: int, **how: float) -> int | None:
    gate = served(rng, 28, first_day=0)
    expected = expectations(Reference(frame([], {}), gate), POLICY)
    rows, state = served(rng, days, first_day=28, **how), QualityState()  # type: ignore[arg-type]
    for day in range(28, 28 + days):
        window = (day * DAY_US, (day + 1) * DAY_US)
        verdict, state = judge_quality(
            expected, state, rows.between(window[0] - 8 * DAY_US, window[1]), window, subject="s", release="r", policy=POLICY
        )
        if verdict.status == "fail":
            return day - 28
    return None


@pytest.mark.parametrize(("harm", "growth"), [(1.0, 1.0), (1.15, 1.0), (1.0, 2.0)])
def test_a_healthy_service_is_left_alone(harm: float, growth: float) -> None:
    """Seed 14, 40 services of 180 correlated days (the last: a world twice as large, errors growing with it): at most one alarm."""
    rng = np.random.default_rng(14)
    alarms = sum(alarm_day(rng, 180, harm=harm, growth=growth) is not None for _ in range(40))
    assert alarms <= 1


def test_a_harmed_service_is_noticed() -> None:
    """Seed 15, loss twice as large: all of 20 noticed, the median within 16 days of labels; three times: within ten."""
    rng = np.random.default_rng(15)
    for harm, within in ((2.0, 16), (3.0, 10)):
        found = [alarm_day(rng, 60, harm=harm) for _ in range(20)]
        assert all(day is not None for day in found)
        assert np.median([day for day in found if day is not None]) <= within


def replay(rng: np.random.Generator, ratio: float, days: int) -> int | None:
    """The previous release's loss is ``ratio`` times the live one's, day by day with 15 % correlated noise."""
    live = served(rng, days, first_day=0)
    noise = np.repeat(np.exp(ar1(rng, days, 0.4, 0.15)), 24)
    previous = live.label + (live.prediction - live.label) * ratio * noise * rng.choice([-1, 1], size=len(live))
    state = ComparisonState()
    for day in range(days):
        window = (day * DAY_US, (day + 1) * DAY_US)
        low, high = day * 24, (day + 1) * 24
        verdict, state = judge_comparison(
            state, live.between(*window), previous[low:high], window, subject="s", release="r", previous="q", policy=POLICY
        )
        if verdict.status == "fail":
            return day
    return None


def test_an_equally_good_release_is_not_rolled_back() -> None:
    """Seed 16, 60 pairs of equally good releases, 56 days each: at most 2 (the bets alone are allowed 5 %, the margin does the rest)."""
    rng = np.random.default_rng(16)
    assert sum(replay(rng, 1.0, 56) is not None for _ in range(60)) <= 2


def test_a_clearly_worse_release_is_rolled_back_in_about_a_week() -> None:
    """Seed 17, 30 releases with 1/0.55 the loss of the one before, 28 days: all but one at most, the median within nine days."""
    rng = np.random.default_rng(17)
    found = [replay(rng, 0.55, 28) for _ in range(30)]
    assert sum(day is None for day in found) <= 1
    assert np.median([day for day in found if day is not None]) <= 9


def weather(rng: np.random.Generator, days: int) -> Frame:
    """A year of inputs with season, daily cycle, a related pair, a calendar and a category; nothing is ever broken."""
    when = np.arange(days * 24, dtype=np.int64) * HOUR_US
    hour, day = when // HOUR_US % 24, when // DAY_US
    celsius = np.round(10 - 9 * np.cos(2 * np.pi * day / 365) + 4 * np.sin(2 * np.pi * (hour - 9) / 24) + ar1(rng, len(when), 0.97, 3), 1)
    return frame(
        when,
        {
            "h": hour, "t": celsius, "felt": np.round(1.1 * celsius - 2 + rng.normal(0, 0.3, len(when)), 1),
            "gust": np.round(np.exp(ar1(rng, len(when), 0.9, 0.5)), 2), "weekend": ((day + 3) % 7 >= 5).astype(float),
            "sky": np.where(ar1(rng, len(when), 0.95, 1) > 0, "clear", "cloud").astype(object),
        },
    )  # fmt: skip


def test_input_alarms_keep_to_the_yearly_budget() -> None:
    """Seed 18, five sound spans of 300 days, each judged by the 180 days before, re-learned every 60: at most budget + 3 sigma."""
    rng = np.random.default_rng(18)
    failed = years = 0.0
    for _ in range(5):
        rows = weather(rng, 480)
        known, state = profile(rows.between(0, 180 * DAY_US)), InputsState()
        assert 0 < POLICY.row_alpha(rare_tests(known)) < 1e-3
        for day in range(180, 480):
            if (day - 180) % 60 == 0:
                known, state = profile(rows.between((day - 180) * DAY_US, day * DAY_US)), InputsState()
            window = (day * DAY_US, (day + 1) * DAY_US)
            verdicts, state = judge_inputs(
                known, state, rows.between(window[0] - 4 * DAY_US, window[1]), window, subject="s", policy=POLICY
            )
            failed += any(verdict.status == "fail" for verdict in verdicts)
        years += 300 / 365
    expected = POLICY.data_false_alarms_per_year * years
    assert failed <= expected + 3 * np.sqrt(expected)
