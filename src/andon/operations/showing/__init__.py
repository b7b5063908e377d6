"""Read models: what a page shows, as one frozen record each. The API sends them, the board draws them, ``andon show --json`` prints them.

They read only the ledger and the logs, and say "nothing yet" where there is nothing: a missing table, an unknown event or a damaged log
never takes a page down.
"""

from andon.operations.showing.comparing import compare_view, series_of_runs
from andon.operations.showing.dispatch import show
from andon.operations.showing.entries import entry_rows, entry_view, lineage_view
from andon.operations.showing.files import artifact_of, preview, read_image
from andon.operations.showing.finding import RunsCount, experiment_rows, runs_count, runs_table
from andon.operations.showing.incidents import incident_view, incidents_view
from andon.operations.showing.judgements import verdict_view
from andon.operations.showing.line import line
from andon.operations.showing.logs import run_log
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
from andon.operations.showing.run_records import Column, FilePreview, LogPart, RunsComparison, RunsSeries, RunsTable
from andon.operations.showing.runs import run_of_model, run_view, runs_view, series_points
from andon.operations.showing.services import check_service, rollback_says, service_names, service_view

__all__ = [
    "Column",
    "EntryRow",
    "EntryView",
    "FilePreview",
    "IncidentRow",
    "IncidentView",
    "Light",
    "LineView",
    "LineageView",
    "LogPart",
    "ReleaseView",
    "RunView",
    "RunsComparison",
    "RunsCount",
    "RunsSeries",
    "RunsTable",
    "RunsView",
    "SeriesPoints",
    "SeriesRow",
    "ServiceLight",
    "ServiceView",
    "VerdictView",
    "artifact_of",
    "check_service",
    "compare_view",
    "entry_rows",
    "entry_view",
    "experiment_rows",
    "incident_view",
    "incidents_view",
    "line",
    "lineage_view",
    "preview",
    "read_image",
    "release_view",
    "rollback_says",
    "run_log",
    "run_of_model",
    "run_view",
    "runs_count",
    "runs_table",
    "runs_view",
    "series_of_runs",
    "series_points",
    "service_names",
    "service_view",
    "show",
    "verdict_view",
]
