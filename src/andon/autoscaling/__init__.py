"""How many replicas a service needs: a pure rule on the work that waits, its policy, and the record of its decisions."""

from andon.autoscaling.decide import decide
from andon.autoscaling.policies import POLICY_PREFIX, bounded, check_policy, policy_of, register_serving_policy
from andon.autoscaling.recording import decisions, stream_of, worth_recording
from andon.autoscaling.records import Decision, Load, Observation, ScalingState, ServingPolicy

__all__ = [
    "POLICY_PREFIX",
    "Decision",
    "Load",
    "Observation",
    "ScalingState",
    "ServingPolicy",
    "bounded",
    "check_policy",
    "decide",
    "decisions",
    "policy_of",
    "register_serving_policy",
    "stream_of",
    "worth_recording",
]
