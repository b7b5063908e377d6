"""Incidents: what changed, since when, for whom it is worst, and the one thing to do about it."""

from andon.incidents.decide import decide, fold
from andon.incidents.records import (
    Action,
    AskTriage,
    BlockTraining,
    Change,
    Escalate,
    Finding,
    Incident,
    IncidentPolicy,
    IncidentsState,
    Nothing,
    Observation,
    OpenIncident,
    RecommendRetrain,
    Resolve,
    Rollback,
    TriageEvidence,
    UnblockTraining,
    Watched,
)  # fmt: skip
from andon.incidents.triage import triage

__all__ = [
    "Action", "AskTriage", "BlockTraining", "Change", "Escalate", "Finding", "Incident", "IncidentPolicy", "IncidentsState", "Nothing",
    "Observation", "OpenIncident", "RecommendRetrain", "Resolve", "Rollback", "TriageEvidence", "UnblockTraining", "Watched", "decide",
    "fold", "triage",
]  # fmt: skip
