"""Quality gates: checks over evidence gathered before a release, and the policy that says which of them block."""

from andon.gates.checks import BeatsBaseline, Ceiling, NotWorse, ReleaseCheck
from andon.gates.evidence import GateEvidence
from andon.gates.losses import LOSSES, loss
from andon.gates.paired import PairedDifference, paired_difference
from andon.gates.policies import DEFAULT_POLICY, GatePolicy, Rule, judge, policy_at, register_policy

__all__ = [
    "DEFAULT_POLICY",
    "LOSSES",
    "BeatsBaseline",
    "Ceiling",
    "GateEvidence",
    "GatePolicy",
    "NotWorse",
    "PairedDifference",
    "ReleaseCheck",
    "Rule",
    "judge",
    "loss",
    "paired_difference",
    "policy_at",
    "register_policy",
]
