"""Rollouts as people meet them: the command line, the pages, the forecast, and outcomes that have a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import andon
from andon.cli.main import invoke
from andon.core.clocks import HOUR_US, ManualClock
from andon.core.errors import AndonError, Conflict, InvalidInput
from andon.logs import Label, record_labels
from andon.operations import labelling, rolling, showing
from andon.operations.policies import register_policy
from andon.operations.showing.rollouts import rollout_view
from andon.rollouts import RolloutPolicy, ab, canary, shadow
from andon.store import Store, open_store
from andon.telemetry.exposed import requests_an_hour
from tests.conftest import ANA, START_US
from tests.unit.rollouts.rig import NEW, OLD, Rig, failing
from tests.unit.rollouts.test_controller import BLUNT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANDON_ACTOR", "person:ana")
    clock = ManualClock(START_US)
    with open_store(tmp_path / "home", clock=clock) as store:
        Rig(store, clock)
    return tmp_path / "home"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_the_story_on_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--home", str(home)]
    assert invoke(["deploy", NEW, "--strategy", "canary", "--steps", "5,50,100", "--key", "user", "--step", "10m", *place]) == 0
    out = said(capsys)
    assert f"{NEW} beside {OLD}" in out
    assert "nobody can tell when there will be a verdict" in out
    assert invoke(["rollout", "ls", *place]) == 0
    assert NEW in said(capsys)
    assert invoke(["rollout", "show", "bikes", *place, "--json"]) == 0
    view = json.loads(said(capsys))
    assert (view["phase"], view["steps"], view["record"]["strategy"]["key"]) == ("warming", [5, 50, 100], "user")
    assert invoke(["show", "service:bikes", *place]) == 0
    out = said(capsys)
    assert f"canary of {NEW}: warming" in out
    assert f"everything goes to {OLD} at once" in out
    assert invoke(["rollout", "pause", "bikes", "--why", "lunch", *place]) == 0
    assert "warming, paused" in said(capsys)
    assert invoke(["rollout", "resume", "bikes", *place]) == 0
    assert invoke(["rollout", "abort", view["id"], "--why", "no good", *place]) == 0
    assert f"aborted; {OLD} holds production" in said(capsys)
    assert invoke(["show", view["id"], *place]) == 0
    out = said(capsys)
    assert "no good" in out
    assert "person:ana" in out
    assert invoke(["rollout", "ls", *place]) == 0
    assert "no rollout is under way" in said(capsys)
    assert invoke(["deploy", NEW, "--strategy", "blue-green", *place]) == 77  # rejected: it takes a waiver now


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--strategy", "canary", "--steps", "50,5,100"], "steps"),
        (["--strategy", "canary", "--steps", "a,b"], "--steps"),
        (["--strategy", "canary", "--keep", "1h"], "--keep"),
        (["--strategy", "blue-green", "--keep", "long"], "keep"),
        (["--strategy", "shadow", "--share", "0"], "share"),
        (["--strategy", "ab", "--rule", "winner"], "metric"),
        (["--strategy", "ab", "--rule", "winner", "--metric", "revenue"], "metric"),
        (["--steps", "5,100"], "--steps"),
        (["--strategy", "canary", "--channel", "candidate"], "strategy"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_begins(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], field: str
) -> None:
    assert invoke(["deploy", NEW, *arguments, "--home", str(home), "--json"]) == 65
    assert json.loads(capsys.readouterr().err)["error"]["fields"]["field"] == field
    assert invoke(["rollout", "ls", "--home", str(home), "--json"]) == 0
    assert json.loads(said(capsys)) == []


def asked(rig: Rig, an_hour: int) -> None:
    """A day's traffic before the rollout."""
    for _ in range(24):
        rig.clock.advance(HOUR_US)
        n = an_hour
        at = [rig.clock.now_us() - HOUR_US + i * HOUR_US // n for i in range(n)]
        from tests.unit.rollouts.rig import Answer

        rig._log([(f"d{instant}", "production", OLD, instant, Answer()) for instant in at], "production")


def test_the_forecast_offers_blue_green_instead_of_pretending(rig: Rig) -> None:
    asked(rig, 20)
    assert requests_an_hour(rig.store, "bikes", rig.clock.now_us()) == pytest.approx(20, rel=0.05)
    with pytest.raises(Conflict, match=r"needs about .* days") as refused:
        andon.deploy(NEW, strategy=andon.canary(), store=rig.store, actor=ANA)
    assert "blue-green" in (refused.value.next_step or "")
    assert rig.split is None
    told = rolling.forecast(rig.store, "bikes", canary())
    assert told.hours is not None
    assert told.units is not None
    assert told.hours == pytest.approx(told.units / told.requests_an_hour, rel=1e-3)
    assert {name for name, _ in told.checks} >= {"errors", "latency"}
    assert andon.deploy(NEW, strategy=andon.canary(), force=True, store=rig.store, actor=ANA).phase == "warming"


def test_the_forecast_at_more_traffic_and_of_what_waits_for_nobody(rig: Rig) -> None:
    assert "nothing was asked" in rolling.forecast(rig.store, "bikes", canary()).says
    asked(rig, 2_000)
    told = rolling.forecast(rig.store, "bikes", canary())
    assert told.hours is not None
    assert 0.05 < told.hours < 48
    assert "requests/h a canary needs about" in told.says
    for strategy in (shadow(), ab()):
        assert rolling.forecast(rig.store, "bikes", strategy).hours is None
    nothing = RolloutPolicy(analysis=msgspec.structs.replace(BLUNT.analysis, errors=None))
    assert "no verdict" in rolling.forecast(rig.store, "bikes", canary(), nothing).says


def test_the_page_of_a_rollout(rig: Rig) -> None:
    rig.start(canary(steps=[10, 50, 100], step="20s", step_units=30), BLUNT)
    rig.go(12)
    view = rollout_view(rig.store, "service:bikes")
    assert view.where.startswith("step ")
    assert [(arm.name, arm.release) for arm in view.arms] == [("control", OLD), ("candidate", NEW)]
    assert sum(arm.share for arm in view.arms) == 100
    assert all(arm.requests > 50 and arm.failed == 0 for arm in view.arms)
    assert {verdict.check for verdict in view.verdicts} == {"rollout/sample-ratio", "rollout/errors"}
    (sequence,) = view.sequences
    assert (sequence.check, sequence.margin) == ("rollout/errors", 0.05)
    assert sequence.points
    assert all(point.low <= point.value <= point.high for point in sequence.points)
    assert [event.kind for event in view.timeline][:2] == ["started", "stepped"]
    assert view.timeline[1].inputs["replicas"] == 1
    assert showing.service_view(rig.store, "bikes").rollout == rig.rollout
    assert showing.show(rig.store, rig.rollout) == rollout_view(rig.store, rig.rollout)
    rig.behaviour[NEW] = failing(1.0)
    rig.go(20)
    after = rollout_view(rig.store, rig.rollout)
    assert (after.phase, [arm.share for arm in after.arms]) == ("aborted", [100.0, 0.0])
    page = showing.service_view(rig.store, "bikes")
    assert (page.rollout, page.rollout_says) == (None, "")


def test_a_shadows_page_says_how_often_they_agree(rig: Rig) -> None:
    rig.start(shadow(share=100))
    rig.go(30, a_second=20)
    view = rollout_view(rig.store, rig.rollout)
    assert view.agreement == 0.0  # numbers drawn apart are never the same
    assert view.arms[1].requests > 100


def test_policies_of_rollouts_are_checked(store: Store) -> None:
    metric = {"name": "revenue", "low": 0, "high": 10, "better": "higher", "margin": 0.5}
    register_policy("rollout/bikes", {"analysis": {"metrics": [metric]}, "delays": {"revenue": "1d"}}, store=store, actor=ANA)
    for wrong in (
        {"analysis": {"alpha_abort": 2}},
        {"delays": {"profit": "1d"}},
        {"settle": "soon"},
        {"unknown": 1},
        {"analysis": {"metrics": [metric]}, "delays": {"revenue": "later"}},
    ):
        with pytest.raises(InvalidInput):
            register_policy("rollout/bikes", wrong, store=store, actor=ANA)


def test_a_named_outcome_is_no_label(rig: Rig) -> None:
    read = [
        labelling.read_label(item, 0) for item in ({"request_id": "a", "label": 1.0}, {"request_id": "a", "label": 9.5, "name": "revenue"})
    ]
    assert record_labels(rig.store, "bikes", read, actor=ANA) == 2
    assert rig.store.tables.query('select label from "labels/bikes"').to_pylist() == [{"label": 1.0}]
    assert rig.store.tables.query('select label, name from "outcomes/bikes"').to_pylist() == [{"label": 9.5, "name": "revenue"}]
    with pytest.raises(InvalidInput, match="outcome's name"):
        record_labels(rig.store, "bikes", [Label(request_id="b", label=1.0), Label(request_id="b", label=1.0, name="Bad Name")], actor=ANA)
    with pytest.raises(InvalidInput, match="is text"):
        labelling.read_label({"request_id": "a", "label": 1, "name": 3}, 0)
    assert rig.store.tables.query('select count(*) as n from "labels/bikes"').to_pylist() == [{"n": 1}]


@pytest.mark.parametrize(
    ("make", "given"),
    [
        ("canary", {"steps": [5, 50]}),
        ("canary", {"steps": []}),
        ("canary", {"steps": [5, 5, 100]}),
        ("canary", {"steps": [0, 100]}),
        ("canary", {"steps": [float("nan"), 100]}),
        ("canary", {"steps": [0.001, 100]}),
        ("canary", {"holdback": 60}),
        ("canary", {"promotion": "soon"}),
        ("canary", {"step_units": -1}),
        ("shadow", {"most_rows_s": 0}),
        ("challenger", {"share": 101}),
        ("blue_green", {"keep": "0h"}),
        ("ab", {"share": 100}),
        ("ab", {"rule": "coin"}),
    ],
)
def test_strategies_refuse_what_cannot_be(make: str, given: dict[str, Any]) -> None:
    with pytest.raises(AndonError) as refused:
        getattr(andon, make)(**given)
    assert refused.value.fields["field"] in given
