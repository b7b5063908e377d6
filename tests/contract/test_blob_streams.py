"""Bytes in pieces: the same promises from every engine, and uploads in parts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from andon.core import faults
from andon.core.clocks import ManualClock
from andon.core.digests import digest_bytes
from andon.core.errors import Conflict, CorruptBytes, DiskFull, InvalidInput, NotFound
from andon.store.blobs import open_blobs
from andon.store.blobs.check import check_blobs, leftovers
from andon.store.blobs.local import LocalBlobs
from andon.store.blobs.uploads import FORGOTTEN_S, Uploads, clean_uploads
from andon.store.ports import Blobs

DATA = os.urandom(3_500_000)


@pytest.fixture(params=["file://blobs", "memory:"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Blobs:
    return open_blobs(request.param, tmp_path, clock)


@pytest.fixture
def local(tmp_path: Path, clock: ManualClock) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs", clock)


@pytest.mark.parametrize("data", [b"", b"x", DATA])
def test_what_came_in_pieces_goes_out_in_pieces(blobs: Blobs, data: bytes) -> None:
    incoming = blobs.begin()
    for at in range(0, len(data), 70_001):
        incoming.write([data[at : at + 30_000], b"", data[at + 30_000 : at + 70_001]])
    assert list(blobs.digests()) == []
    assert incoming.size_bytes == len(data)
    digest = incoming.keep()
    incoming.drop()
    assert digest == digest_bytes(data)
    for _ in range(2):  # unread as yet, and then proven
        assert b"".join(blobs.pieces(digest)) == data
    assert b"".join(blobs.pieces(digest, 1, 2_000_000)) == data[1:2_000_000]
    assert b"".join(blobs.pieces(digest, 5)) == data[5:]
    with pytest.raises(NotFound):
        blobs.pieces(digest_bytes(b"nobody put this"))


def test_what_is_dropped_is_gone(local: LocalBlobs) -> None:
    incoming = local.begin()
    incoming.write([DATA])
    incoming.drop()
    assert leftovers(local) == []
    assert list(local.digests()) == []


def test_what_is_here_already_is_kept_once(local: LocalBlobs) -> None:
    local.put(DATA)
    incoming = local.begin()
    incoming.write([DATA])
    assert incoming.keep() == digest_bytes(DATA)
    incoming.drop()
    assert (leftovers(local), len(list(local.digests()))) == ([], 1)


def test_the_last_piece_of_damaged_bytes_never_comes(local: LocalBlobs) -> None:
    digest = local.put(DATA)
    path = Path(local._path(digest))
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    pieces = local.pieces(digest)
    came = sum(len(next(pieces)) for _ in range(len(DATA) // (1 << 20)))
    assert 0 < came < len(DATA)
    with pytest.raises(CorruptBytes):
        next(pieces)
    with pytest.raises(CorruptBytes):
        next(local.pieces(digest, 0, 10))  # a part is proven before its first byte


def _take(blobs: Blobs) -> str:
    incoming = blobs.begin()
    try:
        incoming.write([DATA])
        return incoming.keep()
    finally:
        incoming.drop()


@pytest.mark.parametrize("boundary", ["blobs.begin", "blobs.piece", "blobs.written", "blobs.fsynced"])
def test_a_full_disk_leaves_nothing(local: LocalBlobs, boundary: str) -> None:
    local.put(b"small")
    faults.arm(f"{boundary}=ENOSPC")
    try:
        with pytest.raises(DiskFull):
            _take(local)
    finally:
        faults.arm(None)
    assert leftovers(local) == []
    assert check_blobs(local) == []
    assert list(local.digests()) == [digest_bytes(b"small")]


# --- in parts


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads")


def _send(uploads: Uploads, identity: str, number: int, data: bytes) -> str:
    part = uploads.part(identity, number)
    part.write([data[:10], data[10:]])
    etag = part.keep()
    part.drop()
    return etag


def test_parts_are_joined_in_the_order_asked(uploads: Uploads, tmp_path: Path) -> None:
    identity = uploads.begin(b"facts")
    second, first = _send(uploads, identity, 2, b"world" * 9), _send(uploads, identity, 1, b"hello ")
    assert uploads.facts(identity) == b"facts"
    assert uploads.size_bytes(identity) == 51
    assert b"".join(Uploads(tmp_path / "uploads").pieces(identity, [(1, first), (2, second)])) == b"hello " + b"world" * 9
    uploads.forget(identity)
    uploads.forget(identity)
    assert list((tmp_path / "uploads").iterdir()) == []
    with pytest.raises(NotFound):
        uploads.facts(identity)


def test_a_part_sent_again_does_not_take_the_first_ones_place(uploads: Uploads) -> None:
    identity = uploads.begin(b"")
    first, again = _send(uploads, identity, 1, b"first"), _send(uploads, identity, 1, b"again")
    assert b"".join(uploads.pieces(identity, [(1, first)])) == b"first"
    assert b"".join(uploads.pieces(identity, [(1, again)])) == b"again"


def test_parts_that_are_not_there_or_torn_are_refused(uploads: Uploads, tmp_path: Path) -> None:
    identity = uploads.begin(b"")
    etag = _send(uploads, identity, 1, b"some bytes")
    for parts in ([(2, etag)], [(1, "0" * 64)], [(1, "../facts")], [(1, "")], [(-1, etag)]):
        with pytest.raises(Conflict):
            list(uploads.pieces(identity, parts))
    (tmp_path / "uploads" / identity / f"00001-{etag}").write_bytes(b"other bytes")
    with pytest.raises(Conflict):
        list(uploads.pieces(identity, [(1, etag)]))


def test_a_link_is_not_a_part(uploads: Uploads, tmp_path: Path) -> None:
    identity = uploads.begin(b"")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    etag = digest_bytes(b"secret")[3:]
    (tmp_path / "uploads" / identity / f"00001-{etag}").symlink_to(secret)
    with pytest.raises(Conflict):
        list(uploads.pieces(identity, [(1, etag)]))


@pytest.mark.parametrize("identity", ["", "..", "../../etc", "a" * 31, "a" * 32 + "/", "a" * 31 + "\n"])
def test_what_is_no_id_leads_nowhere(uploads: Uploads, identity: str) -> None:
    uploads.begin(b"")
    for use in (uploads.facts, uploads.forget, lambda identity: uploads.part(identity, 1)):
        with pytest.raises(NotFound):
            use(identity)


def test_numbers_have_limits(uploads: Uploads) -> None:
    identity = uploads.begin(b"")
    for number in (0, -1, 10_001):
        with pytest.raises(InvalidInput):
            uploads.part(identity, number)


def test_a_part_that_arrives_after_the_end_is_refused(uploads: Uploads, tmp_path: Path) -> None:
    identity = uploads.begin(b"")
    part = uploads.part(identity, 1)
    part.write([b"x"])
    uploads.forget(identity)
    with pytest.raises(NotFound):
        part.keep()
    part.drop()
    with pytest.raises(NotFound):
        uploads.part(identity, 2)
    assert list((tmp_path / "uploads").iterdir()) == []


def test_forgotten_uploads_are_deleted_by_the_next_and_by_gc(local: LocalBlobs) -> None:
    uploads = Uploads(local.uploads_folder())
    old, young = uploads.begin(b""), uploads.begin(b"")
    _send(uploads, old, 1, b"x")
    folder = local.uploads_folder() / old
    long_ago = time.time() - FORGOTTEN_S - 60
    os.utime(folder, (long_ago, long_ago))
    local.gc(set, older_than_us=0)
    assert [item.name for item in local.uploads_folder().iterdir()] == [young]
    os.utime(local.uploads_folder() / young, (long_ago, long_ago))
    newest = uploads.begin(b"")
    assert [item.name for item in local.uploads_folder().iterdir()] == [newest]
    assert clean_uploads(local.uploads_folder()) == 0
