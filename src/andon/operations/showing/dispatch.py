"""``show``: the page of whatever an address names."""

from __future__ import annotations

from typing import Any

from andon.core.addresses import Address
from andon.core.errors import NotFound
from andon.operations.showing.entries import entry_view
from andon.operations.showing.incidents import incident_view
from andon.operations.showing.judgements import verdict_view
from andon.operations.showing.releases import release_view
from andon.operations.showing.runs import run_view, runs_view
from andon.operations.showing.services import service_view
from andon.store import Store


def show(store: Store, address: str | Address) -> Any:
    """The view of an address, by its kind: ``ServiceView``, ``ReleaseView``, ``RunView``, ``IncidentView``, ``EntryView``, …

    ``service:NAME`` is the service; ``service:NAME@production`` is the release that holds the channel. Raises ``NotFound``, ``Gone`` or
    ``InvalidAddress``.
    """
    at = Address.parse(address)
    if at.kind == "service":
        return service_view(store, at.name) if at.alias is None and at.version is None else release_view(store, _held(store, at))
    if at.kind == "experiment":
        found = runs_view(store, experiment=at.name)
        if not found.runs:
            raise NotFound(address=str(at), next_step="run `andon ls run` to see what there is")
        return found
    if at.kind == "rollout":
        from andon.operations.showing.rollouts import rollout_view  # it brings the analysis, and NumPy with it

        return rollout_view(store, at)
    if at.kind == "job":
        from andon.operations.showing.jobs import job_view

        return job_view(store, at.name)
    views = {"release": release_view, "run": run_view, "incident": incident_view, "verdict": verdict_view}
    view: Any = views.get(at.kind, entry_view)
    return view(store, at)


def _held(store: Store, at: Address) -> Address:
    from andon.registry import resolve

    return resolve(store, at)
