"""The same promises from every engine of the blobs."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import socket
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from andon.core.clocks import SECOND_US, ManualClock
from andon.core.digests import digest_bytes
from andon.core.errors import Conflict, CorruptBytes, Incompatible, InvalidInput, InvalidSettings, LeaseHeld, NotFound
from andon.store.blobs import open_blobs, trees
from andon.store.blobs.check import check_blobs, leftovers
from andon.store.blobs.local import LocalBlobs
from andon.store.blobs.memory import MemoryBlobs
from andon.store.ports import Blobs

ABSENT = digest_bytes(b"nobody put this")
HOUR_US = 3600 * SECOND_US


@pytest.fixture(params=["file://blobs", "memory:"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Blobs:
    return open_blobs(request.param, tmp_path, clock)


@pytest.fixture
def local(tmp_path: Path, clock: ManualClock) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs", clock)


def _plant(blobs: Blobs, digest: str, data: bytes) -> None:
    """Replace what is stored, as a bad disk would."""
    assert isinstance(blobs, LocalBlobs)
    path = blobs.local_path(digest)
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(70_000), b"\0" * (5 << 20)])
def test_what_was_put_comes_back_by_its_digest(blobs: Blobs, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "given"
    file.write_bytes(data)
    digest = blobs.put(data)
    assert digest == digest_bytes(data) == blobs.put(io.BytesIO(data)) == blobs.put_file(file)
    assert blobs.get(digest) == data
    with blobs.open(digest) as stream:
        assert stream.read() == data
    assert blobs.local_path(digest).read_bytes() == data
    assert blobs.has(digest)
    assert blobs.size_bytes(digest) == len(data)
    assert list(blobs.digests()) == [digest]


def test_what_was_never_put_is_not_found(blobs: Blobs, tmp_path: Path) -> None:
    assert not blobs.has(ABSENT)
    for read in (
        blobs.get,
        blobs.open,
        blobs.local_path,
        blobs.size_bytes,
        blobs.tree,
        lambda digest: blobs.get_tree(digest, tmp_path / "out"),
    ):
        with pytest.raises(NotFound) as caught:
            read(ABSENT)
        assert caught.value.fields["digest"] == ABSENT
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotFound):
        blobs.put_file(tmp_path / "no such file")


@pytest.mark.parametrize("bad", ["", "b3:", "b3:" + "g" * 64, "b3:../../../../etc/passwd", "sha256:" + "0" * 64, "b3:" + "0" * 64 + "/x"])
def test_what_is_no_digest_is_refused(blobs: Blobs, bad: str) -> None:
    for read in (blobs.get, blobs.has, blobs.local_path, blobs.size_bytes, blobs.tree):
        with pytest.raises(InvalidInput):
            read(bad)


def test_only_plain_files_are_put_as_files(blobs: Blobs, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InvalidInput):
            blobs.put_file(path)


def _tree(folder: Path) -> Path:
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a.txt").write_bytes(b"same")
    (folder / "sub" / "b.txt").write_bytes(b"same")
    (folder / "sub" / "deep" / "ünïcode \n name").write_bytes(os.urandom(100))
    (folder / "run").write_bytes(b"#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "sub" / "up").symlink_to("../a.txt")
    (folder / "dangling").symlink_to("sub/nothing")
    (folder / "folder").symlink_to("sub")
    return folder


def _listing(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_file():
            found[name] = (path.read_bytes(), os.access(path, os.X_OK) and bool(path.stat().st_mode & 0o100))
        else:
            found[name] = "folder"
    return found


def test_a_tree_comes_back_whole(blobs: Blobs, tmp_path: Path) -> None:
    source = _tree(tmp_path / "source")
    digest = blobs.put_tree(source)
    blobs.get_tree(digest, tmp_path / "deep" / "out")
    assert _listing(tmp_path / "deep" / "out") == _listing(source)
    assert list(blobs.tree(digest)) == ["a.txt", "run", "sub/b.txt", "sub/deep/ünïcode \n name"]
    assert blobs.tree(digest)["a.txt"] == blobs.tree(digest)["sub/b.txt"] == digest_bytes(b"same")


def test_equal_directories_have_equal_digests(blobs: Blobs, tmp_path: Path) -> None:
    for name, order in (("one", ("x", "y", "z")), ("two", ("z", "x", "y"))):
        (tmp_path / name).mkdir()
        for file in order:
            (tmp_path / name / file).write_text(file)
    os.utime(tmp_path / "one" / "x", (0, 0))
    one, two = blobs.put_tree(tmp_path / "one"), blobs.put_tree(tmp_path / "two")
    assert one == two
    (tmp_path / "two" / "x").chmod(0o755)
    assert blobs.put_tree(tmp_path / "two") != one


def test_a_tree_can_be_made_of_bytes_that_are_here(blobs: Blobs, clock: ManualClock, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_bytes(b"one")
    (source / "sub" / "b").write_bytes(b"two")
    files = {"sub/b": blobs.put(b"two"), "a": blobs.put(b"one")}
    clock.advance(2 * HOUR_US)
    digest = blobs.put_tree_of(files)
    assert blobs.gc(set, older_than_us=HOUR_US).digests == ()  # the bytes count as put again
    assert digest == blobs.put_tree(source)
    assert dict(blobs.tree(digest)) == files
    with pytest.raises(NotFound):
        blobs.put_tree_of({"a": ABSENT})
    with pytest.raises(InvalidInput):
        blobs.put_tree_of({"../a": files["a"]})


def test_a_tree_is_laid_out_only_where_nothing_is(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put_tree(_tree(tmp_path / "source"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("keep me")
    (tmp_path / "link").symlink_to("elsewhere")
    for taken in ("taken", "link", "taken/mine"):
        with pytest.raises(Conflict):
            blobs.get_tree(digest, tmp_path / taken)
    (tmp_path / "waiting").mkdir()
    blobs.get_tree(digest, tmp_path / "waiting")  # an empty directory is as good as none
    assert _listing(tmp_path / "waiting") == _listing(tmp_path / "source")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "blobs") == ["link", "source", "taken", "waiting"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside", ""])
def test_links_that_leave_the_tree_are_refused(blobs: Blobs, tmp_path: Path, target: str) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    if target:
        (source / "link").symlink_to(target)
    else:  # a link through a link: harmless by its text, outside in truth
        (source / "sub" / "here").symlink_to(".")
        (source / "link").symlink_to("sub/here/../..")
    with pytest.raises(InvalidInput):
        blobs.put_tree(source)


def test_what_is_neither_file_nor_folder_nor_link_is_refused(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    os.mkfifo(tmp_path / "source" / "pipe")
    with pytest.raises(InvalidInput, match="pipe"):
        blobs.put_tree(tmp_path / "source")
    (tmp_path / "source" / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "source" / "s"))
        with pytest.raises(InvalidInput):
            blobs.put_tree(tmp_path / "source")
    with pytest.raises(InvalidInput):
        blobs.put_tree(tmp_path / "nothing here")
    (tmp_path / os.fsdecode(b"bad\xff")).mkdir()
    (tmp_path / os.fsdecode(b"bad\xff") / os.fsdecode(b"\xff")).write_text("x")
    with pytest.raises(InvalidInput):
        blobs.put_tree(tmp_path / os.fsdecode(b"bad\xff"))


FILE = ["f", "a", digest_bytes(b"x"), 1]
HOSTILE = [
    [["f", "/etc/passwd", digest_bytes(b"x"), 1]],
    [["f", "../x", digest_bytes(b"x"), 1]],
    [["f", "a/../../x", digest_bytes(b"x"), 1]],
    [["f", "a//x", digest_bytes(b"x"), 1]],
    [["f", "", digest_bytes(b"x"), 1]],
    [["f", "a\0b", digest_bytes(b"x"), 1]],
    [["f", "a", "b3:nothing", 1]],
    [["f", "a", digest_bytes(b"x"), -1]],
    [["d", "a/."]],
    [["l", "a", "/etc"]],
    [["l", "a", "../x"]],
    [["l", "a", "."], ["f", "a/x", digest_bytes(b"x"), 1]],  # through a link
    [FILE, ["f", "a/b", digest_bytes(b"x"), 1]],  # through a file
    [FILE, FILE],
    [["f", "b", digest_bytes(b"x"), 1], FILE],
    [["l", "d/l", "."], ["l", "x", "d/l/../.."]],  # outside only once the links are followed
    [["p", "a"]],
    [["f"]],
    [[]],
    "no list",
    [[1, 2, 3]],
]


@pytest.mark.parametrize("rows", HOSTILE, ids=repr)
def test_a_hostile_manifest_reaches_nothing(blobs: Blobs, tmp_path: Path, rows: object) -> None:
    blobs.put(b"x")
    digest = blobs.put(trees.HEADER + msgspec.json.encode(rows))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptBytes):
        blobs.get_tree(digest, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_blob_is_not_a_tree(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put(b"plain")
    with pytest.raises(InvalidInput):
        blobs.tree(digest)


_names = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
_paths = st.lists(_names, min_size=1, max_size=4).map("/".join)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(_paths, st.tuples(st.sampled_from("fx"), st.binary(max_size=20)), max_size=12))
def test_any_tree_survives_its_manifest(files: dict[str, tuple[str, bytes]]) -> None:
    kept = {p: v for p, v in files.items() if not any(other.startswith(p + "/") for other in files)}
    entries = [trees.Entry(kind, path, digest_bytes(data), len(data)) for path, (kind, data) in kept.items()]
    data = trees.encode(entries)
    assert trees.decode(data, "b3:…") == sorted(entries, key=lambda entry: entry.path)
    assert trees.encode(entries[::-1]) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_fail_otherwise(data: bytes) -> None:
    with contextlib.suppress(CorruptBytes):
        trees.decode(trees.HEADER + data, "b3:…")


# --- collecting


def test_gc_deletes_what_is_old_and_unneeded(blobs: Blobs, clock: ManualClock, tmp_path: Path) -> None:
    kept, lost = blobs.put(b"kept"), blobs.put(b"lost")
    tree = blobs.put_tree(_tree(tmp_path / "source"))
    clock.advance(2 * HOUR_US)
    young, again = blobs.put(b"young"), blobs.put(b"again")
    keep = {kept, tree, ABSENT}
    dry = blobs.gc(lambda: keep, older_than_us=HOUR_US, dry_run=True)
    assert (dry.digests, dry.size_bytes) == ((lost,), 4)
    assert blobs.has(lost)
    assert blobs.gc(lambda: keep, older_than_us=HOUR_US) == dry
    assert not blobs.has(lost)
    assert blobs.get(kept) == b"kept"
    assert blobs.has(young)
    assert blobs.has(again)
    blobs.get_tree(tree, tmp_path / "out")
    assert blobs.put(b"lost") == lost
    assert blobs.get(lost) == b"lost"


def test_putting_again_makes_young(blobs: Blobs, clock: ManualClock, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"in a tree")
    digest, tree = blobs.put(b"again"), blobs.put_tree(tmp_path / "source")
    clock.advance(2 * HOUR_US)
    assert blobs.put(b"again") == digest
    assert blobs.put_tree(tmp_path / "source") == tree
    assert blobs.gc(set, older_than_us=HOUR_US).digests == ()


# --- on disk only


def test_a_file_is_write_protected_and_alone(local: LocalBlobs) -> None:
    digest = local.put(b"data")
    assert local.local_path(digest).stat().st_mode & 0o777 == 0o444
    assert leftovers(local) == []
    assert (local.root / "format").read_bytes() == b"andon-blobs 1\n"


def test_a_newer_layout_is_refused(local: LocalBlobs, clock: ManualClock) -> None:
    local.put(b"data")
    (local.root / "format").write_bytes(b"andon-blobs 2\n")
    with pytest.raises(Incompatible):
        LocalBlobs(local.root, clock).put(b"more")


@pytest.mark.parametrize("damage", [b"", b"datA", b"data and more"])
def test_damage_is_named_and_never_handed_out(local: LocalBlobs, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"data")
    tree = local.put_tree(tmp_path / "source")
    digest = digest_bytes(b"data")
    _plant(local, digest, damage)
    for read in (local.get, local.open, local.local_path, lambda _: local.get_tree(tree, tmp_path / "out")):
        with pytest.raises(CorruptBytes) as caught:
            read(digest)
        assert caught.value.fields["digest"] == digest
        assert digest[5:] in str(caught.value.fields["path"])
    assert not (tmp_path / "out").exists()
    assert [(finding.kind, finding.what) for finding in check_blobs(local)] == [("damaged", digest)]
    check_blobs(local, repair=True)
    assert not local.has(digest)
    assert [(finding.kind, finding.what) for finding in check_blobs(local, [tree])] == [("missing", digest)]
    local.put(b"data")
    assert check_blobs(local, [tree]) == []


def test_putting_good_bytes_over_a_torn_file_heals_it(local: LocalBlobs) -> None:
    digest = local.put(b"data")
    _plant(local, digest, b"da")
    assert local.put(b"data") == digest
    assert local.get(digest) == b"data"


def test_a_second_look_at_a_large_file_is_cheap(local: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = local.put(os.urandom(3 << 20))
    local.local_path(digest)
    monkeypatch.setattr("andon.store.blobs.local.blake3", None)  # reading it again would fail
    local.local_path(digest)


def test_a_put_between_the_phases_of_gc_is_not_lost(local: LocalBlobs, clock: ManualClock) -> None:
    old, recorded, forgotten = (local.put(name) for name in (b"put again", b"recorded meanwhile", b"forgotten"))
    clock.advance(2 * HOUR_US)
    asked = 0

    def keep() -> set[str]:
        nonlocal asked
        asked += 1
        if asked == 1:
            return set()
        assert local.get(recorded) == b"recorded meanwhile"  # in the trash now, and still readable
        assert local.has(old)
        assert local.put(b"put again") == old
        return {recorded}

    assert local.gc(keep, older_than_us=HOUR_US).digests == (forgotten,)
    assert local.get(old) == b"put again"
    assert local.get(recorded) == b"recorded meanwhile"
    assert not local.has(forgotten)
    assert leftovers(local) == []


def test_two_gcs_do_not_run_at_once(local: LocalBlobs, clock: ManualClock) -> None:
    local.put(b"x")
    clock.advance(2 * HOUR_US)

    def keep() -> set[str]:
        with pytest.raises(LeaseHeld):
            local.gc(set, older_than_us=HOUR_US)
        return set()

    assert len(local.gc(keep, older_than_us=HOUR_US).digests) == 1


def test_gc_stops_at_a_tree_it_cannot_read(local: LocalBlobs, clock: ManualClock, tmp_path: Path) -> None:
    tree = local.put_tree(_tree(tmp_path / "source"))
    _plant(local, tree, local.get(tree) + b" ")
    clock.advance(2 * HOUR_US)
    os.utime(local._path(tree), (0, 0))
    with pytest.raises(CorruptBytes):
        local.gc(lambda: {tree}, older_than_us=HOUR_US)
    assert local.has(digest_bytes(b"same"))


def test_a_corrupt_or_unneeded_name_in_the_folder_does_no_harm(local: LocalBlobs) -> None:
    local.put(b"x")
    (local.root / "loose" / "ab" / "stray").write_text("not a blob")
    assert [finding.kind for finding in check_blobs(local)] == ["stray"]


def test_puts_and_collections_at_once_lose_nothing(local: LocalBlobs, clock: ManualClock) -> None:
    """Threads put the same few blobs over and over while gc deletes whatever is not fresh; what was just put must always be there."""
    payloads = [bytes([n]) * 50 for n in range(4)]
    failures: list[BaseException] = []
    collected: list[str] = []
    stop = threading.Event()
    lock = threading.Lock()  # the clock's reading at a put, and the put, are one step; gc runs at any time

    def work(seed: int) -> None:
        try:
            for turn in range(150):
                data = payloads[(seed + turn) % len(payloads)]
                with lock:
                    clock.advance(2 * HOUR_US)  # all the other blobs are old now, and gc is after them
                    digest = local.put(data)
                    assert local.get(digest) == data
                    with local.open(digest) as stream:
                        assert stream.read() == data
        except BaseException as error:
            failures.append(error)

    def collect() -> None:
        try:
            while not stop.is_set():
                collected.extend(local.gc(set, older_than_us=HOUR_US).digests)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    collector = threading.Thread(target=collect)
    for thread in (*workers, collector):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    collector.join()
    assert not failures, failures
    assert collected
    assert check_blobs(local) == []


def test_only_known_engines_are_opened(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(InvalidSettings):
        open_blobs("s3://bucket", tmp_path, clock)
    assert isinstance(open_blobs("memory:", tmp_path, clock), MemoryBlobs)
    assert list(tmp_path.iterdir()) == []


class Collecting(RuleBasedStateMachine):
    """Puts, records, clock and collections in any order: what is recorded or young is there, whole; what was collected was neither."""

    payloads = st.binary(min_size=1, max_size=2)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock(HOUR_US * 1000)
        self.blobs = LocalBlobs(Path(self.folder.name, "blobs"), self.clock)
        self.put_us: dict[bytes, int] = {}
        self.recorded: set[bytes] = set()

    @rule(data=payloads)
    def put(self, data: bytes) -> None:
        self.blobs.put(data)
        self.put_us[data] = self.clock.now_us()

    @rule(data=payloads)
    def put_tree(self, data: bytes) -> None:
        source = Path(self.folder.name, "source")
        source.mkdir()
        (source / "file").write_bytes(data)
        tree = self.blobs.get(self.blobs.put_tree(source))
        shutil.rmtree(source)
        self.put_us[data] = self.put_us[tree] = self.clock.now_us()

    @precondition(lambda self: self.put_us)
    @rule(choice=st.randoms(use_true_random=False))
    def record(self, choice: random.Random) -> None:
        self.recorded.add(choice.choice(sorted(self.put_us)))

    @rule()
    def forget_records(self) -> None:
        self.recorded.clear()

    @rule(by_us=st.integers(0, 3 * HOUR_US))
    def wait(self, by_us: int) -> None:
        self.clock.advance(by_us)

    @rule(age_us=st.integers(0, 2 * HOUR_US), again=payloads)
    def collect(self, age_us: int, again: bytes) -> None:
        """Before ``keep`` is asked the second time, somebody puts ``again``."""
        asked: list[int] = []

        def keep() -> set[str]:
            asked.append(1)
            if len(asked) == 2:
                self.put(again)
            return {digest_bytes(data) for data in self.recorded}

        self.blobs.gc(keep, older_than_us=age_us)
        needed = set(self.recorded)
        for data in self.recorded:
            if trees.is_tree(data):
                digests = {entry.target for entry in trees.decode(data, "")}
                needed |= {held for held in self.put_us if digest_bytes(held) in digests}
        before_us = self.clock.now_us() - age_us
        self.put_us = {data: at for data, at in self.put_us.items() if data in needed or at >= before_us}

    @invariant()
    def exactly_that_is_there(self) -> None:
        assert set(self.blobs.digests()) == {digest_bytes(data) for data in self.put_us}
        for data in self.put_us:
            assert self.blobs.get(digest_bytes(data)) == data
        assert leftovers(self.blobs) == []

    def teardown(self) -> None:
        self.folder.cleanup()


TestCollecting = Collecting.TestCase
TestCollecting.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
