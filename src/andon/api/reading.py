"""``GET /api/v1/…``: the read models, as they are. Store calls block, so each runs in a thread and the event loop never stalls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from litestar import MediaType, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter, SkipValidation
from litestar.response import Stream

from andon.api.guard import name_in
from andon.api.watching import Watcher
from andon.core.addresses import Address
from andon.core.errors import InvalidInput
from andon.core.verdicts import Status, Verdict
from andon.operations import showing
from andon.registry import Change, diff, verdicts_on
from andon.registry.lineage import Direction
from andon.releases import Turn, turns
from andon.store import Store

Given = NamedDependency[SkipValidation[Store]]
Watching = NamedDependency[SkipValidation[Watcher]]
Maybe = FromQuery[str | None]
Limit = Annotated[int, QueryParameter(ge=1, le=1000)]


@get("/api/v1/line", sync_to_thread=True, summary="Every service's light, every station's count, what changed last")
def get_line(store: Given) -> showing.LineView:
    """The line at a glance."""
    return showing.line(store)


@get("/api/v1/services", sync_to_thread=True, summary="Services with their lights")
def get_services(store: Given) -> list[showing.ServiceLight]:
    """Services, the ones in trouble first."""
    return list(showing.line(store).services)


@get("/api/v1/services/{name:str}", sync_to_thread=True, summary="One service, whole")
def get_service(store: Given, name: FromPath[str]) -> showing.ServiceView:
    """Channels, turns, replicas, live quality, drift, data quality, traffic, incidents."""
    return showing.service_view(store, name_in(name))


@get("/api/v1/services/{name:str}/history", sync_to_thread=True, summary="Every turn of every channel")
def get_history(store: Given, name: FromPath[str]) -> list[Turn]:
    """Every time a release came to hold a channel, oldest first."""
    showing.check_service(store, name_in(name))
    return list(turns(store, name_in(name)))


@get("/api/v1/releases/{name:str}/{version:str}", sync_to_thread=True, summary="One release, whole")
def get_release(store: Given, name: FromPath[str], version: FromPath[str]) -> showing.ReleaseView:
    """Everything pinned, verdicts, waivers, state, and the difference from the last good one. ``version`` may be ``latest``."""
    return showing.release_view(store, Address.parse(f"release:{name_in(name)}@{version}"))


@get("/api/v1/runs", sync_to_thread=True, summary="Runs, newest first")
def get_runs(
    store: Given, experiment: Maybe = None, status: Maybe = None, before_us: FromQuery[int | None] = None, limit: Limit = 100
) -> showing.RunsView:
    """Runs; pass ``next_before_us`` back as ``before_us`` for more."""
    return showing.runs_view(store, experiment=experiment, status=status, before_us=before_us, limit=limit)


@get("/api/v1/runs/table", sync_to_thread=True, summary="Runs that match a filter, with chosen columns or in groups")
def get_runs_table(
    store: Given,
    experiment: Maybe = None,
    filter: FromQuery[str] = "",  # noqa: A002 - the name in the URL
    order_by: FromQuery[list[str] | None] = None,
    view: FromQuery[Literal["active", "deleted"]] = "active",
    column: FromQuery[list[str] | None] = None,
    group: FromQuery[str] = "",
    page_token: Maybe = None,
    limit: Limit = 50,
) -> showing.RunsTable:
    """``filter`` and ``order_by`` are the language of ``mlflow.search_runs``. Pass ``next_page_token`` back as ``page_token`` for more."""
    return showing.runs_table(
        store,
        experiment=experiment or None,
        filter=filter,
        order_by=order_by or (),
        deleted=view == "deleted",
        columns=column,
        group=group,
        page_token=page_token,
        limit=limit,
    )


@get("/api/v1/runs/count", sync_to_thread=True, summary="How many runs match a filter")
def get_runs_count(
    store: Given,
    experiment: Maybe = None,
    filter: FromQuery[str] = "",  # noqa: A002 - the name in the URL
    view: FromQuery[Literal["active", "deleted"]] = "active",
) -> showing.RunsCount:
    """Counted up to some thousands; ``exact`` is false when there are more."""
    return showing.runs_count(store, experiment=experiment or None, filter=filter, deleted=view == "deleted")


@get("/api/v1/runs/{id:str}", sync_to_thread=True, summary="One run, whole")
def get_run(store: Given, id: FromPath[str]) -> showing.RunView:  # noqa: A002 - the name in the path
    """Facts, params, metrics, artifacts, what is missing, what came of it."""
    return showing.run_view(store, Address.parse(f"run:{id}"))


@get("/api/v1/runs/{id:str}/series", sync_to_thread=True, summary="The points of one metric")
def get_series(
    store: Given,
    id: FromPath[str],  # noqa: A002 - the name in the path
    key: FromQuery[str],
    limit: Annotated[int, QueryParameter(ge=4, le=100_000)] = 2_000,
    after_step: FromQuery[int | None] = None,
) -> showing.SeriesPoints:
    """Points by step; thinned to the extremes of each stretch when there are more than ``limit``. With ``after_step``, those from that step
    on, so that a chart can follow."""
    return showing.series_points(store, Address.parse(f"run:{id}"), key, limit=limit, after_step=after_step)


@get("/api/v1/runs/{id:str}/log", sync_to_thread=True, summary="What a run prints, while it runs and after")
def get_log(
    store: Given,
    id: FromPath[str],  # noqa: A002 - the name in the path
    stream: FromQuery[Literal["stdout", "stderr"]] = "stdout",
    offset: FromQuery[int | None] = None,
    limit: Annotated[int, QueryParameter(ge=256, le=1_048_576)] = 262_144,
) -> showing.LogPart:
    """From byte ``offset`` (by default near the end); pass ``next_offset`` back for more. Only runs of ``andon run -- CMD`` have any."""
    return showing.run_log(store, Address.parse(f"run:{id}"), stream, offset=offset, limit=limit)


@get("/api/v1/compare", sync_to_thread=True, summary="Runs side by side")
def get_comparison(store: Given, run: FromQuery[list[str]]) -> showing.RunsComparison:
    """Params, metrics, tags, code and packages of up to 30 runs; repeat ``run`` for each."""
    return showing.compare_view(store, run)


@get("/api/v1/series", sync_to_thread=True, summary="One metric of several runs")
def get_series_of_runs(
    store: Given, run: FromQuery[list[str]], key: FromQuery[str], limit: Annotated[int, QueryParameter(ge=4, le=20_000)] = 1_000
) -> showing.RunsSeries:
    """Each run's points by step, thinned to ``limit``; ``points`` is null for a run without the metric."""
    return showing.series_of_runs(store, run, key, limit=limit)


