"""Bets on the arm of a unit: is the candidate over-represented among the units that failed (or that were slow, or that came at all)?

Take units to which something happened, one after the other. If it happens to the candidate's units as readily as to the control's, then
the unit at hand is the candidate's with its known chance p, **whatever the rate at which it happens**: a base rate that drifts, bursts or
follows the sun cancels (P(arm | event) = p r1 / (p r1 + (1 - p) r0), and r0 = r1). This is the conditional test of two Poisson rates
(Przyborowski & Wilenski, Biometrika 1940) and Cox's partial likelihood, bet on one event at a time:

    wealth *= q / p if it is the candidate's, (1 - q) / (1 - p) if not,    q = p r / (1 + p (r - 1))

for a supposed ratio r = r1 / r0. With r > 1 its mean under "r1 <= r0" is at most 1, so it is a non-negative supermartingale, and so is the
mean over a grid of ratios (a prior on the relative risk); by Ville's inequality it ever reaches 1/alpha with chance at most alpha. A
tolerated ratio rho moves the null to p rho / (1 + p (rho - 1)).

With ratios on both sides of 1 and every unit an event it tests the assignment itself: the sample-ratio test of Lindon & Malek
("Anytime-valid inference for multinomial count data", NeurIPS 2022), with a grid on the log odds in place of their Dirichlet prior, since
chances vary here.
"""

from __future__ import annotations

import math

import numpy as np

from andon.rollouts.analysis.records import Floats, Ints, Odds

HARM = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""Supposed relative risks, equally likely beforehand."""
MISMATCH = tuple(math.exp(sign * size) for size in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0) for sign in (1, -1))
"""Supposed odds ratios of a broken assignment."""


def log_mean_exp(logs: Floats) -> Floats:
    """The logarithm of the mean over the last axis of ``exp(logs)``, without overflow."""
    top = logs.max(axis=-1)
    mean: Floats = np.log(np.exp(logs - top[..., None]).mean(axis=-1)) + top
    return mean


def bet(odds: Odds, taken: Floats, chance: Floats, ratios: tuple[float, ...] = HARM, *, tolerated: float = 1.0) -> Odds:
    """Bet on events in their order: ``taken`` (n,) 1.0 where the unit is the candidate's, ``chance`` (n,) that it would be.

    Sums run from left to right, so that blocks may be cut anywhere. An event with chance 0 or 1 counts, and changes no wealth.

    >>> after = bet(Odds(), np.ones(9), np.full(9, 0.5))
    >>> after.n, after.peak > math.log(1 / 0.05)
    (9, True)
    """
    if not len(taken):
        return odds
    return _after(odds, log_steps(taken, chance, ratios, tolerated), taken, chance)


def log_steps(taken: Floats, chance: Floats, ratios: tuple[float, ...], tolerated: float = 1.0) -> Floats:
    """What each event adds to the log wealth of each supposed ratio, shape (n, ratios): log r if it is the candidate's, less its price."""
    null = chance * tolerated / (1 + chance * (tolerated - 1))
    supposed = np.asarray(ratios)
    steps: Floats = taken[:, None] * np.log(supposed) - np.log1p(null[:, None] * (supposed - 1))
    return steps


def bet_on_arms(odds: Odds, arm: Ints, chance: Floats, ratios: tuple[float, ...] = MISMATCH) -> Odds:
    """The sample-ratio test for any number of arms: ``chance`` (n, arms). Supposes one arm at a time to be over- or under-served.

    ``taken`` counts the units of all candidates together. Units that could only be of one arm say nothing.
    """
    arms = chance.shape[1]
    if not len(arm):
        return odds
    tilted = range(1, arms) if arms == 2 else range(arms)  # with two arms, more of one is less of the other
    logs = np.log(np.asarray(ratios))
    steps = np.concatenate(
        [(arm == k)[:, None] * logs - np.log1p(chance[:, k, None] * np.expm1(logs)) for k in tilted],
        axis=1,
    )
    return _after(odds, steps, (arm != 0).astype(np.float64), 1 - chance[:, 0])


def _after(odds: Odds, steps: Floats, taken: Floats, chance: Floats) -> Odds:
    start = odds.log_wealth or (0.0,) * steps.shape[1]
    paths = np.cumsum(np.vstack([start, steps]), axis=0)[1:]
    evidence = log_mean_exp(paths)
    at = int(np.argmax(evidence))
    better = bool(evidence[at] > odds.peak)
    return Odds(
        n=odds.n + len(taken),
        taken=odds.taken + int(taken.sum()),
        expected=float(np.cumsum(np.concatenate([[odds.expected], chance]))[-1]),
        log_wealth=tuple(paths[-1].tolist()),
        peak=float(evidence[at]) if better else odds.peak,
        peak_n=odds.n + at + 1 if better else odds.peak_n,
    )
