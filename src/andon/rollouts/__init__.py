"""Rollouts: how a release gets its traffic, and how it is judged while it does."""

from andon.rollouts.acting import VERBS, start, steer
from andon.rollouts.decide import decide, fold
from andon.rollouts.journal import rollout_of
from andon.rollouts.policies import RolloutPolicy, rollout_policy
from andon.rollouts.records import Observation, Rollout
from andon.rollouts.strategies import AB, BlueGreen, Canary, Shadow, Strategy, ab, blue_green, canary, challenger, shadow

__all__ = [
    "AB",
    "VERBS",
    "BlueGreen",
    "Canary",
    "Observation",
    "Rollout",
    "RolloutPolicy",
    "Shadow",
    "Strategy",
    "ab",
    "blue_green",
    "canary",
    "challenger",
    "decide",
    "fold",
    "rollout_of",
    "rollout_policy",
    "shadow",
    "start",
    "steer",
]
