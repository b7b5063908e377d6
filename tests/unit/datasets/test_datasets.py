"""Datasets: registered by what is in them, read back the same, verified."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from andon import datasets
from andon.core.actors import Actor
from andon.core.errors import CorruptBytes, InvalidAddress, InvalidInput, NotFound
from andon.registry import Parent, lineage
from andon.store import memory_store
from andon.tracking import create_run, start_run

ANA = Actor("person", "ana")
TABLE = pa.table(
    {
        "at": pa.array([dt.datetime(2011, 1, 1), dt.datetime(2011, 1, 2), None]),  # noqa: DTZ001
        "count": [1, None, 3],
        "share": [0.5, float("nan"), 1.5],
        "name": ["a", "b", None],
        "ok": [True, False, True],
    }
)


def register(store, source, **options):
    return datasets.register(store, "rides", source, actor=ANA, **options)


@pytest.fixture(params=["memory", "disk"])
def either(request):
    return request.getfixturevalue("store" if request.param == "memory" else "disk_store")


def test_a_table_comes_back_as_it_was(either):
    table = TABLE.set_column(2, "share", pa.array([0.5, None, 1.5]))  # two NaNs are never equal
    version = register(either, table)
    handle = datasets.read(either, "dataset:rides@1")
    assert handle.table().equals(table)
    assert handle.address == version.address
    assert handle.rows == 3
    assert handle.table(columns=["name", "count"]).column_names == ["name", "count"]
    assert handle.path().name == "data.parquet"
    assert pq.read_table(handle.path()).equals(table)


def test_the_manifest_says_what_is_in_it(store):
    manifest = datasets.read(store, register(store, TABLE).address).manifest
    columns = {column.name: column for column in manifest.columns}
    assert (columns["count"].nulls, columns["count"].min, columns["count"].max, columns["count"].mean) == (1, 1, 3, 2.0)
    assert (columns["share"].nulls, columns["share"].min, columns["share"].mean) == (1, 0.5, 1.0)
    assert (columns["at"].min, columns["at"].max) == ("2011-01-01T00:00:00Z", "2011-01-02T00:00:00Z")
    assert (columns["ok"].min, columns["ok"].max) == (False, True)
    assert manifest.event_time == "at"
    assert manifest.event_range_us == (1_293_840_000_000_000, 1_293_926_400_000_000)


@pytest.mark.parametrize(
    "source", [{"a": [1, 2]}, [{"a": 1}, {"a": 2}], pa.table({"a": [1, 2]}).to_batches()[0]], ids=["dict", "rows", "batch"]
)
def test_tables_of_every_form(store, source):
    register(store, source)
    assert datasets.read(store, "rides").table().to_pydict() == {"a": [1, 2]}


def write(folder: Path, name: str) -> Path:
    path = folder / name
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".jsonl":
        path.write_text('{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n')
    elif path.suffix == ".arrow":
        pyarrow.feather.write_feather(table, path, compression="uncompressed")
    else:
        pq.write_table(table, path)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.arrow", "a.jsonl"])
def test_files_of_every_format(store, tmp_path, name):
    path = write(tmp_path, name)
    register(store, path)
    handle = datasets.read(store, "rides")
    assert handle.table().to_pydict() == {"a": [1, 2], "b": ["x", "y"]}
    assert handle.path().read_bytes() == path.read_bytes()
    assert handle.path().name == name
    assert [column.name for column in handle.manifest.columns] == ["a", "b"]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "data"
    made.mkdir()
    return made


def test_a_folder_of_parts_is_one_table(either, folder):
    for part in (1, 2):
        pq.write_table(pa.table({"a": [part]} | ({"b": [part]} if part == 2 else {})), folder / f"{part}.parquet")
    register(either, folder)
    handle = datasets.read(either, "rides")
    assert handle.table().to_pydict() == {"a": [1, 2], "b": [None, 2]}
    assert handle.table(columns=["a"]).to_pydict() == {"a": [1, 2]}
    assert sorted(path.name for path in handle.path().iterdir()) == ["1.parquet", "2.parquet"]
    assert list(handle.files()) == ["1.parquet", "2.parquet"]


def test_other_files_are_kept_and_are_no_table(store, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "photo.jpg").write_bytes(b"jpg")
    (tmp_path / "labels.csv").write_text("a\n1\n")
    register(store, tmp_path)
    handle = datasets.read(store, "rides")
    assert (handle.manifest.format, handle.rows, handle.manifest.file_count) == ("opaque", None, 2)
    assert (handle.path() / "deep" / "photo.jpg").read_bytes() == b"jpg"
    with pytest.raises(InvalidInput):
        handle.table()


def test_a_list_of_files_is_a_folder(store, tmp_path):
    register(store, [write(tmp_path, "a.parquet"), str(write(tmp_path, "b.parquet"))])
    assert datasets.read(store, "rides").table().num_rows == 4
    (tmp_path / "sub").mkdir()
    with pytest.raises(InvalidInput):
        register(store, [tmp_path / "a.parquet", write(tmp_path / "sub", "a.parquet")])


def test_the_same_bytes_are_the_same_version_and_others_another(store):
    first = register(store, TABLE)
    assert register(store, TABLE).address == first.address
    second = register(store, TABLE.slice(1))
    assert second.address.version == 2
    assert datasets.read(store, "dataset:rides@1").rows == 3  # time travel
    assert datasets.read(store, "dataset:rides").rows == 2


@pytest.mark.parametrize(
    ("source", "options", "error", "field"),
    [
        (3, {}, InvalidInput, "source"),
        ([], {}, InvalidInput, "source"),
        ({"a": [1], "b": [1, 2]}, {}, InvalidInput, "source"),
        (pa.table({}), {}, InvalidInput, "source"),
        (TABLE, {"event_time": "none"}, InvalidInput, "event_time"),
        (TABLE, {"event_time": "name"}, InvalidInput, "event_time"),
        ("/no/such/file", {}, NotFound, None),
    ],
)
def test_bad_sources_are_refused_and_leave_no_version(store, source, options, error, field):
    with pytest.raises(error) as caught:
        register(store, source, **options)
    assert caught.value.fields.get("field") == field
    with pytest.raises(NotFound):
        datasets.read(store, "rides")


def test_a_broken_file_is_named(store, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(InvalidInput) as caught:
        register(store, tmp_path / "a.parquet")
    assert caught.value.fields["got"] == "a.parquet"


def test_reading_needs_a_dataset_and_its_columns(store):
    register(store, TABLE)
    with pytest.raises(InvalidAddress):
        datasets.read(store, "model:rides@1")
    with pytest.raises(NotFound):
        datasets.read(store, "dataset:rides@9")
    with pytest.raises(InvalidInput) as caught:
        datasets.read(store, "rides").table(columns=["none"])
    assert caught.value.fields["got"] == "none"


def damage(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damaged_bytes_name_dataset_and_file(disk_store, folder):
    write(folder, "a.parquet")
    pq.write_table(pa.table({"a": [7]}), folder / "b.parquet")
    register(disk_store, folder)
    handle = datasets.read(disk_store, "rides")
    damage(disk_store.blobs.local_path(handle.files()["b.parquet"]))
    for use in (handle.table, handle.path):
        with pytest.raises(CorruptBytes) as caught:
            use()
        assert (caught.value.fields["dataset"], caught.value.fields["file"]) == ("dataset:rides@1", "b.parquet")


def test_a_folder_around_our_own_home_is_refused(disk_store, tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    with pytest.raises(InvalidInput):
        register(disk_store, tmp_path)


def test_a_changed_copy_is_made_anew(disk_store, tmp_path):
    register(disk_store, write(tmp_path, "a.parquet"))
    handle = datasets.read(disk_store, "rides")
    path = handle.path()
    damage(path)
    assert handle.path() == path
    assert path.read_bytes() == (tmp_path / "a.parquet").read_bytes()
    shutil.rmtree(path.parent)
    assert handle.path().is_file()


def test_lineage_leads_to_the_run_and_what_it_was_made_from(store):
    first = register(store, TABLE)
    with start_run(store, actor=ANA, capture=False) as run:
        made = datasets.register(store, "clean", TABLE.slice(1), actor=ANA, parents=[Parent(str(first.address), "data")])
    assert {(edge.parent, edge.role) for edge in lineage(store, made.address, "up").edges} == {
        ("dataset:rides@1", "data"),
        (run.address, "run"),
    }


def test_another_stores_run_does_not_record_it(store):
    with memory_store() as other:
        create_run(other, actor=ANA)
        register(store, TABLE)
        with start_run(other, actor=ANA, capture=False) as run:
            datasets.read(store, "rides")
        assert run.inputs == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.text("abc_é", min_size=1, max_size=6),
        st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=4, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_property_columns_come_back_and_the_manifest_agrees(columns):
    table = pa.table({name: pa.array(values, type=pa.float64()) for name, values in columns.items()})
    with memory_store() as store:
        register(store, table)
        handle = datasets.read(store, "rides")
        found = handle.table()
        for described, name in zip(handle.manifest.columns, columns, strict=True):
            np.testing.assert_array_equal(found[name].to_numpy(), table[name].to_numpy())
            finite = [value for value in columns[name] if value is not None and np.isfinite(value)]
            assert described.nulls == sum(value is None or np.isnan(value) for value in columns[name])
            assert (described.min, described.max) == ((min(finite), max(finite)) if finite else (None, None))
