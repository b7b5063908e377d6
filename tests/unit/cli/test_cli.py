"""The command line: what it prints, what it exits with, and how it says no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from andon import registry
from andon.cli.main import COMMANDS, USAGE, cli, invoke
from andon.releases import deploy, make
from andon.releases.making import assemble
from andon.store import open_store
from tests.conftest import ANA
from tests.unit.releases.conftest import LOCK, examples, register_model, scorer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two good releases and a refused one; the first holds production."""
    monkeypatch.setenv("ANDON_ACTOR", "person:ana")
    folder = tmp_path / ".andon"
    with open_store(folder) as store:
        for tag, bias in (("a", 0.0), ("b", 0.0), ("c", 40.0)):
            model = register_model(store, tag=tag)
            score = scorer(lambda m, bias=bias, model=model: bias if m.model.address == model else 0.0)
            manifest = assemble(store, "bikes", model=model, environment=LOCK)
            make(store, manifest, examples=examples(9), score=score, actor=ANA, reason=tag)
            if tag == "a":
                deploy(store, "release:bikes@1", actor=ANA, reason="launch")
    return folder


def run(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str) -> tuple[int, str, str]:
    status = invoke([*arguments, "--home", str(home)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def run_json(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str) -> Any:
    status, out, err = run(capsys, home, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def test_every_command_loads_and_says_what_it_does() -> None:
    import click

    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert command.help, name
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (name, option.name)


def test_ls_lists_names_kinds_and_services(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    status, out, _ = run(capsys, home, "ls")
    assert status == 0
    assert "release:bikes" in out
    assert "@champion=model:bikes@1" in out
    assert [entry["name"] for entry in run_json(capsys, home, "ls", "model")] == ["bikes"]
    assert [light["production"] for light in run_json(capsys, home, "ls", "service")] == ["release:bikes@1"]
    assert run_json(capsys, home, "ls", "run") == []
    assert len(run_json(capsys, home, "ls", "verdict")) == 6


@pytest.mark.parametrize("address", ["release:bikes@3", "service:bikes", "model:bikes@1", "policy:gate/default"])
def test_show_renders_and_encodes(capsys: pytest.CaptureFixture[str], home: Path, address: str) -> None:
    status, out, err = run(capsys, home, "show", address)
    assert status == 0, err
    assert "bikes" in out or "gate" in out
    assert isinstance(run_json(capsys, home, "show", address), dict)


def test_show_a_verdict(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    failed = [v for v in run_json(capsys, home, "ls", "verdict") if v["status"] == "fail"]
    status, out, _ = run(capsys, home, "show", f"verdict:{failed[0]['id']}")
    assert status == 0
    assert "release:bikes@3" in out


def test_deploy_rollback_waive_and_history(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert run(capsys, home, "deploy", "release:bikes@2", "--why", "newer")[0] == 0
    status, _, err = run(capsys, home, "deploy", "release:bikes@3")
    assert status == 1
    assert "the gate refused this release" in err
    assert "andon waive" in err
    assert run_json(capsys, home, "rollback", "bikes", "--why", "slower")["release"] == "release:bikes@1"
    assert run(capsys, home, "waive", "release:bikes@3", "--why", "an experiment", "--for", "1h")[0] == 0
    assert run(capsys, home, "deploy", "release:bikes@3")[0] == 0
    events = run_json(capsys, home, "history", "service:bikes")
    assert [event["type"] for event in events if event["type"] != "judged"] == [
        "deployed", "deployed", "rolled-back", "rejected", "waived", "deployed",
    ]  # fmt: skip
    moves = run_json(capsys, home, "history", "service:bikes@production")
    assert [move["target"] for move in moves] == ["release:bikes@1", "release:bikes@2", "release:bikes@1", "release:bikes@3"]
    assert "slower" in run(capsys, home, "history", "service:bikes")[1]


def test_diff_lineage_alias_and_tag(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert "model.address" in run(capsys, home, "diff", "release:bikes@1", "release:bikes@2")[1]
    assert "no difference" in run(capsys, home, "diff", "release:bikes@1", "release:bikes@1")[1]
    edges = run_json(capsys, home, "lineage", "release:bikes@1", "--direction", "up")["edges"]
    assert {edge["parent"] for edge in edges} >= {"model:bikes@1", "policy:gate/default@1"}
    assert run_json(capsys, home, "alias", "model:bikes@stable", "model:bikes@2", "--why", "good")["target"] == "model:bikes@2"
    assert run_json(capsys, home, "tag", "model:bikes@2", "owner", "ana") == {"owner": "ana"}
    assert run_json(capsys, home, "tag", "model:bikes@2", "owner", "--remove") == {}


def test_a_channel_is_not_moved_by_alias(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    status, _, err = run(capsys, home, "alias", "service:bikes@production", "release:bikes@3")
    assert status == 65
    assert "andon deploy" in err


def test_doctor_finds_nothing_then_finds_damage(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    status, out, _ = run(capsys, home, "doctor", "--deep")
    assert (status, out.strip()) == (0, "all is well")
    with open_store(home) as store:
        digest = registry.get(store, "model:bikes@1").manifest["files"]
        path = store.blobs.local_path(digest)
    path.chmod(0o644)
    path.write_bytes(b"not what it was")
    status, out, _ = run(capsys, home, "doctor", "--deep", "--json")
    assert status == 1
    assert any(digest in problem["subject"] for problem in json.loads(out))


def test_gc_says_what_it_would_free(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    with open_store(home) as store:
        store.blobs.put(b"nobody needs this")
    assert run_json(capsys, home, "gc", "--dry-run", "--older-than", "1s")["digests"] == []
    assert run(capsys, home, "gc", "--older-than", "soon")[0] == 65


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["show", "model:nope@1"], 66, "andon ls model"),
        (["show", "model:bike@1"], 66, "did you mean model:bikes"),
        (["show", "nonsense"], 65, "kind:name"),
        (["deploy", "model:bikes@1"], 65, "this takes a release"),
        (["rollback", "bikes"], USAGE, "--why"),
        (["rollback", "bikes", "--why", "x", "--only", "tone"], 65, "no component"),
        (["lss"], USAGE, "Did you mean ls"),
        (["ls", "thing"], 65, "there is no kind"),
        (["label", "bikes", "/no/such/file"], USAGE, "No such file"),
    ],
)
def test_wrong_use_says_what_to_do(capsys: pytest.CaptureFixture[str], home: Path, arguments: list[str], status: int, said: str) -> None:
    got, _, err = run(capsys, home, *arguments)
    assert got == status
    assert said in err


def test_errors_as_json(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    status, out, err = run(capsys, home, "show", "model:nope@1", "--json")
    assert (status, out) == (66, "")
    assert json.loads(err)["error"]["code"] == "not-found"


def test_labels_from_a_file(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text('{"request_id": "a", "label": 3}\n\n{"request_id": "b", "label": 4.5, "event_time": "2011-08-02T00:00:00Z"}\n')
    assert run_json(capsys, home, "label", "bikes", str(good)) == {"labels": 2}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"request_id": "a", "label": "NaN?"}\n{"request_id": "c"}\n')
    status, _, err = run(capsys, home, "label", "bikes", str(bad))
    assert status == 65
    assert "labels[1].label" in err
    with open_store(home) as store:
        assert store.tables.query('select count(*) as n from "labels/bikes"').to_pylist() == [{"n": 2}]