@get("/api/v1/entries/{kind:str}", sync_to_thread=True, summary="Names of one kind")
def get_entries(store: Given, kind: FromPath[str], prefix: FromQuery[str] = "", limit: Limit = 1000) -> list[showing.EntryRow]:
    """Names with their heads and aliases."""
    return list(showing.entry_rows(store, kind, prefix=prefix, limit=limit))


@get("/api/v1/show", sync_to_thread=True, summary="Whatever an address names")
def get_show(store: Given, address: FromQuery[str]) -> Any:
    """What ``andon show ADDRESS --json`` prints."""
    return msgspec.to_builtins(showing.show(store, address))


@get("/api/v1/lineage", sync_to_thread=True, summary="What a thing was made from, and what was made from it")
def get_lineage(store: Given, address: FromQuery[str], direction: FromQuery[Direction] = "both", limit: Limit = 200) -> showing.LineageView:
    """Nodes and edges around an address, breadth first."""
    return showing.lineage_view(store, address, direction, limit=limit)


@get("/api/v1/diff", sync_to_thread=True, summary="The differences between two versions")
def get_diff(store: Given, a: FromQuery[str], b: FromQuery[str]) -> list[Change]:
    """By path: ``before`` null was added, ``after`` null was removed."""
    return diff(store, a, b)


@get("/api/v1/incidents", sync_to_thread=True, summary="Incidents, open ones first")
def get_incidents(store: Given, service: Maybe = None, limit: Limit = 200) -> list[showing.IncidentRow]:
    """Incidents, open ones first and then newest first."""
    return list(showing.incidents_view(store, service=service, limit=limit))


@get("/api/v1/incidents/{id:str}", sync_to_thread=True, summary="One incident, whole")
def get_incident(store: Given, id: FromPath[str]) -> showing.IncidentView:  # noqa: A002 - the name in the path
    """Timeline, finding, evidence and actions."""
    return showing.incident_view(store, Address.parse(f"incident:{id}"))


@get("/api/v1/verdicts", sync_to_thread=True, summary="Verdicts, newest first")
def get_verdicts(
    store: Given, subject: Maybe = None, check: Maybe = None, status: FromQuery[Status | None] = None, limit: Limit = 100
) -> list[Verdict]:
    """Verdicts on one subject (an address) or on all."""
    wanted: tuple[Status, ...] = ("pass", "warn", "fail", "undecided") if status is None else (status,)
    return verdicts_on(store, subject, check=check, statuses=wanted, limit=limit)


@get("/health", sync_to_thread=True, summary="200 when ready")
def get_health(store: Given) -> dict[str, Literal["ready"]]:
    """Ready: the ledger answers."""
    with store.ledger.read() as connection:
        connection.exec_driver_sql("select 1")
    return {"status": "ready"}


@get("/api/v1/events", media_type="text/event-stream", summary="Notices of change, as server-sent events")
async def get_events(watcher: Watching, beat_s: FromQuery[float] = 10.0) -> Stream:
    """``event: hello`` once the ledger is watched; then ``event: changed`` with ``{"seq", "changed": […]}`` when something moved, and
    ``event: beat`` now and then. Whatever was read after the hello and moves later is told. Reconnect at will."""
    if not 0.05 <= beat_s <= 60:
        raise InvalidInput("between 0.05 and 60 seconds", field="beat_s", got=beat_s)
    return Stream(_lines(watcher, beat_s), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _lines(watcher: Watcher, beat_s: float) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    async for notice in watcher.listen(beat_s=beat_s):
        if notice is None:
            yield b"event: beat\ndata: {}\n\n"
        elif not notice.changed:
            yield b"event: hello\ndata: {}\n\n"
        else:
            yield b"id: %d\nevent: changed\ndata: %s\n\n" % (notice.seq, msgspec.json.encode(notice))


@get("/favicon.ico", include_in_schema=False, media_type=MediaType.TEXT, status_code=204, sync_to_thread=False)
def no_icon() -> None:
    """Pages name their own icon."""


ROUTES = [
    get_line, get_services, get_service, get_history, get_release, get_runs, get_runs_table, get_runs_count, get_run, get_series,
    get_log, get_comparison, get_series_of_runs, get_entries, get_show, get_lineage, get_diff, get_incidents, get_incident,
    get_verdicts, get_health, get_events, no_icon,
]  # fmt: skip
