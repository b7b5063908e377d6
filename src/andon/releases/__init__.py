"""Releases: everything that answers a request pinned under one digest, the channels that point to them, and the way back."""

from andon.registry import ANY as ANY_HOLDER
from andon.releases.making import Made, Scorer, assemble, make
from andon.releases.moving import COMPONENTS, Component, Moved, deploy, reject, rollback, rollback_in, rollback_target, turns, waive
from andon.releases.records import CodePin, Pin, ReleaseManifest
from andon.releases.scored import Examples, read_scored
from andon.releases.services import (
    PRODUCTION,
    ServiceState,
    TrainingBlock,
    Turn,
    allow_training,
    allow_training_in,
    block_training,
    block_training_in,
    blocked_spans,
    service_state,
    service_state_in,
    stream_of,
)

__all__ = [
    "ANY_HOLDER",
    "COMPONENTS",
    "PRODUCTION",
    "CodePin",
    "Component",
    "Examples",
    "Made",
    "Moved",
    "Pin",
    "ReleaseManifest",
    "Scorer",
    "ServiceState",
    "TrainingBlock",
    "Turn",
    "allow_training",
    "allow_training_in",
    "assemble",
    "block_training",
    "block_training_in",
    "blocked_spans",
    "deploy",
    "make",
    "read_scored",
    "reject",
    "rollback",
    "rollback_in",
    "rollback_target",
    "service_state",
    "service_state_in",
    "stream_of",
    "turns",
    "waive",
]
