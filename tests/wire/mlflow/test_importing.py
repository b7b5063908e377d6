"""Moving house: from a SQLite file, an mlruns folder, the real server, and another Andon; stopped half way; counted at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from andon import registry
from andon.cli.main import invoke
from andon.core.errors import InvalidInput, NotFound
from andon.operations.exporting import export_runs
from andon.registry import lineage
from andon.store import Store, open_store
from andon.tracking import artifacts_of, get_run, list_experiments, list_runs, metric_series, open_artifact, params_of
from andon.wire.mlflow.importing import moving, remote
from andon.wire.mlflow.importing.house import Imported, import_mlflow
from andon.wire.mlflow.importing.records import Experiment
from andon.wire.mlflow.importing.remote import Remote
from tests.conftest import ANA
from tests.wire.mlflow.servers import QUIET, AndonServer, RealServer

FILLING = Path(__file__).parent / "scenarios" / "filling.py"
ENTRY = "model:my-model-e84ac3f6"


def fill(uri: str, folder: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW"))}
    environment = plain | QUIET | {"MLFLOW_ALLOW_FILE_STORE": "true"}
    done = subprocess.run([sys.executable, FILLING, uri], cwd=folder, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-4_000:]


@pytest.fixture(scope="module")
def database(stock: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database")
    fill(f"sqlite:///{folder}/mlflow.db", folder)
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def folders(stock: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    fill((folder / "mlruns").as_uri(), folder)
    return folder / "mlruns"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / ".andon") as store:
        yield store


def named(store: Store, name: str) -> str:
    return next(run.id for run in list_runs(store, "one of ours", view="all") if run.name == name)


def check_all_is_here(store: Store, done: Imported) -> None:
    assert done.whole, (done.moved.problems, done.checked)
    assert done.checked is not None
    run = named(store, "first")
    record = get_run(store, run)
    assert (record.status, record.actor, record.experiment) == ("finished", "person:ana", "one of ours")
    assert get_run(store, named(store, "child")).parent == run
    assert get_run(store, named(store, "gone")).deleted_us is not None
    assert params_of(store, run) == {"net/depth": "6"}
    loss = metric_series(store, run, "loss/train")
    assert loss.steps.tolist() == list(range(2_500))
    assert loss.values.tolist() == [n / 7 for n in range(2_500)]
    odd = metric_series(store, run, "odd").values
    assert np.isnan(odd[0])
    assert odd[1] == np.inf
    assert [file.path for file in artifacts_of(store, run)] == ["deep/er/x.json", "notes/a.txt"]
    with open_artifact(store, run, "notes/a.txt") as stream:
        assert stream.read() == b"hello"
    assert registry.tags_of(store, f"run:{run}")["note"] == "two\nlines"
    # the registry: numbers kept with their gap, aliases, the way back to the run
    assert registry.get(store, f"{ENTRY}@3").address.version == 3
    assert registry.get(store, f"{ENTRY}@next").address.version == 3
    graph = lineage(store, f"{ENTRY}@1", "up")
    assert any(node.startswith("logged-model:m-") for node in graph.nodes)
    assert any(node.startswith("run:") for node in graph.nodes)
    assert registry.get(store, f"{ENTRY}@1").manifest["files"] is not None


def test_from_a_sqlite_file(home: Store, database: Path) -> None:
    done = import_mlflow(home, str(database), actor=ANA)
    check_all_is_here(home, done)
    assert done.moved.traces == 1
    again = import_mlflow(home, str(database), actor=ANA)
    assert again.whole
    assert (again.moved.runs, again.moved.points, again.moved.versions, again.moved.traces) == (0, 0, 0, 0)


def test_from_an_mlruns_folder(home: Store, folders: Path) -> None:
    check_all_is_here(home, import_mlflow(home, str(folders), actor=ANA))


def test_from_the_real_server(home: Store, mlflow_server: RealServer, tmp_path: Path) -> None:
    fill(mlflow_server.url, tmp_path)
    done = import_mlflow(home, mlflow_server.url, actor=ANA, only=["one of ours"])
    assert done.whole, (done.moved.problems, done.checked)
    whole = import_mlflow(home, mlflow_server.url, actor=ANA)
    assert not [problem for problem in whole.moved.problems if "My Model" in problem]
    assert registry.get(home, f"{ENTRY}@next").address.version == 3


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("two\nlines", "two lines (7)"),
        (" \x00 ", "(7)"),
        ("x" * 600 + "\n", "x" * 400 + " (7)"),
        (" plain ", "plain"),
        ("☃ 雪 / b", "☃ 雪 / b"),
    ],
)
def test_an_experiment_is_named_on_one_line_and_keeps_the_name_it_had(name: str, here: str) -> None:
    told = Experiment(id="7", name=name, location=None, deleted=False, created_ms=None, tags={"team": "a"})
    assert moving.name_here(told)[0] == here
    assert moving.name_here(told)[1] == {"team": "a"} | ({moving.NAME_THERE: name} if here.endswith("(7)") else {})


def test_an_experiment_of_two_lines_comes_over_once(home: Store, database: Path, tmp_path: Path) -> None:
    copy = tmp_path / "odd.db"
    shutil.copy(database, copy)
    with contextlib.closing(sqlite3.connect(copy)) as source, source:
        (number,) = source.execute("select experiment_id from experiments where name = 'one of ours'").fetchone()
        source.execute("update experiments set name = 'one\nof ours' where experiment_id = ?", (number,))
    for _ in range(2):
        assert import_mlflow(home, str(copy), actor=ANA).whole
        found = [one for one in list_experiments(home) if one.name.startswith("one")]
        assert [one.name for one in found] == [f"one of ours ({number})"]
        assert len(list_runs(home, found[0].name, view="all")) > 2


def _post(url: str, path: str, body: dict[str, object]) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}/api/{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


def test_traces_without_spans_and_a_server_that_fails_at_one(
    home: Store, mlflow_server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace without spans comes as one; what the server fails to give is left behind, said, and fetched the next time."""
    name = f"traces {uuid.uuid4().hex}"
    number = _post(mlflow_server.url, "2.0/mlflow/experiments/create", {"name": name})["experiment_id"]
    for trace in ("tr-" + "a" * 32, "tr-" + "b" * 32):
        info = {
            "trace_id": trace[:-6] + number.zfill(6)[-6:],
            "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": number}},
            "request_time": "2026-01-01T00:00:00Z",
            "state": "OK",
        }
        _post(mlflow_server.url, "3.0/mlflow/traces", {"trace": {"trace_info": info}})
    real = Remote._ask

    def ask(self: Remote, method: str, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("traces/get") and "bbbb" in asked["trace_id"]:
            raise remote._ServerFailed("the server failed (500): out of memory")
        return real(self, method, path, asked)

    def open_(self: Remote, uri: str, path: str) -> IO[bytes]:
        if "bbbb" in uri:
            raise remote._ServerFailed("the server failed (500): out of memory")
        return files(self, uri, path)

    files = Remote.open
    with monkeypatch.context() as broken:
        broken.setattr(Remote, "_ask", ask)
        broken.setattr(Remote, "open", open_)
        done = import_mlflow(home, mlflow_server.url, actor=ANA, only=[name])
    assert (done.moved.traces, done.whole) == (1, False)
    (problem,) = done.moved.problems
    assert "bbbb" in problem
    assert "out of memory" in problem
    again = import_mlflow(home, mlflow_server.url, actor=ANA, only=[name])
    assert (again.moved.problems, again.whole, again.moved.traces, again.moved.skipped) == ([], True, 1, 1)


def test_from_another_andon(home: Store, andon_server: AndonServer, tmp_path: Path) -> None:
    fill(andon_server.url, tmp_path)
    check_all_is_here(home, import_mlflow(home, andon_server.url, actor=ANA))


class Stopped(Exception):
    """Somebody pulled the plug."""


def test_stopped_anywhere_it_goes_on(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug is pulled before each of the writes in turn; after every one of these starts, the next goes on, and nothing is twice."""
    with open_store(tmp_path / ".andon") as store:
        wrote = 0
        stop_at = 1
        real = store.ledger.write

        def write(work: object) -> object:
            nonlocal wrote
            wrote += 1
            if wrote == stop_at:
                raise Stopped
            return real(work)  # type: ignore[arg-type]

        monkeypatch.setattr(store.ledger, "write", write)
        done = None
        while done is None:
            wrote = 0
            stop_at += 3
            try:
                done = import_mlflow(store, str(database), actor=ANA, verify=False)
            except Stopped:
                continue
        monkeypatch.undo()
        assert stop_at > 10
        check_all_is_here(store, import_mlflow(store, str(database), actor=ANA))


def test_a_damaged_copy_and_a_missing_point_are_told(home: Store, database: Path) -> None:
    import_mlflow(home, str(database), actor=ANA)
    run = named(home, "first")
    digest = next(file.digest for file in artifacts_of(home, run) if file.path == "notes/a.txt")
    place = home.blobs.local_path(digest)
    place.chmod(0o600)
    place.write_bytes(b"HELLO")
    home.ledger.write(lambda c: c.exec_driver_sql("delete from points where step = 77").rowcount)
    done = import_mlflow(home, str(database), actor=ANA)
    assert done.checked is not None
    told = "\n".join(done.checked.differences)
    assert "notes/a.txt" in told
    assert f"run {run}: points are 2503 here and 2504 there" in told
    assert not done.whole


def test_a_run_of_that_id_that_is_another_is_left_alone(home: Store, database: Path) -> None:
    from andon.tracking import create_run

    wanted = sqlite3.connect(database).execute("select run_uuid from runs where name = 'first'").fetchone()[0]
    create_run(home, actor=ANA, run=wanted, name="mine")
    done = import_mlflow(home, str(database), actor=ANA)
    assert any(wanted in problem and "another run" in problem for problem in done.moved.problems)
    assert get_run(home, wanted).name == "mine"
    assert not done.whole


@pytest.mark.parametrize("what", ["nothing", "text.txt", "folder", "other.db", "postgresql://host/db", "ftp://x"])
def test_what_is_no_source_is_said(home: Store, tmp_path: Path, what: str) -> None:
    (tmp_path / "text.txt").write_text("hello, this is no database at all, but it is long enough to look like one")
    (tmp_path / "folder").mkdir()
    sqlite3.connect(tmp_path / "other.db").execute("create table x (y)")
    source = what if "://" in what else str(tmp_path / what)
    with pytest.raises((InvalidInput, NotFound)) as caught:
        import_mlflow(home, source, actor=ANA)
    assert caught.value.fields["field"] == "source"


def test_a_source_is_not_changed(home: Store, folders: Path, tmp_path: Path) -> None:
    def state() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in sorted(folders.rglob("*")) if file.is_file()}

    before = state()
    import_mlflow(home, str(folders), actor=ANA)
    assert state() == before


def test_paths_in_the_source_lead_nowhere_else(home: Store, folders: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "mlruns"
    shutil.copytree(folders, copy)
    (tmp_path / "secret.txt").write_text("secret")
    run = next(place.parent for place in copy.rglob("notes"))
    (run / "notes" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (run.parent / "artifacts" / "out").symlink_to(tmp_path)
    for meta in copy.rglob("meta.yaml"):
        text = meta.read_text()
        meta.write_text(text.replace(folders.as_uri(), copy.as_uri()))
    done = import_mlflow(home, str(copy), actor=ANA, verify=False)
    kept = [file.path for file in artifacts_of(home, named(home, "first"))]
    assert kept == ["deep/er/x.json", "notes/a.txt"], done.moved.problems


def test_the_command(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path / ".andon")]
    assert invoke(["import", "mlflow", str(database), *home]) == 0
    assert "both sides agree" in capsys.readouterr().out
    assert invoke(["import", "mlflow", str(database), "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out)["moved"]["runs"] == 0
    out = tmp_path / "out"
    assert invoke(["export", "runs", "--experiment", "one of ours", "-o", str(out), *home]) == 0
    assert (out / "runs.parquet").is_file()
    capsys.readouterr()
    assert invoke(["export", "runs", "-o", str(out), *home]) == 75
    assert "not empty" in capsys.readouterr().err


def test_exported_runs_are_what_was_logged(home: Store, database: Path, tmp_path: Path) -> None:
    import duckdb

    import_mlflow(home, str(database), actor=ANA, verify=False)
    done = export_runs(home, tmp_path / "out", experiment="one of ours", filter="attributes.run_name = 'first'")
    assert (done.runs, done.params, done.files) == (1, 1, 2)
    counted = duckdb.sql(f"select key, count(*), sum(value) from '{tmp_path}/out/metrics.parquet' where key like 'loss%' group by key")
    assert counted.fetchall() == [("loss/train", 2_500, pytest.approx(sum(n / 7 for n in range(2_500))))]
    run = named(home, "first")
    assert (tmp_path / "out" / "artifacts" / run / "notes" / "a.txt").read_bytes() == b"hello"
    assert duckdb.sql(f"select isnan(value) from '{tmp_path}/out/metrics.parquet' where key = 'odd' and step = 1").fetchall() == [(True,)]


def test_half_an_export_is_not_seen(home: Store, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_mlflow(home, str(database), actor=ANA, verify=False)
    monkeypatch.setattr("andon.operations.exporting.shutil.copyfileobj", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_runs(home, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == [".andon"]


def test_sums_of_points_do_not_depend_on_order() -> None:
    rows = [("a", 0.5, 1, 2), ("b", float("nan"), 1, 2), ("a", float("inf"), 2, 2)]
    sums = []
    for order in (rows, rows[::-1]):
        points = moving.sum_of_points()
        points.update(order)
        sums.append(points.text())
    assert sums[0] == sums[1]
    other = moving.sum_of_points()
    other.update(rows[:2])
    assert other.text() != sums[0]
