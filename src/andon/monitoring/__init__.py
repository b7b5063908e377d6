"""Monitoring: is the service still as good as its gate said, and are its inputs still what it learned from?"""

from andon.monitoring.comparison import ComparisonState, judge_comparison, replay_ratio
from andon.monitoring.drift import judge_drift
from andon.monitoring.importance import permutation_importance
from andon.monitoring.inputs import InputsState, judge_inputs
from andon.monitoring.profiles import Profile, profile
from andon.monitoring.quality import Expectations, QualityState, expectations, judge_quality
from andon.monitoring.records import Frame, Policy, Reference, concat, frame, losses
from andon.monitoring.training_data import judge_training_data, sound, suspect_days

__all__ = [
    "ComparisonState", "Expectations", "Frame", "InputsState", "Policy", "Profile", "QualityState", "Reference", "concat", "expectations",
    "frame", "judge_comparison", "judge_drift", "judge_inputs", "judge_quality", "judge_training_data", "losses", "permutation_importance",
    "profile", "replay_ratio", "sound", "suspect_days",
]  # fmt: skip
