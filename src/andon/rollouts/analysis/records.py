"""What the analysis of a rollout is told (blocks of units, a policy) and what it remembers (small states, JSON through msgspec).

Words used everywhere here:

- A **unit** is what was assigned: a user, a session, or one request where nothing names the user. It counts **once a stage**, when it first
  appears in that stage, with what it did in a window from then on that the caller chooses (a window of 0 is its first request).
- **Arm** 0 is the control (what production was before), arms 1, 2, … are the candidates.
- A unit's **chance** of an arm is what was known of it just before this appearance: the stage's share, unless the unit was seen before,
  when its place among the splits is already narrowed down (``units.py`` has the formula). A chance of 0 or 1 says nothing, and adds
  nothing.
- **Harm** is measured in the metric's own unit and is positive when the candidate is worse, whichever direction is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from andon.core.errors import InvalidInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[Any]
Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Units of one stage **in order of exposure** (first appearance in the stage), as columns of length n.

    A unit is a row in one block only for each thing it says, so that it counts once a stage: what is known at once (errors, latency, score)
    comes in one block, and a label or a late metric comes in a later block whose other columns are absent. Each column must keep the order
    of exposure from block to block by itself. Both arms' labels must have had the same time to arrive: leave out every unit exposed less
    than the label delay ago, whatever its arm and even if its label is there already.

    NaN in a column means that the unit has nothing to say there, such as a unit old enough whose label never came: keep its row. Whether a
    unit has something to say must not depend on its arm; this is tested, and a difference makes that metric undecided.
    """

    arm: Ints
    """The arm that the unit was given."""
    chance: Floats
    """Shape (n, arms): the chance of each arm just before; rows add up to 1."""
    at_us: Ints
    """Event time of the exposure."""
    fresh: NDArray[np.bool_] | None = None
    """True where the unit is seen for the first time in the rollout. Absent for late blocks: no unit of them is counted again."""
    error: Floats | None = None
    """1: a request of the unit failed in its window (a status other than ``ok``, or NaN in the answer); 0: none did."""
    latency_ms: Floats | None = None
    """Of its first request in the window. A failed request counts as ``inf``, or fast failures would pass for speed."""
    score: Floats | None = None
    """The prediction (the first row of the first request): any number, a class index too. NaN for a failed request."""
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    """One column for each declared metric that this block speaks of, in the metric's unit."""
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Column -> value of each unit, such as ``country`` -> ``("FR", "PT", …)``; an empty text: belongs to no slice."""

    def __len__(self) -> int:
        return len(self.arm)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedBlock:
    """Requests that both arms answered (a shadow, a standing challenger), in order: each column has shape (n, 2), the control's first.

    Of a unit that asks often only the first request counts, as requests of one unit are not independent; NaN: nothing to say.
    """

    at_us: Ints
    error: Floats | None = None
    latency_ms: Floats | None = None
    score: Floats | None = None
    metrics: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.at_us)


class ErrorPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How error rates are judged. ``margin`` is absolute: 0.005 lets the candidate fail 0.5 percentage points more often, at most."""

    margin: float = 0.005
    tolerated_ratio: float = 1.0
    """Abort on proof that the candidate's error rate is more than this many times the control's, at the same moments."""
    guard: bool = True
    required: bool = True
    weight: float = 2.0
    """Share of ``alpha_abort``, relative to the other guards'."""


class LatencyPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How latency is judged: by how often it exceeds thresholds.

    Without ``thresholds_ms`` they are quantiles (``levels``) of the latest units of both arms together, renewed every 256 units, so that
    they follow the time of day; with them they are fixed, such as what was promised to callers.
    """

    levels: tuple[float, ...] = (0.5, 0.95)
    thresholds_ms: tuple[float, ...] = ()
    slack: float = 0.1
    """Share by which thresholds that are quantiles are raised, and …"""
    slack_ms: float = 1.0
    """… the milliseconds that come on top. Two equal models in one process differ by some tenths: the smaller arm's batch runs after the
    larger one's. What is proven is that the candidate is slower by more than that."""
    margins: tuple[float, ...] = (0.05, 0.02)
    """For each threshold: how much more often (absolute) the candidate may exceed it and still be promoted."""
    tolerated_ratio: float = 1.0
    guard: bool = True
    required: bool = True
    weight: float = 1.0


class ScorePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the distribution of predictions is judged: the largest gap between the arms' distribution functions at the ``levels``."""

    levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
    tolerance: float = 0.1
    """Abort on proof that the gap is larger. A better model answers differently, so 0 would abort every new model."""
    margin: float = 0.2
    guard: bool = True
    required: bool = False
    weight: float = 1.0


class MetricPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A declared metric: business value, labelled loss, a proxy, cost. Values are clipped to ``[low, high]``.

    Tight limits make it quick: what the bounds hold against is the range, so a range ten times too wide takes up to ten times the units.
    """

    name: str
    low: float
    high: float
    better: Better
    margin: float
    """Absolute, in the metric's unit: being worse by less than this is good enough to promote."""
    tolerance: float = 0.0
    """Absolute: abort on proof that the candidate is worse by more than this."""
    guard: bool = True
    required: bool = True
    weight: float = 1.0


class AnalysisPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured and how sure one must be. Checked by :func:`check_policy`."""

    alpha_abort: float = 0.05
    """Bounds the chance that a candidate no worse than the control is *ever* aborted, over all guards, steps and looks together."""
    alpha_promote: float = 0.05
    """Bounds the chance that a candidate worse by a required metric's margin is ever promoted."""
    alpha_mismatch: float = 0.01
    """Bounds the chance that a sound assignment is ever called mismatched."""
    min_units: int = 100
    """Units in each arm below which nothing passes; proof of harm needs no minimum."""
    errors: ErrorPolicy | None = ErrorPolicy()
    latency: LatencyPolicy | None = LatencyPolicy()
    scores: ScorePolicy | None = None
    metrics: tuple[MetricPolicy, ...] = ()
    slices: tuple[str, ...] = ()
    """Columns whose values are slices. Error rates and guarded metrics are judged in each, by Holm over ``most_slices`` of them."""
    most_slices: int = 20
    slice_weight: float = 1.0


class Odds(msgspec.Struct, frozen=True):
    """Wealth of bets on which arm a unit is of; see ``odds.py``."""

    n: int = 0
    taken: int = 0
    """How many of the n were the candidate's."""
    expected: float = 0.0
    """How many were to be expected: the sum of the chances."""
    log_wealth: tuple[float, ...] = ()
    peak: float = 0.0
    """The largest natural logarithm of the mean wealth so far; ``peak_n`` is where it was reached."""
    peak_n: int = 0


class Difference(msgspec.Struct, frozen=True):
    """Sums that say everything about a difference between two arms; see ``differences.py``."""

    n: int = 0
    n_control: int = 0
    n_candidate: int = 0
    total: float = 0.0
    """Sum of the values, for the baseline that later values are measured from."""
    total_control: float = 0.0
    total_candidate: float = 0.0
    warm: tuple[float, float] = (0.0, 0.0)
    """W and V of the units before the bets were tuned; nothing is bet on those."""
    centre: float = 0.0
    """The bet against harm that was tuned to them; 0: all bets weigh the same."""
    excess: float = 0.0
    """S: the sum of (value - baseline) (arm - chance)."""
    weight: float = 0.0
    """W: the sum of chance (1 - chance)."""
    variance: float = 0.0
    """V: the sum of the squares of what S adds up."""
    peak: float = 0.0
    """The largest log evidence of harm beyond the tolerance so far."""
    peak_n: int = 0
    trail: tuple[tuple[int, int, float, float, float], ...] = ()
    """(n, at_us, S, W, V) at every ``stride``-th unit: a confidence sequence's history in at most 64 points."""
    stride: int = 16
    """0: keep no trail."""


class Exceedances(msgspec.Struct, frozen=True):
    """How often values exceed thresholds, in two arms; see ``exceedances.py``."""

    n: int = 0
    thresholds: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()
    """The values since the thresholds were last renewed, at most 256."""
    odds: tuple[Odds, ...] = ()
    rates: tuple[Difference, ...] = ()
    peak: float = 0.0
    peak_n: int = 0
    histogram: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """Counts of the present stage on a fixed grid: of the control, of the candidate."""


class Coverage(msgspec.Struct, frozen=True):
    """Whether both arms have something to say equally often: bets on the arm of those that have not, and of those that have.

    Nothing is bet before the first unit that has nothing to say.
    """

    absent: Odds = Odds()
    present: Odds = Odds()


class Metric(msgspec.Struct, frozen=True):
    """A metric and whether both arms report it alike."""

    coverage: Coverage = Coverage()
    difference: Difference = Difference()


class Slice(msgspec.Struct, frozen=True):
    """A part of the units."""

    errors: Odds = Odds()
    error_rate: Difference = Difference(stride=0)
    metrics: dict[str, Difference] = {}


