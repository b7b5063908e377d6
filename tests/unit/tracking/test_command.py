"""Any program as a run."""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path

import pytest

from andon.core.actors import Actor
from andon.core.errors import InvalidInput
from andon.tracking import artifacts_of, get_run, metrics_of, open_artifact, params_of, run_command

ANA = Actor("person", "ana")


def go(store, *command, **options):
    out, err = io.BytesIO(), io.BytesIO()
    result = run_command(store, list(command), actor=ANA, out=out, err=err, **options)
    return result, out.getvalue(), err.getvalue()


def test_output_is_shown_and_kept(store):
    result, out, err = go(store, sys.executable, "-c", "import sys; print('hello'); print('oh', file=sys.stderr)")
    assert (result.exit_code, out, err) == (0, b"hello\n", b"oh\n")
    assert result.run.status == "finished"
    assert {item.path for item in artifacts_of(store, result.run.id)} >= {"logs/stdout.log", "logs/stderr.log"}
    with open_artifact(store, result.run.id, "logs/stdout.log") as stream:
        assert stream.read() == b"hello\n"
    facts = get_run(store, result.run.id).facts
    assert facts is not None
    assert facts.code.argv[0] == sys.executable


@pytest.mark.parametrize(
    ("code", "exit_code", "status"),
    [("raise SystemExit(3)", 3, "failed"), ("1/0", 1, "failed"), ("import os; os.kill(os.getpid(), 9)", 137, "killed")],
)
def test_the_exit_code_is_the_commands_own(store, code, exit_code, status):
    result, _, _ = go(store, sys.executable, "-c", code)
    assert (result.exit_code, result.run.status) == (exit_code, status)


def test_what_cannot_start_is_a_failed_run(store, tmp_path):
    assert go(store, "no-such-program")[0].exit_code == 127
    plain = tmp_path / "plain"
    plain.write_text("not a program")
    result, _, _ = go(store, str(plain))
    assert (result.exit_code, result.run.status) == (126, "failed")
    with pytest.raises(InvalidInput):
        go(store)


INSIDE = """
from andon.core.actors import Actor
from andon.store import open_store
from andon.tracking import seed, start_run
seed(7)
ana = Actor("person", "ana")
with open_store() as store:
    with start_run(store, "bikes", actor=ana, params={"depth": 6}) as run:
        run.log({"mae": 1.5})
        print(run.id)
"""


def test_a_run_started_inside_is_the_commands_run(disk_store):
    result, out, err = go(disk_store, sys.executable, "-c", INSIDE)
    assert result.exit_code == 0, err
    assert out.decode().strip() == result.run.id
    assert params_of(disk_store, result.run.id) == {"depth": "6"}
    assert metrics_of(disk_store, result.run.id)["mae"].value == 1.5
    record = get_run(disk_store, result.run.id)
    assert (record.status, record.experiment) == ("finished", "bikes")
    assert record.facts is not None
    assert record.facts.seeds["python"] == 7
    assert not Path(disk_store.settings.home, "running", result.run.id).exists()


def test_output_can_be_followed_while_it_runs(disk_store, tmp_path):
    gate = tmp_path / "gate"
    code = f"import pathlib, time; print('begun')\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)"
    done = threading.Thread(target=lambda: go(disk_store, sys.executable, "-c", code))
    done.start()
    running = Path(disk_store.settings.home, "running")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        logs = list(running.glob("*/stdout.log"))
        if logs and logs[0].read_bytes() == b"begun\n":
            break
        time.sleep(0.01)
    else:
        pytest.fail("the output did not come")
    gate.touch()
    done.join(20)
    assert not done.is_alive()
