"""Killed in the middle of a deploy or a rollback: the channel, the champion and the history agree, and it can be done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from andon import registry
from andon.core.clocks import ManualClock
from andon.operations.upkeep import doctor
from andon.releases import deploy, make, service_state
from andon.releases.making import assemble
from andon.store import Store, open_store
from tests.conftest import ANA, START_US
from tests.unit.releases.conftest import LOCK, examples, register_model, scorer

POINTS = ["ledger.before_commit", "ledger.after_commit"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two good releases; the first holds production."""
    with open_store(tmp_path / "home", clock=ManualClock(START_US)) as store:
        for tag in "ab":
            manifest = assemble(store, "bikes", model=register_model(store, tag=tag), environment=LOCK)
            make(store, manifest, examples=examples(9), score=scorer(), actor=ANA, reason=tag)
        deploy(store, "release:bikes@1", actor=ANA)
    return tmp_path / "home"


def _andon(home: Path, *arguments: str, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ANDON_ACTOR": "person:ana"} | ({"ANDON_FAULT": fault} if fault else {})
    command = [sys.executable, "-m", "andon", *arguments, "--home", str(home)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def _is_whole(store: Store) -> str:
    """What holds production; everything that must agree with it does."""
    production = str(registry.resolve(store, "service:bikes@production"))
    state = service_state(store, "bikes")
    assert state.current() == production
    moves = registry.moves(store, "service:bikes@production")
    assert [move.target for move in moves] == state.held()
    champion = registry.get(store, production).manifest["model"]["address"]
    assert str(registry.resolve(store, "model:bikes@champion")) == champion
    assert doctor(store) == []
    return production


@pytest.mark.parametrize("point", POINTS)
def test_killed_in_a_deploy(home: Path, point: str) -> None:
    killed = _andon(home, "deploy", "release:bikes@2", "--why", "better", fault=point)
    assert killed.returncode == -signal.SIGKILL
    with open_store(home) as store:
        moved = "release:bikes@2" if point == "ledger.after_commit" else "release:bikes@1"
        assert _is_whole(store) == moved
    again = _andon(home, "deploy", "release:bikes@2", "--why", "better")
    assert again.returncode == 0, again.stderr
    with open_store(home) as store:
        assert _is_whole(store) == "release:bikes@2"


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("only", [(), ("--only", "model")], ids=["whole", "partial"])
def test_killed_in_a_rollback(home: Path, point: str, only: tuple[str, ...]) -> None:
    assert _andon(home, "deploy", "release:bikes@2").returncode == 0
    killed = _andon(home, "rollback", "bikes", "--why", "worse", *only, fault=point)
    assert killed.returncode == -signal.SIGKILL
    went = point == "ledger.after_commit"
    with open_store(home) as store:
        production = _is_whole(store)
        state = service_state(store, "bikes")
        assert (production != "release:bikes@2") is went
        assert ("release:bikes@2" in state.rejections) is went
        if only and went:
            assert production == "release:bikes@3"
            assert registry.get(store, production).manifest["model"]["address"] == "model:bikes@1"


def test_a_deploy_that_is_refused_leaves_no_trace(home: Path) -> None:
    refused = _andon(home, "deploy", "release:bikes@9", "--json")
    assert refused.returncode == 66
    assert '"code":"not-found"' in refused.stderr
    with open_store(home) as store:
        assert _is_whole(store) == "release:bikes@1"
        assert len(service_state(store, "bikes").turns) == 1