class ArmState(msgspec.Struct, frozen=True):
    """One candidate against the control."""

    arm: int
    errors: Odds = Odds()
    error_rate: Difference = Difference()
    latency: Exceedances = Exceedances()
    scores: Exceedances = Exceedances()
    coverage: dict[str, Coverage] = {}
    """Of ``errors``, ``latency`` and ``scores``."""
    metrics: dict[str, Metric] = {}
    slices: dict[str, Slice] = {}


class AnalysisState(msgspec.Struct, frozen=True):
    """Everything the analysis remembers; a few kilobytes whatever the traffic."""

    counts: tuple[int, ...]
    """Units by arm, each counted at its first appearance in the rollout."""
    expected: tuple[float, ...]
    ratio: Odds = Odds()
    arms: tuple[ArmState, ...] = ()
    stage: int = -1
    first_us: int = 0
    last_us: int = 0


def check_policy(policy: AnalysisPolicy) -> None:
    """Raise ``InvalidInput`` with the field that cannot be meant."""
    for name in ("alpha_abort", "alpha_promote", "alpha_mismatch"):
        if not 0 < getattr(policy, name) < 1:
            raise InvalidInput("an error bound lies between 0 and 1, such as 0.05", field=name, got=getattr(policy, name))
    if policy.min_units < 1 or policy.most_slices < 1:
        raise InvalidInput("at least 1", field="min_units" if policy.min_units < 1 else "most_slices")
    parts: list[tuple[str, Any]] = [("errors", policy.errors), ("latency", policy.latency), ("scores", policy.scores)]
    parts += [(f"metrics.{metric.name}", metric) for metric in policy.metrics]
    for name, part in parts:
        if part is None:
            continue
        if not 0 < part.weight < float("inf"):
            raise InvalidInput("a weight is a positive number", field=f"{name}.weight", got=part.weight)
        if getattr(part, "tolerated_ratio", 1.0) < 1:
            raise InvalidInput("the tolerated ratio is at least 1", field=f"{name}.tolerated_ratio", got=part.tolerated_ratio)
        margins = part.margins if isinstance(part, LatencyPolicy) else (part.margin,)
        if not all(margin > 0 for margin in margins):
            raise InvalidInput("a margin is positive: nothing can be proven to be exactly equal", field=f"{name}.margin", got=margins)
        if not isinstance(part, MetricPolicy) and any(margin >= 1 for margin in margins):
            raise InvalidInput("a margin of a share is below 1, else everything is within it", field=f"{name}.margin", got=margins)
        if not 0 <= getattr(part, "tolerance", 0.0) < float("inf"):
            raise InvalidInput("a tolerance is at least 0", field=f"{name}.tolerance", got=part.tolerance)
    _check_thresholds(policy)
    names = [metric.name for metric in policy.metrics]
    if len(set(names)) != len(names):
        raise InvalidInput("a metric is declared once", field="metrics", got=", ".join(names))
    for metric in policy.metrics:
        if not (np.isfinite([metric.low, metric.high]).all() and metric.low < metric.high):
            raise InvalidInput("a metric has finite limits, low < high; values outside are clipped", field=f"metrics.{metric.name}.low")
        if metric.margin >= metric.high - metric.low:
            told = "a margin is smaller than the metric's range, else everything is within it"
            raise InvalidInput(told, field=f"metrics.{metric.name}.margin", got=metric.margin)
        if metric.better not in ("higher", "lower"):
            raise InvalidInput("'higher' or 'lower' is better", field=f"metrics.{metric.name}.better", got=metric.better)


def _check_thresholds(policy: AnalysisPolicy) -> None:
    latency = policy.latency
    if latency is not None:
        of = latency.thresholds_ms or latency.levels
        if len(latency.margins) != len(of):
            raise InvalidInput("one margin for each threshold", field="latency.margins", got=len(latency.margins), expected=len(of))
        if not (np.isfinite([latency.slack, latency.slack_ms]).all() and latency.slack >= 0 and latency.slack_ms >= 0):
            raise InvalidInput(
                "the slack of a threshold is 0 or more", field="latency.slack", got=f"{latency.slack}, {latency.slack_ms} ms"
            )
        if not of or any(not np.isfinite(value) or value <= 0 for value in of):
            raise InvalidInput("thresholds are positive milliseconds", field="latency.thresholds_ms")
    for name, levels in (("latency", latency.levels if latency else ()), ("scores", policy.scores.levels if policy.scores else (0.5,))):
        if any(not 0 < level < 1 for level in levels) or (name == "scores" and not levels):
            raise InvalidInput("levels lie between 0 and 1, such as 0.95", field=f"{name}.levels")
