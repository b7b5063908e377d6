"""The pages. Each asks one read model and hands it to one template; nothing here decides anything."""

from __future__ import annotations

from typing import Any

from litestar import Response, get
from litestar.params import FromPath, FromQuery

from andon.api.guard import name_in
from andon.api.reading import Given
from andon.board import charts
from andon.board.graphs import lineage_graph
from andon.board.rendering import page
from andon.board.tables import checks, difference, sheets
from andon.core.addresses import VERSIONED_KINDS, Address
from andon.core.errors import AndonError
from andon.operations import showing
from andon.operations.showing.jobs import jobs_view
from andon.operations.showing.rollouts import under_way
from andon.releases import COMPONENTS, service_state
from andon.store import Store

STATION_LINKS = {
    "runs": "/runs", "datasets": "/registry/dataset", "registry": "/registry", "gates": "/registry/policy",
    "releases": "/registry/release", "serving": "/#services", "monitors": "/#services", "incidents": "/incidents",
}  # fmt: skip
JOB_LIGHTS = {"running": "grey", "finished": "green", "stopped": "grey", "failed": "red", "lost": "red"}
MOVED = {"rolled-back": "put back to", "deployed": "given to"}


@get("/", include_in_schema=False, sync_to_thread=True)
def line_page(store: Given) -> Response[str]:
    """The line."""
    view = showing.line(store)
    overall, headline, subline = _headline(view)
    return page(
        "line.html", store, section="line", view=view, overall=overall, headline=headline, subline=subline, station_links=STATION_LINKS
    )


def _headline(view: showing.LineView) -> tuple[str, str, str]:
    live = [service for service in view.services if service.production is not None]
    stopped = [service for service in live if service.light == "red"]
    watched = [service for service in live if service.light == "yellow"]
    silent = [service for service in live if service.light == "grey"]
    good = len(live) - len(stopped) - len(watched) - len(silent)
    well = f"{good} of {len(live)} services {'is' if good == 1 else 'are'} well" if len(live) != 1 else f"{live[0].name} is well"
    also = f" {well}." if good or len(live) > 1 else ""
    if stopped:
        names = ", ".join(service.name for service in stopped[:3])
        return "red", f"{names} {'needs' if len(stopped) == 1 else 'need'} you", f"{stopped[0].why}.{also}"
    if watched:
        return "yellow", f"Keep an eye on {watched[0].name}", f"{watched[0].why}.{also}"
    if silent:
        return "grey", "No signal yet", f"{silent[0].why}.{also}"
    if live:
        return "green", "All is well", f"{well}; the newest window{' of each' if len(live) > 1 else ''} was judged as expected."
    if view.services:
        return "grey", "Nothing is in production", "There are releases; none has been deployed."
    return "grey", "An empty line", "Everything starts with a run, and ends where it is watched."


@get("/registry", include_in_schema=False, sync_to_thread=True)
def registry_page(store: Given) -> Response[str]:
    """All names."""
    return _names(store, None)


@get("/registry/{kind:str}", include_in_schema=False, sync_to_thread=True)
def kind_page(store: Given, kind: FromPath[str]) -> Response[str]:
    """The names of one kind."""
    return _names(store, kind)


def _names(store: Store, kind: str | None) -> Response[str]:
    rows = showing.entry_rows(store, kind)
    kinds = sorted(VERSIONED_KINDS - {"service"})
    return page("registry.html", store, section="registry", rows=rows, kind=kind, kinds=kinds)


@get("/registry/{kind:str}/{name:str}", include_in_schema=False, sync_to_thread=True)
def entry_page(store: Given, kind: FromPath[str], name: FromPath[str], at: FromQuery[str | None] = None) -> Response[str]:
    """One name."""
    view = showing.entry_view(store, Address.parse(f"{kind}:{name_in(name)}" + (f"@{at}" if at else "")))
    return page("entry.html", store, section="registry", view=view, graph=lineage_graph(view.lineage), diff=difference(view.changes))


@get("/releases/{name:str}/{version:str}", include_in_schema=False, sync_to_thread=True)
def release_page(store: Given, name: FromPath[str], version: FromPath[str]) -> Response[str]:
    """One release."""
    return show_release(store, f"release:{name_in(name)}@{version}")


def show_release(store: Store, address: str, *, problem: AndonError | None = None) -> Response[str]:
    """A release's page, maybe with what went wrong."""
    view = showing.release_view(store, Address.parse(address))
    return page(
        "release.html",
        store,
        status=200 if problem is None else problem.status,
        section="line",
        view=view,
        problem=problem,
        graph=lineage_graph(view.lineage),
        diff=difference(view.changes),
        verdict_rows=[(row.verdict, row.blocks) for row in view.judged],
        production=service_state(store, view.service).current(),
    )


@get("/services/{name:str}", include_in_schema=False, sync_to_thread=True)
def service_page(store: Given, name: FromPath[str], done: FromQuery[str] = "") -> Response[str]:
    """One service."""
    return show_service(store, name_in(name), done=done)


