"""A release over whole tables: what goes in, what comes out, what is refused, and what a second call does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv, feather

from andon import datasets, registry
from andon.cli.main import invoke
from andon.core import faults
from andon.core.errors import AndonError, Conflict, DiskFull, InvalidInput, LeaseHeld, NotFound
from andon.models import Column, Signature
from andon.operations.predicting import predict
from andon.operations.showing.jobs import job_view, jobs_view
from andon.serving.offline import Summary, outputs
from andon.store import Store
from andon.tracking import get_run
from tests.conftest import ANA
from tests.unit.serving.line import Line

ROWS = 1_000
PICKY = """
import numpy as np

class Model:
    def __init__(self, folder):
        pass
    def predict(self, columns):
        if (columns["x"] < 0).any():
            raise ValueError("no roots of negative numbers")
        y = np.sqrt(columns["x"]) + columns["k"]
        y[columns["k"] == 13] = float("nan")
        return {"y": y}
"""
Predict = Callable[..., Summary]


@pytest.fixture
def line(disk_store: Store, tmp_path: Path) -> Line:
    return Line(disk_store, tmp_path / "scratch")


@pytest.fixture
def go(disk_store: Store, tmp_path: Path) -> Predict:
    """Predicts into ``out`` of the test's folder, 100 rows a part."""

    def run(release: str, source: Any, **options: Any) -> Summary:
        values: dict[str, Any] = {"part_rows": 100, "store": disk_store, "actor": ANA, "output": tmp_path / "out"}
        return predict(release, source, **(values | options))

    return run


def table(rows: int = ROWS, start: int = 0) -> pa.Table:
    ids = np.arange(start, start + rows)
    return pa.table({"id": ids, "x": ids / 8, "k": ids % 7, "label": [f"ä{i}" for i in ids.tolist()]})


def parquet(path: Path, data: pa.Table | None = None, group: int = 300) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table() if data is None else data, path, row_group_size=group)
    return path


def written(folder: Path) -> pa.Table:
    """All parts of an output, in order."""
    return pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))])


