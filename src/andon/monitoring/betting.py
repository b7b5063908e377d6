"""Anytime-valid evidence by betting: look after every window, as often as you like, and the error bound still holds.

A bettor stakes a share of its wealth against the null at every step. If the null is true its wealth is a non-negative supermartingale,
so by Ville's inequality it ever reaches 1/alpha with chance at most alpha (Waudby-Smith & Ramdas, "Estimating means of bounded random
variables by betting", JRSS-B 2024, sections 3 and 4). To notice a *change*, wealth is topped up to 1 before each bet; the result is
the CUSUM e-detector, whose mean time to a false alarm is at least 1/alpha steps (Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric
framework for sequential change detection", NEJSDS 2024, Theorem 2.4 with the CUSUM bounded by the Shiryaev-Roberts sum).

The null is about conditional means of *steps*, so a step must be long enough to hold the correlation: one window, not one row.
"""

from __future__ import annotations

import math

import msgspec

STAKES = (0.15, 0.4, 0.9)
"""Shares of the largest stake that cannot ruin the bettor. Wealth is the average over them, which is again an e-process."""


class Bettor(msgspec.Struct, frozen=True):
    """Wealth so far, per stake; save it between windows. ``since_us`` is where the evidence that counts began."""

    log_wealth: tuple[float, ...] = ()
    since_us: tuple[int, ...] = ()
    steps: int = 0

    @property
    def evidence(self) -> float:
        """The natural logarithm of the mean wealth (at most 300, for JSON's sake); compare with ``log(1 / alpha)``."""
        if not self.log_wealth:
            return 0.0
        top = max(self.log_wealth)
        return min(300.0, top + math.log(sum(math.exp(value - top) for value in self.log_wealth) / len(self.log_wealth)))

    @property
    def onset_us(self) -> int:
        """Start of the step at which the winning stake was last renewed: the classical estimate of a change's onset."""
        if not self.log_wealth:
            return 0
        return self.since_us[max(range(len(self.log_wealth)), key=lambda k: self.log_wealth[k])]

    def crossed(self, alpha: float) -> bool:
        """Has the evidence reached 1/alpha?"""
        return self.evidence >= math.log(1 / alpha)


def bet_on_change(bettor: Bettor, gain: float, worst: float, at_us: int) -> Bettor:
    """One step of the CUSUM e-detector: 1/alpha bounds the mean number of steps to a false alarm from below.

    ``gain`` has a conditional mean of at most 0 under the null and is never below ``-worst`` (``worst > 0``).

    >>> bettor = Bettor()
    >>> for day in range(12):
    ...     bettor = bet_on_change(bettor, -0.5 if day < 3 else 0.9, 1.0, day)
    >>> bettor.crossed(0.05), bettor.onset_us
    (True, 3)
    """
    return _step(bettor, gain, worst, at_us, STAKES, spend=False)


def bet_once(bettor: Bettor, gain: float, worst: float, at_us: int, stakes: tuple[float, ...] = (0.5, 0.9)) -> Bettor:
    """One step of an e-process: the chance that it *ever* crosses under the null is at most alpha.

    So that a change later on is noticed too, a share ``1 / (t (t + 1))`` of the wealth enters the game at step ``t`` (the shares sum to
    1, so the total stays an e-process); half of it at the first step, at a cost of ``log 2``. Arguments as :func:`bet_on_change`.

    >>> bettor = Bettor()
    >>> for day in range(9):
    ...     bettor = bet_once(bettor, 1.0, 1.0, day)
    >>> bettor.crossed(0.05), bettor.onset_us
    (True, 0)
    """
    return _step(bettor, gain, worst, at_us, stakes, spend=True)


def _step(bettor: Bettor, gain: float, worst: float, at_us: int, stakes: tuple[float, ...], *, spend: bool) -> Bettor:
    gain = max(gain, -worst)
    entry = -math.log((bettor.steps + 1) * (bettor.steps + 2)) if spend else 0.0
    logs, since = [], []
    for k, share in enumerate(stakes):
        before = bettor.log_wealth[k] if bettor.steps else -math.inf
        renewed = before <= entry
        started = at_us if renewed else bettor.since_us[k]
        if spend:
            top = max(before, entry)
            before = top + math.log(math.exp(before - top) + math.exp(entry - top))
        elif renewed:
            before = 0.0
        logs.append(min(300.0, before + math.log1p(share * gain / worst)))
        since.append(started)
    return Bettor(tuple(logs), tuple(since), bettor.steps + 1)
