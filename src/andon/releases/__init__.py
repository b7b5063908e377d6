"""Releases: everything that answers a request pinned under one digest, the channels that point to them, and the way back."""

from andon.registry import ANY as ANY_HOLDER
from andon.releases.making import Examples, Made, Scorer, assemble, make
from andon.releases.moving import COMPONENTS, Component, Moved, deploy, reject, rollback, rollback_target, turns, waive
from andon.releases.records import CodePin, Pin, ReleaseManifest
from andon.releases.scored import read_scored
from andon.releases.services import (
    PRODUCTION,
    ServiceState,
    TrainingBlock,
    Turn,
    allow_training,
    block_training,
    blocked_spans,
    service_state,
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
    "assemble",
    "block_training",
    "blocked_spans",
    "deploy",
    "make",
    "read_scored",
    "reject",
    "rollback",
    "rollback_target",
    "service_state",
    "stream_of",
    "turns",
    "waive",
]