def failures(folder: Path) -> list[dict[str, Any]]:
    return [row for part in sorted((folder / "_errors").glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def check(out: pa.Table, data: pa.Table) -> None:
    """Every row of ``data`` once, in order, with its kept columns and ``y = 2 x + k``."""
    assert out.select(data.column_names).equals(data)
    assert out["y"].to_numpy().tolist() == (2 * data["x"].to_numpy() + data["k"].to_numpy()).tolist()


def test_every_row_is_answered_once_and_in_order(go: Predict, line: Line, tmp_path: Path) -> None:
    told: list[Any] = []
    done = go(line.onnx(), parquet(tmp_path / "in.parquet"), tell=told.append)
    assert (done.rows, done.errors, done.parts, done.resumed_parts) == (ROWS, 0, 10, 0)
    check(written(tmp_path / "out"), table())
    assert told[-1].rows == told[-1].rows_total == ROWS
    assert pq.read_schema(tmp_path / "out" / "part-00000-000000.parquet").metadata[b"andon.release"] == b"release:bikes@1"
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[0] == "_andon.json", "nothing aside is left"


@pytest.mark.parametrize("kind", ["parquet", "csv", "arrow"])
def test_every_format_goes_in_and_comes_out(go: Predict, line: Line, tmp_path: Path, kind: str) -> None:
    source = tmp_path / f"in.{kind}"
    match kind:
        case "parquet":
            parquet(source)
        case "csv":
            csv.write_csv(table(), source)
        case _:
            feather.write_feather(table(), source, chunksize=128, compression="uncompressed")
    assert go(line.onnx(), source, keep=["id"]).rows == ROWS
    out = written(tmp_path / "out")
    assert out.column_names == ["id", "y"]
    assert [int(value) for value in out["id"].to_pylist()] == list(range(ROWS))
    assert out["y"].to_pylist() == [2 * (i / 8) + i % 7 for i in range(ROWS)]
    as_csv = go("release:bikes@1", source, keep=[], format="csv", output=tmp_path / "csv")
    parts = sorted((tmp_path / "csv").glob("part-*.csv"))
    assert (as_csv.parts, len(parts)) == (10, 10)
    assert csv.read_csv(parts[9])["y"].to_pylist() == [2 * (i / 8) + i % 7 for i in range(900, ROWS)]


def test_a_folder_a_glob_a_dataset_and_a_table_are_inputs(go: Predict, line: Line, disk_store: Store, tmp_path: Path) -> None:
    release = line.onnx()
    folder = tmp_path / "parts"
    for at in range(3):
        parquet(folder / f"{at}.parquet", table(150, 150 * at))
    (folder / "_SUCCESS").touch()
    version = datasets.register(disk_store, "rides", folder / "0.parquet", actor=ANA)
    whole = table(450).append_column("event_time", pa.array(range(450), pa.timestamp("us", "UTC")))
    whole = whole.append_column("arrival_time", whole["event_time"])
    for batch in whole.to_batches(100):
        disk_store.tables.append("features/bikes", batch)
    for at, (source, rows) in enumerate(
        [(folder, 450), (str(folder / "[12].parquet"), 300), (str(version.address), 150), ("table:features/bikes", 450)]
    ):
        done = go(release, source, output=tmp_path / f"out{at}", keep=["id"])
        assert done.rows == rows
        ids = written(tmp_path / f"out{at}")["id"].to_pylist()
        assert sorted(ids) == list(range(150, 450) if at == 1 else range(rows))


def test_lineage_leads_from_the_output_to_release_and_input(go: Predict, line: Line, disk_store: Store, tmp_path: Path) -> None:
    data = datasets.register(disk_store, "rides", parquet(tmp_path / "in.parquet"), actor=ANA).address
    done = go(line.onnx(), str(data), register="scored/rides")
    assert done.dataset == "dataset:scored/rides@1"
    up = registry.lineage(disk_store, done.dataset, "up")
    assert {done.run, "release:bikes@1", str(data)} <= set(up.nodes)
    assert done.run in registry.lineage(disk_store, "release:bikes@1", "down").nodes
    assert datasets.read(disk_store, done.dataset).table().num_rows == ROWS
    run = get_run(disk_store, done.run.removeprefix("run:"))
    assert (run.status, run.experiment) == ("finished", "predictions")
    job = job_view(disk_store, done.job).job
    assert (job.state, job.rows, job.rows_total, job.parts, job.run) == ("finished", ROWS, ROWS, 10, run.id)
    assert [one.id for one in jobs_view(disk_store).jobs] == [done.job]


def test_bad_rows_go_to_the_errors_part_with_the_reason(go: Predict, line: Line, tmp_path: Path) -> None:
    lines = ["id,x,k", *(f"{i:03},{i / 8},{i % 5}" for i in range(400))]
    lines[1 + 7] = "007,seven,2"
    lines[1 + 8] = "008,1.5"
    lines[1 + 120] = "120,,3"
    lines[1 + 121] = "121,nan,3"
    lines[1 + 250] = "250,1.0,2.5"
    lines[1 + 399] = "399,1.0,2,9,9"
    source = tmp_path / "in.csv"
    source.write_text("\n".join(lines) + "\n")
    done = go(line.onnx(), source)
    assert (done.rows, done.errors) == (394, 6)
    bad = {row["row"]: row for row in failures(tmp_path / "out")}
    assert list(bad) == [7, 8, 120, 121, 250, 399]
    assert bad[7]["reason"] == "x: this field takes a number, not 'seven'"
    assert bad[8]["reason"] == "this line has 2 cells, not 3"
    assert bad[120]["reason"] == "x: this field is required and is null"
    assert bad[121]["reason"] == "x: NaN and infinities are not values"
    assert bad[250]["reason"].startswith("k: this field takes a whole number")
    assert json.loads(bad[7]["text"]) == {"id": "007", "x": "seven", "k": "2"}
    assert bad[8]["text"] == "008,1.5"
    out = written(tmp_path / "out")
    assert out["id"].to_pylist() == [f"{i:03}" for i in range(400) if i not in bad], "ids are kept as they are written"


def test_a_model_that_raises_on_some_rows_answers_the_others(go: Predict, line: Line, tmp_path: Path) -> None:
    data = table(500)
    x, k = data["x"].to_numpy().copy(), data["k"].to_numpy().copy()
    x[[3, 250, 251]] = -1
    k[[77, 499]] = 13
    data = data.set_column(1, "x", pa.array(x)).set_column(2, "k", pa.array(k))
    done = go(line.python(PICKY), parquet(tmp_path / "in.parquet", data), keep=["id"])
    assert (done.rows, done.errors) == (495, 5)
    bad = {row["row"]: row["reason"] for row in failures(tmp_path / "out")}
    assert sorted(bad) == [3, 77, 250, 251, 499]
    assert "no roots of negative numbers" in bad[250]
    assert "NaN" in bad[499]
    out = written(tmp_path / "out")
    assert out["id"].to_pylist() == [i for i in range(500) if i not in bad]
    assert out["y"].to_pylist() == [float(np.sqrt(i / 8) + i % 7) for i in out["id"].to_pylist()]


def test_more_errors_than_allowed_end_the_job_and_it_can_go_on(go: Predict, line: Line, disk_store: Store, tmp_path: Path) -> None:
    data = table(500).set_column(1, "x", pa.array([None if i % 10 == 5 else 1.0 for i in range(500)]))
    source, release = parquet(tmp_path / "in.parquet", data), line.onnx()
    with pytest.raises(InvalidInput) as caught:
        go(release, source, max_errors=25)
    assert "_errors" in str(caught.value.next_step)
    job = jobs_view(disk_store).jobs[0]
    assert (job.state, job.errors > 25, job.parts) == ("failed", True, 2)
    done = go(release, source, max_errors=50)
    assert (done.rows, done.errors, done.resumed_parts, done.job) == (450, 50, 2, job.id)


def test_the_same_call_goes_on_and_other_work_is_refused(go: Predict, line: Line, disk_store: Store, tmp_path: Path) -> None:
    release, source = line.onnx(), parquet(tmp_path / "in.parquet")
    faults.arm("batch.recorded:4=EIO")
    try:
        with pytest.raises(OSError):
            go(release, source)
    finally:
        faults.arm(None)
    (tmp_path / "out" / ".part-00000-000007.parquet.tmp").write_bytes(b"half")
    other = line.onnx(bias=1.0)
    with pytest.raises(Conflict, match="another release"):
        go(other, source)
    with pytest.raises(Conflict, match="other columns"):
        go(release, source, keep=["id"])
    parquet(tmp_path / "other.parquet", table(ROWS - 1))
    with pytest.raises(Conflict, match="another input"):
        go(release, tmp_path / "other.parquet")
    done = go(release, source)
    assert (done.rows, done.resumed_parts, done.parts) == (ROWS, 4, 10)
    check(written(tmp_path / "out"), table())
    with pytest.raises(Conflict, match="finished") as caught:
        go(release, source)
    assert "--overwrite" in str(caught.value.next_step)
    again = go(release, source, resume=True)
    assert (again.resumed_parts, again.job) == (10, done.job)
    (tmp_path / "out" / "part-00000-000002.parquet").unlink()
    assert go(release, source, resume=True).resumed_parts == 9, "a part that is gone is made again"
    check(written(tmp_path / "out"), table())
    anew = go(other, source, overwrite=True)
    assert anew.job != done.job
    assert written(tmp_path / "out")["y"].to_pylist()[0] == 1.0


def test_an_output_that_is_not_ours_is_left_alone(go: Predict, line: Line, tmp_path: Path) -> None:
    release, source = line.onnx(), parquet(tmp_path / "in.parquet")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(Conflict, match="not written by"):
            go(release, source, **options)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    with pytest.raises(InvalidInput):
        go(release, source, resume=True, overwrite=True)


def test_two_processes_do_not_write_one_output(go: Predict, line: Line, tmp_path: Path) -> None:
    release, source = line.onnx(), parquet(tmp_path / "in.parquet")
    go(release, source)
    held = outputs.lock(tmp_path / "out")
    with pytest.raises(LeaseHeld):
        go(release, source, resume=True)
    os.close(held)


def test_a_full_disk_half_way_leaves_whole_parts_and_goes_on(go: Predict, line: Line, disk_store: Store, tmp_path: Path) -> None:
    release, source = line.onnx(), parquet(tmp_path / "in.parquet")
    for point in ("batch.write:5", "batch.written:3", "batch.synced:2"):
        faults.arm(f"{point}=ENOSPC")
        try:
            with pytest.raises(DiskFull):
                go(release, source)
        finally:
            faults.arm(None)
        assert not list((tmp_path / "out").glob(".part*")), "nothing half-written"
    assert jobs_view(disk_store).jobs[0].state == "failed"
    assert go(release, source).resumed_parts >= 4
    check(written(tmp_path / "out"), table())


def test_ctrl_c_leaves_whole_parts_and_the_next_call_goes_on(
    go: Predict, line: Line, disk_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, source = line.onnx(), parquet(tmp_path / "in.parquet")
    monkeypatch.setattr("andon.serving.offline.running.TELL_S", 0.0)

    def interrupt(progress: Any) -> None:
        if progress.parts == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        go(release, source, tell=interrupt)
    assert jobs_view(disk_store).jobs[0].state == "stopped"
    assert not list((tmp_path / "out").glob(".part*"))
    assert go(release, source).resumed_parts >= 3
    check(written(tmp_path / "out"), table())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b""), "this file is empty"),
        (lambda path: parquet(path, table().drop(["k"])), "lacks a column"),
        (lambda path: parquet(path, table().set_column(1, "x", pa.array(["1.0"] * ROWS))), "this column is string"),
        (lambda path: parquet(path, table(0)), "no rows"),
        (lambda path: path.write_bytes(parquet(path).read_bytes()[:-100]), "cannot be read as parquet"),
        (lambda path: parquet(path, table().append_column("y", pa.array([0.0] * ROWS))), "has the name of this column"),
    ],
)
def test_an_input_that_cannot_be_right_is_refused_before_anything_is_written(
    go: Predict, line: Line, tmp_path: Path, make: Callable[[Path], Any], said: str
) -> None:
    make(tmp_path / "in.parquet")
    with pytest.raises(InvalidInput, match=said):
        go(line.onnx(), tmp_path / "in.parquet")
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_is_said(go: Predict, line: Line, tmp_path: Path) -> None:
    release = line.onnx()
    for wrong in ({"release": "release:bikes@9"}, {"source": tmp_path / "nowhere.parquet"}, {"source": "dataset:none"}):
        with pytest.raises(NotFound):
            go(**({"release": release, "source": parquet(tmp_path / "in.parquet")} | wrong))
    with pytest.raises(InvalidInput, match="no such column to keep"):
        go(release, parquet(tmp_path / "in.parquet"), keep=["colour"])
    parquet(tmp_path / "mixed" / "a.parquet")
    parquet(tmp_path / "mixed" / "b.parquet", table().drop(["label"]))
    with pytest.raises(InvalidInput, match="differ"):
        go(release, tmp_path / "mixed")


