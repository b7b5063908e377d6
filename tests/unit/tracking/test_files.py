"""Files by owner: runs, logged models, traces, and what is nobody's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.actors import Actor
from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.store import memory_store, open_store
from andon.store.schema import logged_models
from andon.tracking import Artifact, artifacts_of, check_path, create_run, delete_run, log_artifact
from andon.tracking.artifacts import SHARED, delete_files_in, find_artifact_in, list_artifacts_in, write_files_in

ANA = Actor("person", "ana")


def _file(path, size=1):
    return Artifact(path=path, digest="b3:" + "0" * 64, size_bytes=size, media_type="text/plain", at_us=1)


def _write(store, owner, *paths):
    store.ledger.write(lambda c: write_files_in(c, owner, [_file(path, len(path)) for path in paths], actor=ANA))


def _list(store, owner, path=""):
    with store.ledger.read() as connection:
        return list_artifacts_in(connection, owner, path)


def _plainly(paths, folder):
    """The same by looking at every path."""
    prefix = f"{folder}/" if folder else ""
    below = [path for path in paths if path.startswith(prefix)]
    files = {(path, False, len(path)) for path in below if "/" not in path[len(prefix) :]}
    return sorted(files | {(prefix + path[len(prefix) :].split("/")[0], True, 0) for path in below if "/" in path[len(prefix) :]})


def test_a_folder_lists_what_lies_directly_in_it(store):
    run = create_run(store, actor=ANA).id
    _write(store, f"run:{run}", "a", "d/x", "d/y/z", "d-e/q", "d0", "é/ü")
    owner = f"run:{run}"
    assert _list(store, owner) == [("a", False, 1), ("d", True, 0), ("d-e", True, 0), ("d0", False, 2), ("é", True, 0)]
    assert _list(store, owner, "d") == [("d/x", False, 3), ("d/y", True, 0)]
    assert _list(store, owner, "d/y") == [("d/y/z", False, 5)]
    for nothing in ("a", "d/x", "nope", "d/"):
        assert _list(store, owner, nothing) == []


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_large_folders_are_listed_whole(engine, tmp_path, request):
    ledger = {"ledger": request.getfixturevalue("postgres_url")} if engine == "postgres" else {}
    with open_store(tmp_path / ".andon", **ledger) as store:
        paths = [f"many/{n:04d}" for n in range(700)] + [f"d{n}/{k}" for n in range(90) for k in range(70)] + ["Z", "a", "é/B", "é/a", "zz"]
        _write(store, SHARED, *paths)
        for folder in ("", "many", "d7", "é"):
            assert _list(store, SHARED, folder) == _plainly(paths, folder)


_name = st.text("ab-./0é", min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(_name, max_size=12), _name)
def test_property_a_listing_is_what_the_paths_say(names, folder):
    kept = []
    with memory_store() as store:
        for name in names:
            try:
                check_path(name)
                _write(store, SHARED, name)
                kept.append(name)
            except (InvalidInput, Conflict):
                continue
        kept = sorted(set(kept))
        assert _list(store, SHARED) == _plainly(kept, "")
        assert _list(store, SHARED, folder.rstrip("/")) == _plainly(kept, folder.rstrip("/"))


def test_a_name_is_a_file_or_a_folder(store):
    run = create_run(store, actor=ANA).id
    log_artifact(store, run, b"x", "a/b/c", actor=ANA)
    for path in ("a", "a/b", "a/b/c/d", "a/b/c/d/e"):
        with pytest.raises(Conflict):
            log_artifact(store, run, b"y", path, actor=ANA)
    with pytest.raises(Conflict):
        _write(store, SHARED, "x", "x/y")
    assert [item.path for item in artifacts_of(store, run)] == ["a/b/c"]
    assert _list(store, SHARED) == []


def test_files_are_forgotten_one_by_one_or_by_folder(store):
    run = create_run(store, actor=ANA).id
    owner = f"run:{run}"
    _write(store, owner, "a/x", "a/y", "a0", "ab/z", "b")

    def delete(path):
        return store.ledger.write(lambda c: delete_files_in(c, owner, path, actor=ANA))

    assert [delete("a"), delete("b"), delete("b"), delete("nope")] == [2, 1, 0, 0]
    assert [item.path for item in artifacts_of(store, run)] == ["a0", "ab/z"]
    assert delete("") == 2
    _write(store, owner, "a")  # and a folder's name is free again


def test_owners_must_be_there(store):
    run = create_run(store, actor=ANA).id
    store.ledger.write(
        lambda c: c.execute(
            logged_models.insert(), [{"id": "m-1", "experiment": 0, "name": "m", "status": "ready", "created_us": 1, "changed_us": 1}]
        )
    )
    _write(store, "logged-model:m-1", "MLmodel")
    with store.ledger.read() as connection:
        assert find_artifact_in(connection, "logged-model:m-1", "MLmodel") == _file("MLmodel", 7)
        assert find_artifact_in(connection, "logged-model:m-1", "other") is None
    delete_run(store, run, actor=ANA)
    store.ledger.write(lambda c: c.execute(logged_models.update().values(deleted_us=1)))
    for owner, error in ((f"run:{run}", Gone), ("logged-model:m-1", Gone), ("run:nope", NotFound), ("trace:nope", NotFound)):
        with pytest.raises(error):
            _write(store, owner, "a")
        with pytest.raises(error):
            store.ledger.write(lambda c, owner=owner: delete_files_in(c, owner, "a", actor=ANA))


@pytest.mark.parametrize(
    "path", ["．．/a", "a/‥/b", "a／b", "a＼b", "file:a", "FILE:a", "s3:/a", "x" * 256, "é" * 128, "a/" + "b" * 256, "\ud800"]
)
def test_what_others_would_take_for_another_path_is_refused(path):
    with pytest.raises(InvalidInput):
        check_path(path)


@pytest.mark.parametrize("path", ["~/a", "a.", "…", "½", "ﬁle", "a b", "a:b", "x" * 255, "日本/語"])
def test_odd_names_are_names(path):
    assert check_path(path) == path
