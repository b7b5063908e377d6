"""``andon watch`` and ``andon cord`` as a person types them: on a line with a story, and on lines where there is little to go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from andon import releases
from andon.cli.main import invoke
from andon.core.clocks import DAY_US, HOUR_US, SystemClock
from andon.core.errors import LeaseHeld
from andon.incidents.controller import IncidentController
from andon.incidents.journal import state_of
from andon.logs import Served, log_predictions
from andon.operations.watching import watch
from andon.releases import make
from andon.releases.making import assemble
from andon.store import open_store
from tests.conftest import ANA, START_US
from tests.faults.watched import SERVICE, make_home
from tests.unit.releases.conftest import LOCK, examples, register_model, scorer

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def ana(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDON_ACTOR", "person:ana")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "scratch").mkdir()
    with open_store(folder / "home", clock=SystemClock()) as store:
        make_home(store, folder / "scratch")
    return folder / "home"


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "home"))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A release that was made without training data, and one that nobody deployed."""
    folder = tmp_path / "bare"
    with open_store(folder) as store:
        for service in ("bare", "idle"):
            manifest = assemble(store, service, model=register_model(store, name=service), environment=LOCK)
            made = make(store, manifest, examples=examples(9), score=scorer(), actor=ANA)
            if service == "bare":
                releases.deploy(store, made.address, actor=ANA)
    return folder


def andon(capsys: Capture, home: Path, *arguments: str) -> tuple[int, str, str]:
    status = invoke([*arguments, "--home", str(home)])
    said = capsys.readouterr()
    return status, said.out, said.err


def andon_json(capsys: Capture, home: Path, *arguments: str) -> Any:
    status, out, err = andon(capsys, home, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


# --- a line with a story


def test_watch_judges_what_is_due_once(capsys: Capture, home: Path) -> None:
    found = andon_json(capsys, home, "watch", SERVICE)
    assert {"inputs/clock", "live-quality", "previous-release"} <= {verdict["check"] for verdict in found}
    assert any(verdict["status"] == "fail" for verdict in found)
    assert andon_json(capsys, home, "watch", f"service:{SERVICE}") == []
    status, out, _ = andon(capsys, home, "watch", SERVICE)
    assert status == 0
    assert "nothing is due" in out
    assert [row["cause"] for row in andon_json(capsys, home, "show", f"service:{SERVICE}")["incidents"]]


def test_the_cord_opens_an_incident_with_a_number_of_its_own(capsys: Capture, home: Path) -> None:
    andon(capsys, home, "watch", SERVICE)
    for n in (3, 4):
        status, out, err = andon(capsys, home, "cord", SERVICE, "--why", "riders complain")
        assert status == 0, err
        assert f"incident:bikes-{n}" in out
        assert "riders complain" in out
        assert "person:ana" in out
    with open_store(home) as store:
        opened = [incident for incident in state_of(store, SERVICE).incidents if incident.checks == ("cord",)]
        assert [incident.id for incident in opened] == ["bikes-3", "bikes-4"]


def test_the_cord_before_anything_was_judged(capsys: Capture, home: Path) -> None:
    view = andon_json(capsys, home, "cord", SERVICE, "--why", "it feels wrong")
    assert "not known" in view["incident"]["cause"]
    assert "no window has been judged yet" in json.dumps(view)
    assert andon_json(capsys, home, "watch", SERVICE)  # and the monitors go on from there


def test_while_another_process_watches_it_says_so(capsys: Capture, home: Path) -> None:
    with open_store(home) as store:
        other = IncidentController()
        other.step(store, SERVICE)
        status, _, err = andon(capsys, home, "watch", SERVICE)
        assert status == 75
        assert "another process watches" in err
        assert "andon up" in err
        with pytest.raises(LeaseHeld):
            watch(SERVICE, store=store)
        other.let_go(store, SERVICE)
        other.close()
    assert andon(capsys, home, "watch", SERVICE)[0] == 0


# --- little to go on


def test_nothing_is_in_production(capsys: Capture, bare: Path) -> None:
    for command in (("watch", "idle"), ("watch", "nobody"), ("cord", "idle", "--why", "x"), ("cord", "nobody", "--why", "x")):
        status, out, err = andon(capsys, bare, *command)
        assert (status, out) == (66, ""), err
        assert "nothing is in production" in err
        assert command[1] in err


def test_without_training_data_it_is_undecided_and_the_cord_says_why(capsys: Capture, bare: Path) -> None:
    with open_store(bare) as store:
        at = np.arange(START_US, START_US + 2 * DAY_US + HOUR_US, HOUR_US, dtype=np.int64)
        hour = (at // HOUR_US % 24).astype(float)
        log_predictions(
            store.tables,
            Served(
                service="bare",
                release="release:bare@1",
                release_digest="b3:0",
                channel="production",
                request_ids=[str(one) for one in at],
                row=[0] * len(at),
                event_us=at.tolist(),
                arrival_us=[store.clock.now_us()] * len(at),
                latency_ms=[1.0] * len(at),
                inputs={"hr": hour},
                outputs={"rentals": hour},
            ),
        )
    found = andon_json(capsys, bare, "watch", "bare")
    assert [(verdict["check"], verdict["status"]) for verdict in found] == [("live-quality", "undecided")] * 2
    assert "without training data" in found[0]["message"]
    status, out, _ = andon(capsys, bare, "cord", "bare", "--why", "numbers look odd")
    assert status == 0
    assert "without training data" in out
    assert "numbers look odd" in out


def test_a_reason_is_needed(capsys: Capture, bare: Path) -> None:
    assert andon(capsys, bare, "cord", "bare")[0] == 64
    status, _, err = andon(capsys, bare, "cord", "bare", "--why", "  ")
    assert status == 65
    assert "reason" in err