def test_a_page_damaged_in_the_middle_stops_the_job_with_the_files_name(go: Predict, line: Line, tmp_path: Path) -> None:
    source = parquet(tmp_path / "in.parquet")
    data = bytearray(source.read_bytes())
    at = pq.ParquetFile(source).metadata.row_group(2).column(1).data_page_offset
    data[at : at + 40] = b"\xff" * 40
    source.write_bytes(bytes(data))
    with pytest.raises(AndonError) as caught:
        go(line.onnx(), source)
    assert caught.value.fields["got"] == "in.parquet"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_andon.json"], "nothing half-written"


def test_a_vector_in_and_a_vector_out(go: Predict, line: Line, tmp_path: Path) -> None:
    code = (
        "class Model:\n    def __init__(self, folder): pass\n    def predict(self, columns):\n"
        "        return {'z': columns['v'] * 2.0, 'said': columns['v'].sum(axis=1).astype(str).astype(object)}\n"
    )
    signature = Signature((Column("v", "double", True, (3,)),), (Column("z", "double", True, (3,)), Column("said", "string")))
    release = line.python(code, signature=signature, example=({"v": [1.0, 2.0, 3.0]},))
    rows = [[float(i), 1.0, 2.0] for i in range(250)]
    rows[9] = [1.0]
    source = parquet(tmp_path / "in.parquet", pa.table({"v": rows}))
    done = go(release, source)
    assert (done.rows, done.errors) == (249, 1)
    assert written(tmp_path / "out")["z"].to_pylist()[0] == [0.0, 2.0, 4.0]
    assert written(tmp_path / "out")["said"].to_pylist()[1] == "4.0"
    go(release, source, output=tmp_path / "csv", format="csv")
    assert csv.read_csv(tmp_path / "csv" / "part-00000-000000.csv")["z"].to_pylist()[0] == "[0.0,2.0,4.0]"


