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
    said = run_json(capsys, home, "gc", "--dry-run", "--older-than", "1s")
    assert (said["blobs"], said["purged"], said["dry_run"]) == (0, 0, True)
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
        (["policy", "gate/x", "/no/such/file.toml"], 66, "there is no such file"),
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


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """`andon ls` meets an exception that nobody expected."""

    def breaks(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero\nin two lines")

    monkeypatch.setattr(registry, "entries", breaks)
    monkeypatch.delenv("ANDON_TRACEBACK", raising=False)


def test_an_unexpected_exception_is_one_clear_line(capsys: pytest.CaptureFixture[str], home: Path, broken: None) -> None:
    status, out, err = run(capsys, home, "ls")
    assert (status, out) == (70, "")
    assert err.splitlines() == [
        "andon: internal error: ZeroDivisionError: division by zero",
        "  next: please report it; run again with ANDON_TRACEBACK=1 for the traceback",
    ]
    status, out, err = run(capsys, home, "ls", "--json")
    assert (status, out) == (70, "")
    assert json.loads(err)["error"]["code"] == "internal"


def test_the_traceback_comes_when_asked_for(
    capsys: pytest.CaptureFixture[str], home: Path, broken: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANDON_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run(capsys, home, "ls")


def test_what_changed_leaves_out_what_always_differs(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from andon.cli import rendering

    monkeypatch.setattr(rendering, "_MOST", 1)
    _, out, _ = run(capsys, home, "show", "release:bikes@2")
    told = out.partition("changed since release:bikes@1")[2]
    assert told.split("after", 1)[1].split()[1].startswith("model.")
    assert not {"scored", "verdicts["} & set(told.split())
    assert "more: andon diff release:bikes@1 release:bikes@2" in told


def test_diff_folds_the_example(capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [
        registry.Change("example[0].temp", 1, 2),
        registry.Change("example[1].temp", 1, 2),
        registry.Change("model.digest", "a", "b"),
    ]
    monkeypatch.setattr(registry, "diff", lambda *_: changes)
    _, out, _ = run(capsys, home, "diff", "release:bikes@1", "release:bikes@2")
    assert "example: 2 values differ" in out
    assert "example[" not in out
    assert len(run_json(capsys, home, "diff", "release:bikes@1", "release:bikes@2")) == 3


def test_a_run_says_its_address_and_show_says_what_was_captured(
    capfd: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("andon.tracking.starting.observed_seeds", dict)  # other tests of this process may have seeded a library
    monkeypatch.setattr("andon.tracking.active.observed_seeds", dict)
    assert invoke(["run", "--home", str(home), "--", "true", "--json"]) == 0
    address = capfd.readouterr().err.split()[-1]
    assert address.startswith("run:")
    assert invoke(["show", address, "--home", str(home)]) == 0
    shown = capfd.readouterr().out
    for part in (
        "commit",
        "entry point",
        "environment",
        " packages",
        "hardware",
        "duration",
        "completeness",
        "missing: seeds (call andon.seed",
    ):
        assert part in shown, part


def test_a_command_that_is_not_there_is_said_to_be(capfd: pytest.CaptureFixture[str], home: Path) -> None:
    assert invoke(["run", "--home", str(home), "--", "/no/such/program"]) == 127
    err = capfd.readouterr().err.splitlines()
    assert err[-2] == "andon: /no/such/program: not found"
    assert err[-1].startswith("run:")


def test_an_undecided_release_says_that_nothing_judged_it(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from andon.core.addresses import Address
    from andon.core.verdicts import Answer
    from andon.operations import releasing
    from andon.releases import Made

    with open_store(home) as store:
        manifest = assemble(store, "bikes", model="model:bikes@1", environment=LOCK)
    made = Made(address=Address.parse("release:bikes@4"), digest="b3:0", manifest=manifest, answer=Answer.UNDECIDED, judged=())
    monkeypatch.setattr(releasing, "release", lambda *_, **__: made)
    status, out, _ = run(capsys, home, "release", "bikes", "--model", "model:bikes@1")
    assert status == 2
    assert "there were no evaluation examples to judge it on" in out
    assert "--evaluation" in out


def test_an_alias_that_is_there_already(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    arguments = ("alias", "model:bikes@stable", "model:bikes@2")
    assert "nothing -> model:bikes@2" in run(capsys, home, *arguments)[1]
    assert run(capsys, home, *arguments)[1] == "model:bikes@stable: already model:bikes@2\n"


def test_history_tells_both_times(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert "recorded" not in run(capsys, home, "history", "service:bikes")[1]
    run(capsys, home, "deploy", "release:bikes@2", "--event-time", "2011-08-01T00:00:00Z")
    _, out, _ = run(capsys, home, "history", "service:bikes")
    assert "recorded" in out
    assert "2011-08-01T00:00:00Z" in out
    for nowhere in ("service:nope", "incident:nope-1"):
        assert run(capsys, home, "history", nowhere)[0] == 66


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_addresses_stay_whole_at_any_width(capsys: pytest.CaptureFixture[str], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from andon.cli import output

    monkeypatch.setattr(output, "console", lambda: Console(highlight=False, width=width))
    address = "dataset:bikes-training@3"
    output.say_table(("made", "from", "why"), [(address, "run:01M81Q8QGZD391300SJ8TSV2C6", "a long story " * 9)], title="lineage")
    out = capsys.readouterr().out
    assert address in out
    assert "run:01M81Q8QGZD391300SJ8TSV2C6" in out
