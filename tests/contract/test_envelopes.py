"""The shapes that callers rely on: one envelope for every error there is, and the fields of every view. A change here is deliberate."""

from __future__ import annotations

import inspect

import pytest

from andon.api import envelopes
from andon.core import errors
from andon.core.errors import AndonError
from andon.operations.showing import records

ERRORS = sorted(
    {
        kind
        for module in (errors, envelopes)
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, AndonError) and kind.__module__ == module.__name__
    },
    key=lambda kind: kind.__name__,
)

STATUSES = {
    "AliasMoved": ("alias-moved", 409),
    "AndonError": ("internal", 500),
    "BuildFailed": ("build-failed", 424),
    "Busy": ("busy", 429),
    "Conflict": ("conflict", 409),
    "CorruptBytes": ("corrupt-bytes", 500),
    "DeadlineExceeded": ("deadline-exceeded", 504),
    "DiskFull": ("disk-full", 507),
    "Forbidden": ("forbidden", 403),
    "GateRefused": ("gate-refused", 409),
    "GateUndecided": ("gate-undecided", 409),
    "Gone": ("gone", 410),
    "Incompatible": ("incompatible", 409),
    "InvalidAddress": ("invalid-address", 400),
    "InvalidInput": ("invalid-input", 400),
    "InvalidSettings": ("invalid-settings", 400),
    "LeaseHeld": ("lease-held", 409),
    "LoadFailed": ("load-failed", 424),
    "MethodNotAllowed": ("method-not-allowed", 405),
    "ModelFailed": ("model-failed", 500),
    "NotFound": ("not-found", 404),
    "Pinned": ("pinned", 409),
    "OutcomeUnknown": ("outcome-unknown", 503),
    "PortTaken": ("port-taken", 503),
    "ReadOnly": ("read-only", 503),
    "TooLarge": ("too-large", 413),
    "Unavailable": ("unavailable", 503),
    "WrongMediaType": ("wrong-media-type", 415),
}

VIEWS = {
    "LineView": "services stations happenings at_us",
    "ServiceLight": "name light why production since_us since_event_us candidate quality threshold open_incidents replicas_ready "
    "training_blocked",
    "Station": "key title count unit detail light",
    "Happening": "at_us event_us address what actor reason light",
    "RunsView": "runs experiments total next_before_us",
    "RunRow": "id name experiment status started_us ended_us actor parent metrics params",
    "RunView": "run facts series completeness score artifacts inputs described models made releases children tags deleted_us",
    "SeriesPoints": "key steps at_us values total",
    "EntryRow": "address kind name head changed_us aliases title description",
    "EntryView": "entry versions shown manifest moves tags tag_history lineage changes",
    "LineageView": "root nodes edges depth truncated",
    "ReleaseView": "address service version digest created_us actor reason light state deployable why_not channels pins environment "
    "signature answer policy judged waiver rejection turns incidents compared_with changes lineage",
    "ServiceView": "name light why production channels turns releases replicas quality threshold unit checks drift data_quality traffic "
    "training_block incidents rollback_target rollback_says rollout rollout_says champion_disagrees tags",
    "IncidentRow": "id address service headline title status light cause recommendation opened_us opened_event_us closed_us "
    "closed_event_us opened_by release",
    "IncidentView": "incident timeline changed worst_slice counterfactual cause why evidence verdicts actions finding",
    "VerdictView": "verdict earlier blocks",
}


def test_every_error_has_a_code_and_a_status_that_do_not_change() -> None:
    assert {kind.__name__: (kind.code, kind.status) for kind in ERRORS} == STATUSES


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_the_one_shape(kind: type[AndonError]) -> None:
    envelope = kind("said", next_step="do this", field="x", n=3, thing=object).envelope()
    assert envelope == {
        "error": {"code": kind.code, "message": "said", "next_step": "do this", "fields": {"field": "x", "n": 3, "thing": str(object)}}
    }
    assert kind().envelope()["error"]["message"].endswith((".", "?"))


@pytest.mark.parametrize("error", [ValueError("a secret"), RuntimeError("postgresql://ana:secret@db"), KeyError("x")])
def test_what_nobody_foresaw_says_nothing_of_its_insides(error: Exception) -> None:
    found = envelopes.as_andon_error(error, "/x")
    assert (found.status, found.fields) == (500, {})
    assert str(error) not in str(found)


@pytest.mark.parametrize("name", VIEWS)
def test_the_fields_of_a_view_do_not_change_unnoticed(name: str) -> None:
    assert " ".join(getattr(records, name).__struct_fields__) == VIEWS[name]
