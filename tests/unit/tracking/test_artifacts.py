"""A run's files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.core.actors import Actor
from andon.core.errors import CorruptBytes, InvalidInput, NotFound
from andon.tracking import artifacts_of, check_path, create_run, log_artifact, log_artifacts, open_artifact

ANA = Actor("person", "ana")


def test_files_and_folders_are_kept_by_path(store, tmp_path):
    run = create_run(store, actor=ANA).id
    (tmp_path / "plots" / "deep").mkdir(parents=True)
    (tmp_path / "plots" / "loss.png").write_bytes(b"png")
    (tmp_path / "plots" / "deep" / "a.json").write_text("{}")
    log_artifact(store, run, tmp_path / "plots" / "loss.png", actor=ANA)
    log_artifacts(store, run, tmp_path, "out", actor=ANA)
    found = {item.path: item.media_type for item in artifacts_of(store, run)}
    assert found == {"loss.png": "image/png", "out/plots/deep/a.json": "application/json", "out/plots/loss.png": "image/png"}
    assert [item.path for item in artifacts_of(store, run, prefix="out/plots/deep")] == ["out/plots/deep/a.json"]
    with open_artifact(store, run, "loss.png") as stream:
        assert stream.read() == b"png"


def test_a_second_file_takes_the_place_of_the_first(store):
    run = create_run(store, actor=ANA).id
    log_artifact(store, run, b"one", "a", actor=ANA)
    log_artifact(store, run, b"two", "a", actor=ANA)
    assert len(artifacts_of(store, run)) == 1
    with open_artifact(store, run, "a") as stream:
        assert stream.read() == b"two"


def test_what_is_not_there_is_said(store, tmp_path):
    run = create_run(store, actor=ANA).id
    for call in (
        lambda: log_artifact(store, run, tmp_path / "none", actor=ANA),
        lambda: log_artifacts(store, run, tmp_path / "none", actor=ANA),
        lambda: open_artifact(store, run, "none"),
        lambda: log_artifact(store, "nope", b"", "a", actor=ANA),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(InvalidInput):
        log_artifact(store, run, b"bytes need a path", actor=ANA)


def test_links_out_of_a_folder_are_not_followed(store, tmp_path):
    run = create_run(store, actor=ANA).id
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(InvalidInput):
        log_artifacts(store, run, folder, actor=ANA)
    assert artifacts_of(store, run) == []


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "..\\a", "C:/a", "a\0b", "a\nb", "//proc/self", "x" * 1_001],
)
def test_paths_are_plain_and_relative(path):
    with pytest.raises(InvalidInput):
        check_path(path)


@given(st.text(max_size=30))
def test_property_an_accepted_path_stays_inside(path):
    import posixpath

    try:
        check_path(path)
    except InvalidInput:
        return
    assert posixpath.normpath(posixpath.join("/root", path)) == "/root/" + path


def test_damaged_bytes_name_run_and_path(disk_store):
    run = create_run(disk_store, actor=ANA).id
    made = log_artifact(disk_store, run, b"some bytes that matter", "a.txt", actor=ANA)
    file = disk_store.blobs.local_path(made.digest)
    file.chmod(0o644)
    file.write_bytes(b"some bytes that Matter")
    with pytest.raises(CorruptBytes) as caught:
        open_artifact(disk_store, run, "a.txt").read()
    assert caught.value.fields["path"] == "a.txt"