def test_it_works_where_an_event_loop_runs_already(go: Predict, line: Line, tmp_path: Path) -> None:
    release, source = line.onnx(), parquet(tmp_path / "in.parquet")

    async def notebook() -> int:
        return go(release, source).rows

    assert asyncio.run(notebook()) == ROWS


def test_the_command(line: Line, disk_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line.point(line.onnx())
    source, home = parquet(tmp_path / "in.parquet"), ["--home", disk_store.settings.home]
    begin = ["predict", "service:bikes@production", str(source), "-o", str(tmp_path / "out")]
    assert invoke([*begin, "--keep", "id", "--json", *home]) == 0
    said = msgspec.json.decode(capsys.readouterr().out)
    assert (said["rows"], said["errors"], said["release"]) == (ROWS, 0, "release:bikes@1")
    assert invoke([*begin, "--keep", "id", *home]) == Conflict.exit_code
    assert "finished" in capsys.readouterr().err
    assert invoke([*begin, "--overwrite", "--register", "scored", *home]) == 0
    out = capsys.readouterr()
    assert f"{ROWS:,} rows answered by release:bikes@1, 0 failed" in out.out
    assert f"{ROWS:,} of {ROWS:,} rows" in out.err
    assert invoke(["lineage", "dataset:scored@1", *home]) == 0
    assert "release:bikes@1" in capsys.readouterr().out
    assert invoke(["predict", "release:bikes@1", str(source)]) == 64
