"""The statistics of a rollout: is the candidate harming, is it proven harmless? Valid at any look; pure, without I/O.

    state = start(policy, arms=2)
    state = update(state, block, policy, stage=0)        # units in order of exposure, as many or as few as there are
    verdicts = judge(state, policy, subject="release:bikes@8")
    conclude(verdicts, policy)                           # "abort", "promote" or "hold"

``state`` is JSON through msgspec. ``units.enter`` says which exposures count and with which chance. The page
``docs/rollout_statistics.md`` has the formulas, their sources, and what they cannot see. Decide with ``conclude``: a failed
``sample-ratio`` means hold, not abort.
"""

from andon.rollouts.analysis.drawing import Point, Series, series
from andon.rollouts.analysis.experiments import Comparison, compare
from andon.rollouts.analysis.families import e_bh, holm
from andon.rollouts.analysis.folding import start, update, update_pairs
from andon.rollouts.analysis.forecasting import Expected, Forecast, Stage, Traffic, forecast
from andon.rollouts.analysis.judging import conclude, guard_alphas, judge, required_checks
from andon.rollouts.analysis.records import (
    AnalysisPolicy,
    AnalysisState,
    Block,
    ErrorPolicy,
    LatencyPolicy,
    MetricPolicy,
    PairedBlock,
    ScorePolicy,
    check_policy,
)
from andon.rollouts.analysis.units import Entered, Place, chances, enter

__all__ = [
    "AnalysisPolicy",
    "AnalysisState",
    "Block",
    "Comparison",
    "Entered",
    "ErrorPolicy",
    "Expected",
    "Forecast",
    "LatencyPolicy",
    "MetricPolicy",
    "PairedBlock",
    "Place",
    "Point",
    "ScorePolicy",
    "Series",
    "Stage",
    "Traffic",
    "chances",
    "check_policy",
    "compare",
    "conclude",
    "e_bh",
    "enter",
    "forecast",
    "guard_alphas",
    "holm",
    "judge",
    "required_checks",
    "series",
    "start",
    "update",
    "update_pairs",
]
