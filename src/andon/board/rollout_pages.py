"""A rollout's page and what its buttons do; the pages of batch and stream jobs."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, URLEncodedBody
from litestar.response import Redirect

from andon.api.reading import Given
from andon.api.writing import By
from andon.board.pages import JOB_LIGHTS
from andon.board.rendering import page
from andon.board.sequences import sequence_chart
from andon.core.errors import AndonError, InvalidInput
from andon.operations import rolling
from andon.operations.showing.jobs import job_view, jobs_view
from andon.operations.showing.rollouts import RolloutView, rollout_view
from andon.rollouts import Rollout
from andon.store import Store

LIGHTS: dict[str, str] = {
    "warming": "grey", "running": "yellow", "undecided": "yellow", "keeping": "green",
    "promoted": "green", "aborted": "red", "ended": "grey",
}  # fmt: skip
"""The lamp of each phase."""
EVENT_LIGHTS = {"aborted": "red", "overruled": "red", "promoted": "green", "held": "yellow", "paused": "yellow"}
VERBS: dict[str, Callable[..., Rollout]] = {
    "promote": rolling.promote,
    "abort": rolling.abort,
    "end": rolling.end,
    "pause": rolling.pause,
    "resume": rolling.resume,
}
SAYS = {
    "promote": "The candidate takes production at once, whatever is proven by now.",
    "abort": "Everything goes to the old release at once, and the candidate is rejected: it comes back only by a waiver.",
    "end": "The comparison stops. Production stays with what holds it, and nobody is rejected.",
    "pause": "The shares stay as they are: no step and no promotion. Guards go on, and may abort.",
    "resume": "It goes on from where it was paused; its deadline counts from now.",
}


@get("/rollouts/{id:str}", include_in_schema=False, sync_to_thread=True)
def rollout_page(store: Given, id: FromPath[str]) -> Response[str]:  # noqa: A002 - the name in the path
    """One rollout."""
    return show_rollout(store, id)


def show_rollout(store: Store, id_: str, *, problem: AndonError | None = None, typed: dict[str, str] | None = None) -> Response[str]:
    """A rollout's page, maybe with what went wrong."""
    view = rollout_view(store, f"rollout:{id_}")
    return page(
        "rollout.html",
        store,
        status=200 if problem is None else problem.status,
        section="line",
        view=view,
        light=LIGHTS[view.phase],
        problem=problem,
        typed=typed,
        charts=[(one, sequence_chart(one)) for one in view.sequences if one.points],
        verdict_rows=[(verdict, None) for verdict in view.verdicts],
        verbs=_verbs(view),
        says=SAYS,
        event_lights=EVENT_LIGHTS,
        most=max([arm.p99_ms or 0.0 for arm in view.arms], default=0.0),
    )


def _verbs(view: RolloutView) -> list[str]:
    """What a person may do to it now."""
    if view.ended_us is not None:
        return []
    answers = view.strategy not in ("shadow", "challenger")
    steer = ["resume" if view.paused else "pause"] if view.phase in ("running", "undecided", "warming") else []
    return [*(["promote"] if view.phase != "keeping" else []), *(["abort"] if answers or view.phase == "keeping" else []), "end", *steer]


class Steering(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of a rollout's forms. ``phase`` is what the page showed, so that nobody promotes what they have not seen abort."""

    reason: str
    phase: str


@post("/rollouts/{id:str}/{verb:str}", include_in_schema=False, sync_to_thread=True)
def post_rollout(
    store: Given,
    actor: By,
    id: FromPath[str],  # noqa: A002 - the name in the path
    verb: FromPath[str],
    data: URLEncodedBody[Steering],
) -> Response[str] | Redirect:
    """Promote, abort, end, pause or resume a rollout."""
    try:
        if verb not in VERBS:
            raise InvalidInput(f"a rollout can {', '.join(VERBS)}", field="verb", got=verb[:40])
        if not data.reason.strip():
            raise InvalidInput("say why: the next person reads it", field="reason")
        before = rollout_view(store, f"rollout:{id}")
        if before.phase != data.phase:
            raise InvalidInput(f"it was {data.phase} when you looked, and is {before.phase} now", field="phase", next_step="look again")
        VERBS[verb](f"rollout:{id}", why=data.reason.strip(), store=store, actor=actor)
    except AndonError as error:
        return show_rollout(store, id, problem=error, typed={"form": verb, "reason": data.reason})
    return Redirect(f"/rollouts/{quote(id, safe='')}", status_code=303)


@get("/jobs", include_in_schema=False, sync_to_thread=True)
def jobs_page(store: Given, service: FromQuery[str | None] = None) -> Response[str]:
    """Batch and stream jobs."""
    return page("jobs.html", store, section="line", jobs=jobs_view(store, service=service).jobs, service=service, lights=JOB_LIGHTS)


@get("/jobs/{id:str}", include_in_schema=False, sync_to_thread=True)
def job_page(store: Given, id: FromPath[str]) -> Response[str]:  # noqa: A002 - the name in the path
    """One job."""
    view = job_view(store, id)
    return page("job.html", store, section="line", view=view, job=view.job, light=JOB_LIGHTS[view.job.state])


ROUTES = [rollout_page, post_rollout, jobs_page, job_page]
