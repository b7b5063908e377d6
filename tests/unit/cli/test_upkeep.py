"""Deleting, restoring, retention and disk use on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from andon.cli.main import invoke
from andon.store import open_store
from andon.tracking import create_run, log_artifact, update_run
from tests.conftest import ANA


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with open_store(tmp_path / ".andon") as store:
        run = create_run(store, experiment="trial runs", actor=ANA, run="R1").id
        log_artifact(store, run, b"x" * 5_000, "x.bin", actor=ANA)
        update_run(store, run, actor=ANA, status="finished")
    return tmp_path / ".andon"


def test_a_run_is_deleted_restored_and_then_gone(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--home", str(home)]
    assert invoke(["delete", "run:R1", *at]) == 64, "a reason is asked for"
    assert invoke(["delete", "run:R1", "--why", "by mistake", *at]) == 0
    assert "andon restore run:R1" in capsys.readouterr().out
    assert invoke(["restore", "run:R1", *at]) == 0
    assert invoke(["delete", "experiment:trial runs", "--why", "over", *at]) == 0
    policy = tmp_path / "policy.toml"
    policy.write_text("deleted_days = 0\n")
    assert invoke(["policy", "retention/all", str(policy), *at]) == 0
    capsys.readouterr()
    assert invoke(["gc", "--dry-run", *at]) == 0
    assert "would purge 1" in capsys.readouterr().out
    assert invoke(["gc", *at]) == 0
    out = capsys.readouterr().out
    assert "purged 1" in out
    assert "trial runs held nothing any more" in out
    assert invoke(["show", "run:R1", *at]) == 66
    assert "deleted for good" in capsys.readouterr().err


def test_disk_use_by_experiment(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["du", "--json", "--home", str(home)]) == 0
    uses = {use["experiment"]: use for use in json.loads(capsys.readouterr().out)}
    assert (uses["trial runs"]["runs"], uses["trial runs"]["own_bytes"], uses["Default"]["runs"]) == (1, 5_000, 0)


@pytest.mark.parametrize("command", [["gc", "--experiment", "nobody's"], ["delete", "model:x", "--why", "y"], ["restore", "run:nothing"]])
def test_what_is_not_there_is_said(home: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([*command, "--home", str(home)]) in (65, 66)
    assert "next:" in capsys.readouterr().err
