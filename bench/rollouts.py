"""How often a canary is aborted although it is identical, and how soon when it is not: ours beside the usual ways to look at a dashboard.

    python bench/rollouts.py            # about two minutes on one core

Every method sees the same simulated rollouts: 20,000 requests, the canary's share 5 %, 25 %, then 50 %. ``naive`` looks after every request
at a one-sided 5 % test of everything so far; ``1.2x`` compares the two numbers on the dashboard; O'Brien-Fleming looks five times at
boundaries that are right for five looks; ``fixed horizon`` looks once, at the end.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from _report import report
from andon.releases.splits import place
from andon.rollouts.analysis import AnalysisPolicy, Block, Place, enter, start, update
from andon.rollouts.analysis.exceedances import add_latencies
from andon.rollouts.analysis.odds import bet
from andon.rollouts.analysis.records import Exceedances, Odds
from andon.rollouts.analysis.samples import Units

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
N = 2_000 if SMOKE else 20_000
STEPS = ((0.05, 0.2), (0.25, 0.5), (0.5, 1.0))
SHARE = np.concatenate([np.full(round((end - begin) * N), share) for (share, end), begin in zip(STEPS, (0.0, 0.2, 0.5), strict=True)])
ALPHA = 0.05
Z = 1.6448536269514722
LOOKS = 5
LEAST = 100
"""Requests in each arm before the peers look at all."""
Found = int | None
Array = Any


def obrien_fleming(alpha: float = ALPHA, looks: int = LOOKS) -> tuple[float, ...]:
    """One-sided boundaries z_k = c sqrt(K / k): c makes P(a random walk of K normal steps ever passes c sqrt(K)) alpha, by recursion."""
    grid = np.linspace(-12, 12, 4_801)
    width = grid[1] - grid[0]
    step = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)

    def ever(c: float) -> float:
        density, passed = step * width, 0.0
        for look in range(looks):
            if look:
                density = np.convolve(density, step * width, mode="same")
            above = grid >= c * math.sqrt(looks)
            passed += float(density[above].sum())
            density = np.where(above, 0.0, density)
        return passed

    low, high = 1.0, 3.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if ever(middle) > alpha else (low, middle)
    return tuple(high * math.sqrt(looks / k) for k in range(1, looks + 1))


BOUNDARY = obrien_fleming()


def first(hit: Array) -> Found:
    """The first request (1, 2, …) at which a method aborts."""
    return int(np.argmax(hit)) + 1 if hit.any() else None


def usual(z: Array, ready: Array, ratio: Array) -> dict[str, Found]:
    """What the usual methods say of a path of z values and of ratios canary / baseline."""
    at = np.array([round(N * k / LOOKS) - 1 for k in range(1, LOOKS + 1)])
    group = np.zeros(N, dtype=bool)
    group[at] = z[at] >= BOUNDARY
    end = np.zeros(N, dtype=bool)
    end[-1] = z[-1] >= Z
    return {
        "naive z/t-test, every request": first(ready & (z >= Z)),
        "1.2x the baseline, every request": first(ready & (ratio > 1.2)),
        "O'Brien-Fleming, 5 looks": first(ready & group),
        "fixed horizon, one look": first(ready & end),
    }


def errors_once(rng: Any, base: Array, ratio: float) -> dict[str, Found]:
    arm = (rng.random(N) < SHARE).astype(np.float64)
    event = rng.random(N) < np.minimum(1.0, base * np.where(arm == 1, ratio, 1.0))
    after = bet(Odds(), arm[event], SHARE[event])
    ours = int(np.flatnonzero(event)[_crossed(arm[event], SHARE[event]) - 1]) + 1 if after.peak >= math.log(1 / ALPHA) else None
    n1, n0 = np.cumsum(arm), np.cumsum(1 - arm)
    e1, e0 = np.cumsum(event * arm), np.cumsum(event * (1 - arm))
    ready = (n1 >= LEAST) & (n0 >= LEAST)
    with np.errstate(divide="ignore", invalid="ignore"):
        p1, p0, pooled = e1 / n1, e0 / n0, (e1 + e0) / (n1 + n0)
        z = np.nan_to_num((p1 - p0) / np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n0)))
        times = np.nan_to_num(p1 / p0, posinf=0.0)
    return {"ours, every request": ours} | usual(z, ready, times)


def _crossed(taken: Array, chance: Array) -> int:
    """At which event the wealth first passes 1/alpha: the real code, block by block of one event once the block is known."""
    low, high = 0, len(taken)
    while high - low > 1:  # the peak never falls, so halve
        middle = (low + high) // 2
        low, high = (low, middle) if bet(Odds(), taken[:middle], chance[:middle]).peak >= math.log(1 / ALPHA) else (middle, high)
    return high


def latency_once(rng: Any, swing: float, slower: float) -> dict[str, Found]:
    arm = (rng.random(N) < SHARE).astype(np.float64)
    level = 3 + swing * np.sin(np.arange(N) / N * 4 * np.pi)
    latency = np.exp(rng.normal(level, 0.5)) * np.where(arm == 1, slower, 1.0)
    state, ours = Exceedances(), None
    for begin in range(0, N, 256):
        rows = slice(begin, begin + 256)
        units = Units(latency[rows], arm[rows], SHARE[rows], np.arange(N)[rows])
        state = add_latencies(state, units, levels=(0.5, 0.95))
        if state.peak >= math.log(1 / ALPHA):
            ours = min(begin + 256, N)  # noticed at the end of this block at the latest
            break
    n1, n0 = np.cumsum(arm), np.cumsum(1 - arm)
    s1, s0 = np.cumsum(latency * arm), np.cumsum(latency * (1 - arm))
    q1, q0 = np.cumsum(latency**2 * arm), np.cumsum(latency**2 * (1 - arm))
    with np.errstate(divide="ignore", invalid="ignore"):
        m1, m0 = s1 / n1, s0 / n0
        z = np.nan_to_num((m1 - m0) / np.sqrt((q1 / n1 - m1**2) / n1 + (q0 / n0 - m0**2) / n0))
        times = np.nan_to_num(m1 / m0)
    return {"ours, every request": ours} | usual(z, (n1 >= LEAST) & (n0 >= LEAST), times)


def users_once(rng: Any, salt: str) -> tuple[bool, bool]:
    """600 users of uneven activity, 5 % of whom fail nearly always, and the same bets with every request taken for a unit."""
    requests, users, policy = N // 5, 600, AnalysisPolicy(latency=None)
    weight = 1 / np.arange(1, users + 1)
    who = rng.choice(users, requests, p=weight / weight.sum())
    rate = np.where(rng.random(users) < 0.05, 0.9, 0.01)
    at = np.array([place(salt, str(user)) for user in range(users)])
    known: dict[str, Place] = {}
    state, naive, begin = start(policy), Odds(), 0
    for stage, (share, end) in enumerate(STEPS):
        rows, cut = slice(begin, round(end * requests)), round(share * 10_000)
        begin = rows.stop
        arm = (at[who[rows]] < cut).astype(np.int64)
        failed = (rng.random(len(arm)) < rate[who[rows]]).astype(np.float64)
        entered = enter(known, [str(user) for user in who[rows].tolist()], arm.tolist(), (10_000 - cut, cut), stage)
        known |= entered.places
        block = Block(arm=entered.arm, chance=entered.chance, at_us=entered.rows, fresh=entered.fresh, error=failed[entered.rows])
        state = update(state, block, policy, stage=stage)
        event = failed > 0
        naive = bet(naive, arm[event].astype(np.float64), np.full(int(event.sum()), share))
    return state.arms[0].errors.peak >= math.log(1 / ALPHA), naive.peak >= math.log(1 / ALPHA)


def column(once: Callable[[], dict[str, Found]], rollouts: int) -> dict[str, list[Found]]:
    found: dict[str, list[Found]] = {}
    for _ in range(rollouts):
        for method, when in once().items():
            found.setdefault(method, []).append(when)
    return found


def share_aborted(found: list[Found]) -> str:
    return f"{sum(when is not None for when in found) / len(found):.1%}"


def delay(found: list[Found]) -> str:
    """Share noticed, and the median request of the abort, a miss counting as never."""
    median = float(np.median([math.inf if when is None else when for when in found]))
    return f"{sum(when is not None for when in found) / len(found):.0%}, " + ("never" if math.isinf(median) else f"{median:,.0f}")


def table(name: str, title: str, method: str, columns: list[tuple[str, Callable[[], dict[str, Found]], bool]], rollouts: int) -> None:
    cells = [(label, column(once, rollouts if equal else max(10, rollouts // 4)), equal) for label, once, equal in columns]
    rows = [(who, *(share_aborted(found[who]) if equal else delay(found[who]) for _, found, equal in cells)) for who in cells[0][1]]
    report(name, title, ("", *(label for label, _, _ in cells)), rows, method)


def main() -> None:
    rng = np.random.default_rng(7)
    steady, climbing = np.full(N, 0.01), 0.005 + 0.045 * np.arange(N) / N
    rollouts = 20 if SMOKE else 2_000
    boundary = ", ".join(f"{z:.3f}" for z in BOUNDARY)
    told = f"{N:,} requests, canary at 5/25/50 %; one-sided, alpha 5 %; O'Brien-Fleming boundaries {boundary}; seed 7"
    table(
        "rollouts_errors",
        "Error rates: aborted although identical; noticed (share, median request of the abort) when worse",
        f"{told}; {rollouts:,} rollouts where identical, a quarter of that where worse",
        [
            ("identical, steady 1 %", lambda: errors_once(rng, steady, 1.0), True),
            ("identical, 0.5 % climbing to 5 %", lambda: errors_once(rng, climbing, 1.0), True),
            ("2x, steady", lambda: errors_once(rng, steady, 2.0), False),
            ("5x, steady", lambda: errors_once(rng, steady, 5.0), False),
        ],
        rollouts,
    )
    rollouts = 10 if SMOKE else 400
    table(
        "rollouts_latency",
        "Latency: aborted although identical; noticed (share, median request of the abort) when slower",
        f"{told}; lognormal, sigma 0.5; peers compare means; ours is timed at ends of blocks of 256; {rollouts:,} rollouts, slower: 1/4",
        [
            ("identical, steady", lambda: latency_once(rng, 0.0, 1.0), True),
            ("identical, daily swing x0.6 … x1.6", lambda: latency_once(rng, 0.5, 1.0), True),
            ("+30 %, steady", lambda: latency_once(rng, 0.0, 1.3), False),
            ("+30 %, daily swing", lambda: latency_once(rng, 0.5, 1.3), False),
        ],
        rollouts,
    )
    rollouts = 10 if SMOKE else 1_000
    both = np.array([users_once(rng, f"salt-{k}") for k in range(rollouts)])
    report(
        "rollouts_users",
        "Users who come back, identical canary: wrongly aborted",
        ("", "wrongly aborted"),
        [
            ("one unit per user and step (ours)", f"{both[:, 0].mean():.1%}"),
            ("the same bets, each request a unit", f"{both[:, 1].mean():.1%}"),
        ],
        f"{N // 5:,} requests of 600 users, Zipf activity, 5 % of users fail 90 % of the time; 5/25/50 %; {rollouts:,} rollouts; seed 7",
    )


if __name__ == "__main__":
    main()
