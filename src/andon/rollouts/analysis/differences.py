"""How much worse is the candidate on average? An e-process and a confidence sequence from three sums, valid at any look.

For the i-th unit: value y in [0, 1], arm A (1: the candidate's), known chance p of A = 1, and a baseline b, the mean of the values before
it. Then ``x = (y - b) (A - p)`` has conditional mean ``w d`` with ``w = p (1 - p)`` and ``d`` the candidate's conditional mean minus the
control's **at that moment**: the base rate and the share may move as they like (inverse-propensity weighting, as in Waudby-Smith, Wu,
Ramdas, Karampatziakis & Mineiro, "Anytime-valid off-policy inference for contextual bandits", 2024, multiplied by w, which keeps x in
[-1, 1]).

With ``S = sum x``, ``W = sum w``, ``V = sum x^2`` and ``psi(t) = -log(1 - t) - t``, for every 0 <= t < 1 and every direction

    exp(t (S - sum w d) - psi(t) V)

is a non-negative supermartingale (Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences",
Annals of Statistics 2021, Theorem 4, from Fan, Grama & Liu 2015: exp(t x - psi(t) x^2) <= 1 + t x for x >= -1). It stays one when
averaged over a grid of t (a discrete mixture; the best t is about effect / variance). It bounds the running average effect ``sum w d /
W``, so effects may drift too. Evidence against "worse by at most m" puts ``m W`` in place of ``sum w d``, evidence against "worse by at
least m" turns the sign, and the values of m that neither refutes are the confidence sequence: decisions and intervals agree by
construction.

Against "worse by at least the margin" the effect to bet on is known: none, so the best t is about margin / variance. It is estimated from
the first 64 units, on which nothing is bet, and three quarters of the mixture's weight go near it.

For paired answers to the same request (a shadow) x is the difference itself and w is 1.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from andon.rollouts.analysis.odds import log_mean_exp
from andon.rollouts.analysis.records import Difference, Floats, Ints

BETS = 0.9 * 0.5 ** np.arange(14)
WARM = 64
"""So many units tune the bets against "worse by at least the margin", before anything is bet."""
_PSI = -np.log1p(-BETS) - BETS
_NEAR, _WIDTH = 0.75, 0.7
_MOST_POINTS = 64


def add(
    difference: Difference,
    value: Floats,
    arm: Floats,
    chance: Floats,
    at_us: Ints,
    *,
    tolerance: float | None = None,
    margin: float | None = None,
) -> Difference:
    """Add units in order of exposure: ``value`` in [0, 1], larger is worse; ``arm`` 0.0 or 1.0; ``chance`` of 1; all (n,).

    With a ``tolerance`` (in the scale of the values) the evidence of harm beyond it is looked at after every unit, and its peak kept.
    With a ``margin`` the bets against it are tuned to the first 64 units.

    >>> rng = np.random.default_rng(1)
    >>> arm = (rng.random(4000) < 0.5).astype(float)
    >>> value = (rng.random(4000) < 0.05 + 0.1 * arm).astype(float)
    >>> found = add(Difference(), value, arm, np.full(4000, 0.5), np.arange(4000), tolerance=0.0)
    >>> found.peak > 3.0, bool(interval(found, 0.025, 0.025)[0] < 0.1 < interval(found, 0.025, 0.025)[1])
    (True, True)
    """
    if not len(value):
        return difference
    return replace(
        _moved(difference, *unpaired(difference, value, arm, chance), at_us, tolerance, margin),
        n_control=difference.n_control + int((1 - arm).sum()),
        n_candidate=difference.n_candidate + int(arm.sum()),
        total=_sums(difference.total, value)[-1].item(),
        total_control=_sums(difference.total_control, value * (1 - arm))[-1].item(),
        total_candidate=_sums(difference.total_candidate, value * arm)[-1].item(),
    )


def add_pairs(
    difference: Difference,
    control: Floats,
    candidate: Floats,
    at_us: Ints,
    *,
    tolerance: float | None = None,
    margin: float | None = None,
) -> Difference:
    """Add pairs of values (n,) in [0, 1] of the same requests, larger is worse."""
    if not len(control):
        return difference
    return replace(
        _moved(difference, candidate - control, np.ones(len(control)), at_us, tolerance, margin),
        n_control=difference.n + len(control),
        n_candidate=difference.n + len(control),
        total_control=_sums(difference.total_control, control)[-1].item(),
        total_candidate=_sums(difference.total_candidate, candidate)[-1].item(),
    )


def unpaired(difference: Difference, value: Floats, arm: Floats, chance: Floats) -> tuple[Floats, Floats]:
    """What each unit adds to S and to W, each (n,)."""
    seen = difference.n + np.arange(len(value))
    totals = np.concatenate([[difference.total], _sums(difference.total, value)[:-1]])
    played = (seen > 0).astype(np.float64)  # the very first unit only sets the baseline: nothing is bet on it
    return played * (value - totals / np.maximum(seen, 1)) * (arm - chance), played * chance * (1 - chance)


def paths(before: Difference, x: Floats, w: Floats) -> tuple[Floats, Floats, Floats]:
    """S, W and V after each unit that adds ``x`` and ``w``, each (n,)."""
    return _sums(before.excess, x), _sums(before.weight, w), _sums(before.variance, np.square(x))


def _sums(before: float, steps: Floats) -> Floats:
    """Running sums from left to right, the same however blocks are cut."""
    sums: Floats = np.cumsum(np.concatenate([[before], steps]))[1:]
    return sums


def _moved(before: Difference, x: Floats, w: Floats, at_us: Ints, tolerance: float | None, margin: float | None) -> Difference:
    """The sums after ``x`` and ``w``, the peak of the evidence and the trail."""
    if margin is not None and before.n < WARM:
        cut = min(len(x), WARM - before.n)
        weight, variance = _sums(before.warm[0], w[:cut])[-1].item(), _sums(before.warm[1], np.square(x[:cut]))[-1].item()
        warmed = replace(before, n=before.n + cut, warm=(weight, variance))
        if warmed.n == WARM:
            warmed = replace(warmed, centre=tuned(weight / WARM, variance / WARM, margin))
        return _moved(warmed, x[cut:], w[cut:], at_us[cut:], tolerance, margin) if cut < len(x) else warmed
    excess, weights, variances = paths(before, x, w)
    n = before.n + len(x)
    peak, peak_n = before.peak, before.peak_n
    if tolerance is not None:
        evidence = log_evidence(excess - tolerance * weights, variances)
        at = int(np.argmax(evidence))
        if evidence[at] > peak:
            peak, peak_n = float(evidence[at]), before.n + at + 1
    stride = before.stride
    while stride and n // stride > _MOST_POINTS:
        stride *= 2
    kept = [point for point in before.trail if point[0] % stride == 0]
    kept += [
        (before.n + i + 1, int(at_us[i]), float(excess[i]), float(weights[i]), float(variances[i]))
        for i in (range(stride - 1 - before.n % stride, len(x), stride) if stride else ())
    ]
    return replace(
        before,
        n=n,
        excess=excess[-1].item(),
        weight=weights[-1].item(),
        variance=variances[-1].item(),
        peak=peak,
        peak_n=peak_n,
        trail=tuple(kept),
        stride=stride,
    )


def tuned(weight: float, variance: float, margin: float) -> float:
    """The best single bet against ``margin`` if the arms are equal: margin / variance, from a mean weight and square; 0: unknown.

    Half an event is added to the variance, or rare errors would look like none at all.
    """
    if weight <= 0:
        return 0.0
    best = margin * weight / (variance + 0.5 * weight / WARM)
    return min(float(BETS[0]), max(float(BETS[-1]), best))


def _log_weights(centre: float) -> Floats:
    """How the bets are weighed: alike, or three quarters of the weight around the tuned one (a normal in log2, of width 0.7)."""
    alike = np.full(len(BETS), 1 / len(BETS))
    if centre <= 0:
        flat: Floats = np.log(alike)
        return flat
    near = np.exp(-np.square(np.log2(BETS / centre)) / (2 * _WIDTH**2))
    weights: Floats = np.log(_NEAR * near / near.sum() + (1 - _NEAR) * alike)
    return weights


def log_evidence(excess: Floats, variance: Floats, centre: float = 0.0) -> Floats:
    """Log of the mixed wealth for centred sums ``S - m W`` and ``V``, of one shape; ``centre``: the tuned bet."""
    logs: Floats = BETS * np.asarray(excess)[..., None] - _PSI * np.asarray(variance)[..., None] + _log_weights(centre) + np.log(len(BETS))
    return log_mean_exp(logs)


def harm_evidence(difference: Difference, tolerance: float) -> float:
    """Log evidence, now, against "worse by at most ``tolerance``"."""
    return float(log_evidence(np.asarray(difference.excess - tolerance * difference.weight), np.asarray(difference.variance)))


def harmless_evidence(difference: Difference, margin: float) -> float:
    """Log evidence, now, against "worse by at least ``margin``". Now, not at its best: a proof of harmlessness may be lost again."""
    excess = np.asarray(margin * difference.weight - difference.excess)
    return float(log_evidence(excess, np.asarray(difference.variance), difference.centre))


def within_evidence(difference: Difference, margin: float) -> float:
    """Log evidence, now, against "apart by at least ``margin``, in either direction": the weaker of the two."""
    reverse = log_evidence(np.asarray(difference.excess + margin * difference.weight), np.asarray(difference.variance))
    return min(harmless_evidence(difference, margin), float(reverse))


def played(difference: Difference) -> int:
    """Units that were bet on: all, but for those that tuned the bets."""
    return difference.n - min(difference.n, WARM) if difference.warm[0] > 0 else difference.n


def estimate(difference: Difference) -> float | None:
    """The weighted average of the candidate's mean minus the control's; None before anything is known."""
    return difference.excess / difference.weight if difference.weight > 0 else None


def interval(difference: Difference, alpha_low: float, alpha_high: float, *, most: float = 1.0) -> tuple[float, float]:
    """The confidence sequence now: below ``low`` with chance ``alpha_low`` at most, ever, and above ``high`` with ``alpha_high``.

    Bounds are clipped to ``[-most, most]``, which is all that can be.
    """
    sums = [(difference.excess, difference.weight, difference.variance)]
    low, high = intervals(sums, alpha_low, alpha_high, centre=difference.centre, most=most)
    return float(low[0]), float(high[0])


def intervals(
    sums: list[tuple[float, float, float]], alpha_low: float, alpha_high: float, *, centre: float = 0.0, most: float = 1.0
) -> tuple[Floats, Floats]:
    """``interval`` for many (S, W, V): low and high, each (len(sums),)."""
    table = np.asarray(sums, dtype=np.float64).reshape(-1, 3)
    excess, weight, variance = table.T
    low = -_upper(-excess, weight, variance, alpha_low, 0.0, most)
    high = _upper(excess, weight, variance, alpha_high, centre, most)
    return low, high


def _upper(excess: Floats, weight: Floats, variance: Floats, alpha: float, centre: float, most: float) -> Floats:
    """The smallest m above which "worse by at least m" is refuted: log_evidence(m W - S, V) grows with m, so halve 36 times."""
    target = np.log(1 / alpha)
    left, right = np.full(len(excess), -most), np.full(len(excess), most)
    for _ in range(36):
        middle = (left + right) / 2
        refuted = log_evidence(middle * weight - excess, variance, centre) >= target
        right = np.where(refuted, middle, right)
        left = np.where(refuted, left, middle)
    return right


def history(difference: Difference, alpha_low: float, alpha_high: float) -> list[tuple[int, int, float, float, float]]:
    """For drawing: (n, at_us, low, mid, high) at every ``stride``-th unit, at most 64 points."""
    if not difference.trail:
        return []
    low, high = intervals([(s, w, v) for _, _, s, w, v in difference.trail], alpha_low, alpha_high, centre=difference.centre)
    return [(n, at, float(low[i]), s / w if w > 0 else 0.0, float(high[i])) for i, (n, at, s, w, _) in enumerate(difference.trail)]