def show_service(
    store: Store, name: str, *, done: str = "", problem: AndonError | None = None, typed: dict[str, str] | None = None
) -> Response[str]:
    """A service's page, maybe with what was just done, or what went wrong and what had been typed."""
    view = showing.service_view(store, name)
    turn = next((turn for turn in reversed(view.turns) if turn.channel == "production"), None)
    said = f"Production was {MOVED.get(turn.kind, 'given to')} {turn.release}." if turn is not None and done == turn.kind else ""
    return page(
        "service.html",
        store,
        status=200 if problem is None else problem.status,
        section="line",
        view=view,
        turn=turn,
        done=said,
        problem=problem,
        typed=typed,
        newest=view.quality[-1] if view.quality else None,
        ready=sum(one.status == "ready" and one.fresh for one in view.replicas),
        open_incidents=[row for row in view.incidents if row.closed_us is None],
        rollout=under_way(store, name),
        jobs=jobs_view(store, service=name, limit=5).jobs,
        job_lights=JOB_LIGHTS,
        quality_wide=charts.quality_chart(view.quality, view.turns, view.threshold, view.incidents),
        quality_narrow=charts.quality_chart(view.quality, view.turns, view.threshold, view.incidents, width=340, height=250),
        quality_marks=_marks(view),
        traffic_wide=charts.traffic_chart(view.traffic.buckets, view.traffic.bucket_us),
        traffic_narrow=charts.traffic_chart(view.traffic.buckets, view.traffic.bucket_us, width=340, height=170),
        checked=checks(view.checks),
        drift_rows=_drift_rows(view),
        components=COMPONENTS,
        deployable=[row for row in view.releases if row.deployable and "production" not in row.channels],
        deploy_says=deploy_says,
    )


def deploy_says(production: str | None, release: str) -> str:
    """Exactly what a deploy would do."""
    moved = f"moves from {production} to {release}" if production else f"is given to {release}"
    return f"Production {moved}. Replicas load it first and then swap; no request is dropped."


def _marks(view: showing.ServiceView) -> list[str]:
    """The states that the chart marks with a lamp: on a crowded one, passing windows go without."""
    crowded = len(view.quality) > charts.CROWDED
    seen = {point.status for point in view.quality}
    return [status for status in ("pass", "warn", "fail", "undecided") if status in seen and not (crowded and status == "pass")]


def _drift_rows(view: showing.ServiceView) -> list[dict[str, Any]]:
    if view.drift is None:
        return []
    weights: dict[str, Any] = {}
    for table in view.drift.evidence:
        if "feature" in table.columns and "importance" in table.columns:
            feature, weight = table.columns.index("feature"), table.columns.index("importance")
            weights = {str(row[feature]): row[weight] for row in table.rows}
    return [
        {"name": one.slice, "status": one.status, "effect": one.value, "importance": weights.get(one.slice)}
        for one in view.drift.slices[:8]
    ]


@get("/incidents", include_in_schema=False, sync_to_thread=True)
def incidents_page(store: Given) -> Response[str]:
    """Incidents."""
    rows = showing.incidents_view(store)
    return page("incidents.html", store, section="incidents", rows=rows, open_count=sum(row.closed_us is None for row in rows))


@get("/incidents/{id:str}", include_in_schema=False, sync_to_thread=True)
def incident_page(store: Given, id: FromPath[str]) -> Response[str]:  # noqa: A002 - the name in the path
    """One incident."""
    return show_incident(store, id)


def show_incident(store: Store, id_: str, *, problem: AndonError | None = None, typed: dict[str, str] | None = None) -> Response[str]:
    """An incident's page, maybe with what went wrong."""
    view = showing.incident_view(store, Address.parse(f"incident:{id_}"))
    production = service_state(store, view.incident.service).current() if view.incident.service else None
    target = next((action.target for action in view.actions if action.verb == "rollback"), None)
    return page(
        "incident.html",
        store,
        status=200 if problem is None else problem.status,
        section="incidents",
        view=view,
        row=view.incident,
        problem=problem,
        typed=typed,
        production=production,
        rollback_says=showing.rollback_says(production, target),
        verdict_rows=[(verdict, None) for verdict in view.verdicts],
        evidence=sheets(view.evidence, without=frozenset({"when", "what"}) if view.changed else frozenset()),
    )


@get("/verdicts/{id:str}", include_in_schema=False, sync_to_thread=True)
def verdict_page(store: Given, id: FromPath[str]) -> Response[str]:  # noqa: A002 - the name in the path
    """One verdict."""
    view = showing.verdict_view(store, Address.parse(f"verdict:{id}"))
    values = [one.value for one in (*reversed(view.earlier), view.verdict)]
    spark = charts.sparkline(values, view.verdict.threshold) if len(view.earlier) > 1 else ""
    evidence = sheets(view.verdict.evidence)
    return page("verdict.html", store, section="line", view=view, v=view.verdict, spark=spark, evidence=evidence, earlier=view.earlier[:30])


ROUTES = [
    line_page, registry_page, kind_page, entry_page, release_page, service_page, incidents_page,
    incident_page, verdict_page,
]  # fmt: skip
