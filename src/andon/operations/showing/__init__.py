"""Read models: what a page shows, as one frozen record each. The API sends them, the board draws them, ``andon show --json`` prints them.

They read only the ledger and the logs, and say "nothing yet" where there is nothing: a missing table, an unknown event or a damaged log
never takes a page down.
"""

from andon.operations.showing.dispatch import show
from andon.operations.showing.entries import entry_rows, entry_view, lineage_view
from andon.operations.showing.incidents import incident_view, incidents_view
from andon.operations.showing.judgements import verdict_view
from andon.operations.showing.line import line
from andon.operations.showing.records import (
    EntryRow,
    EntryView,
    IncidentRow,
    IncidentView,
    Light,
    LineageView,
    LineView,
    ReleaseView,
    RunsView,
    RunView,
    SeriesPoints,
    SeriesRow,
    ServiceLight,
    ServiceView,
    VerdictView,
)
from andon.operations.showing.releases import release_view
from andon.operations.showing.runs import run_view, runs_view, series_points
from andon.operations.showing.services import check_service, rollback_says, service_names, service_view

__all__ = [
    "EntryRow",
    "EntryView",
    "IncidentRow",
    "IncidentView",
    "Light",
    "LineView",
    "LineageView",
    "ReleaseView",
    "RunView",
    "RunsView",
    "SeriesPoints",
    "SeriesRow",
    "ServiceLight",
    "ServiceView",
    "VerdictView",
    "check_service",
    "entry_rows",
    "entry_view",
    "incident_view",
    "incidents_view",
    "line",
    "lineage_view",
    "release_view",
    "rollback_says",
    "run_view",
    "runs_view",
    "series_points",
    "service_names",
    "service_view",
    "show",
    "verdict_view",
]
