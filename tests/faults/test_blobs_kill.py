"""Processes that put, re-put and collect blobs are killed at every boundary and at random moments; then nothing acknowledged is missing."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from andon.core import faults
from andon.core.clocks import HOUR_US, ManualClock, SystemClock
from andon.core.digests import digest_bytes
from andon.core.errors import DiskFull, ReadOnly
from andon.store.blobs.check import check_blobs, leftovers
from andon.store.blobs.local import LocalBlobs

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # 3.12 warns; a child here touches no thread of ours
BOUNDARIES = 160
"""More than the story below has; the test stops at the first child that lives to the end."""


def story(root: Path, acks: Path) -> None:
    """What the children do. A digest is written to ``acks`` once it is acknowledged and should then survive anything."""
    clock = ManualClock(1_000 * HOUR_US)
    blobs = LocalBlobs(root, clock)
    out = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def ack(digest: str) -> None:
        os.write(out, (digest + "\n").encode())

    doomed = blobs.put(b"doomed")
    ack(blobs.put(b"one"))
    source = root.parent / "source"
    (source / "sub").mkdir(parents=True, exist_ok=True)
    for n in range(6):
        (source / "sub" / f"{n}").write_bytes(b"%d" % n * 100)
    ack(blobs.put_tree(source))
    clock.advance(2 * HOUR_US)
    ack(blobs.put(b"one"))
    acknowledged = set(acks.read_text().split())
    turns = 0

    def keep() -> set[str]:
        nonlocal turns
        turns += 1
        if turns == 2:
            ack(blobs.put(b"doomed"))  # needed after all
        return acknowledged

    blobs.gc(keep, older_than_us=HOUR_US)
    ack(doomed)
    blobs.get_tree(blobs.put_tree(source), root.parent / f"out{os.getpid()}")
    os.close(out)


def judge(root: Path, acks: Path) -> None:
    """The invariant, and that whoever comes next can go on and clean up."""
    acknowledged = set(acks.read_text().split()) if acks.exists() else set()
    blobs = LocalBlobs(root, ManualClock(1_000 * HOUR_US))
    assert check_blobs(blobs, acknowledged) == []
    for folder in root.parent.glob("out*"):
        assert len(list((folder / "sub").iterdir())) == 6
    blobs.gc(lambda: acknowledged, older_than_us=0)
    assert leftovers(blobs) == []
    assert check_blobs(blobs, acknowledged) == []


def _child(root: Path, acks: Path, fault: str | None) -> int:
    """Fork, run the story armed with ``fault``, and return the wait status."""
    child = os.fork()
    if child == 0:
        try:
            faults.arm(fault)
            story(root, acks)
            os._exit(0)
        except BaseException:
            os._exit(3)
    return os.waitpid(child, 0)[1]


def test_killed_at_every_boundary(tmp_path: Path) -> None:
    for n in range(1, BOUNDARIES):
        here = tmp_path / str(n)
        here.mkdir()
        status = _child(here / "blobs", here / "acks", f"*:{n}")
        judge(here / "blobs", here / "acks")
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert _child(here / "blobs", here / "acks", None) == 0  # and then the story can be told to its end
        judge(here / "blobs", here / "acks")
    assert 20 < n < BOUNDARIES - 1


@pytest.mark.parametrize("errno", ["ENOSPC", "EIO", "EROFS"])
def test_refused_at_every_boundary(tmp_path: Path, errno: str) -> None:
    for n in range(1, BOUNDARIES):
        here = tmp_path / str(n)
        here.mkdir()
        status = _child(here / "blobs", here / "acks", f"*:{n}={errno}")
        judge(here / "blobs", here / "acks")
        if status == 0:
            break
        assert os.WEXITSTATUS(status) == 3
    assert 20 < n < BOUNDARIES - 1


LOOP = """
import sys, os
from pathlib import Path
from andon.core.clocks import SystemClock
from andon.store.blobs.local import LocalBlobs
blobs = LocalBlobs(Path(sys.argv[1]), SystemClock())
out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
n = 0
while True:
    n += 1
    os.write(out, (blobs.put(os.urandom(n % 7000)) + "\\n").encode())
    if n % 50 == 0:
        kept = set(open(sys.argv[2]).read().split("\\n"))
        blobs.gc(lambda: kept - {""}, older_than_us=60_000_000)
"""


def test_killed_at_random_moments(tmp_path: Path) -> None:
    root, acks = tmp_path / "blobs", tmp_path / "acks"
    dice = random.Random(7)
    for _ in range(6):
        child = subprocess.Popen([sys.executable, "-c", LOOP, str(root), str(acks)])
        while not acks.exists():
            time.sleep(0.01)
        time.sleep(0.25 + dice.random() * 0.2)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    acknowledged = {line for line in acks.read_text().split("\n") if len(line) == 67}
    blobs = LocalBlobs(root, SystemClock())
    assert len(acknowledged) > 20
    assert check_blobs(blobs, acknowledged) == []
    blobs.gc(lambda: acknowledged, older_than_us=0)
    assert leftovers(blobs) == []


def test_a_file_that_cannot_grow_leaves_nothing(tmp_path: Path) -> None:
    """The kernel's own refusal: a limit on the size of files, as a full disk would be."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            blobs = LocalBlobs(tmp_path / "blobs", SystemClock())
            blobs.put(b"small")
            (tmp_path / "large").write_bytes(b"x" * 300_000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            refused = 0
            for put in (lambda: blobs.put(b"x" * 300_000), lambda: blobs.put_file(tmp_path / "large"), lambda: blobs.put_tree(tmp_path)):
                try:
                    put()
                except DiskFull:
                    refused += 1
            code = 0 if refused == 3 and leftovers(blobs) == [] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    blobs = LocalBlobs(tmp_path / "blobs", SystemClock())
    assert set(blobs.digests()) == {digest_bytes(b"small")}
    assert check_blobs(blobs) == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(ReadOnly):
            LocalBlobs(tmp_path / "blobs", SystemClock()).put(b"x")
    finally:
        tmp_path.chmod(0o755)


def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs", SystemClock())
    digest = blobs.put(b"x")
    faults.arm("blobs.begin=EROFS")
    try:
        with pytest.raises(ReadOnly):
            blobs.put(b"y")
    finally:
        faults.arm(None)
    assert blobs.get(digest) == b"x"
    assert leftovers(blobs) == []
