"""What the replicas behind one socket have counted, so that whichever of them is scraped answers for all.

Each replica keeps a file of its families in a folder of the group: once a second, and again before it answers a scrape. An answer is its
own numbers and the others' files. So a sum never goes down from one scrape to the next, whoever answers: what a replica has shown of itself
is in its file. Whether a replica lives is whether its lock is held, which the kernel lets go with the process. What a dead one counted goes
on in ``gone.json``; its gauges end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from andon.serving.exposition import Family, together

log = logging.getLogger("andon.serving")
EVERY_S = 1.0
OLD_S = 60.0
"""A folder without a living replica that was last written so long ago belongs to a group that has ended."""
GONE = "gone.json"


class Gone(msgspec.Struct):
    """The sums of replicas that have ended."""

    names: tuple[str, ...] = ()
    """Whose files may still be there, when the process that added them was ended in between."""
    families: list[Family] = []


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Family]).decode
_decode_gone = msgspec.json.Decoder(Gone).decode
Collect = Callable[[], list[Family]]


class Siblings:
    """One replica's view of its group. Belongs to one event loop; files are read and written on threads."""

    def __init__(self, folder: Path, number: int) -> None:
        """``folder`` is the group's alone. Raises ``OSError``."""
        self._folder = folder
        self._name = f"{number}-{os.getpid()}"  # numbers begin again where a supervisor was killed
        self._problem = False
        self._one = asyncio.Lock()  # so that no older numbers are written over newer ones
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._turn = os.open(folder / "turn", os.O_RDWR | os.O_CREAT, 0o600)
        with self._alone():
            self._life = os.open(folder / f"{self._name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._life, fcntl.LOCK_EX)

    async def keep(self, collect: Collect) -> None:
        """Write this replica's numbers down."""
        async with self._one:
            await asyncio.to_thread(self.write, collect())

    async def whole(self, collect: Collect) -> list[Family]:
        """The group's families, this replica's written down first."""
        async with self._one:
            return await asyncio.to_thread(self.merged, collect())

    def write(self, families: Sequence[Family]) -> None:
        """Keep a replica's numbers. Never raises: on a disk that is full they are old, for the others."""
        try:
            _write(self._folder / f"{self._name}.json", _encode(families))
            self._problem = False
        except OSError as error:
            if not self._problem:
                log.warning("the metrics of this replica are not kept for its siblings: %s", error)
            self._problem = True

    def merged(self, families: Sequence[Family]) -> list[Family]:
        """What ``whole`` returns."""
        self.write(families)
        with self._alone():
            gone = self._gather()
            found: dict[str, Sequence[Family]] = {}
            for path in self._folder.glob("*-*.json"):
                if path.stem not in gone.names and path.stem != self._name:
                    with contextlib.suppress(OSError, msgspec.MsgspecError):
                        found[path.stem] = _decode(path.read_bytes())
        found[self._name] = families
        each = sorted((int(name.partition("-")[0]), name) for name in found)
        return together([*((str(number), found[name]) for number, name in each), ("", gone.families)])

    def close(self) -> None:
        """Let go: the others add what was kept to the sums of those that have ended."""
        os.close(self._life)
        os.close(self._turn)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _gather(self) -> Gone:
        """Add the files of those that have ended to the sums: each once, also when this process is ended meanwhile."""
        path = self._folder / GONE
        gone = Gone()
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            gone = _decode_gone(path.read_bytes())
        ended = [lock.stem for lock in self._folder.glob("*.lock") if lock.stem != self._name and not _held(lock)]
        fresh = [name for name in ended if name not in gone.names]
        if fresh:
            parts: list[tuple[str, Sequence[Family]]] = [("", gone.families)]
            for name in fresh:
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    counted = _decode((self._folder / f"{name}.json").read_bytes())
                    parts.append(("", [family for family in counted if not family.own]))
            gone = Gone(tuple(ended), together(parts))
            try:
                _write(path, _encode(gone))
            except OSError:
                return gone  # shown, and added again next time from the same files
        for name in ended:
            (self._folder / f"{name}.json").unlink(missing_ok=True)
            (self._folder / f"{name}.lock").unlink(missing_ok=True)
        return gone


def group_folder(home: str, service: str, listener: int) -> Path:
    """The folder of those who share a listening socket (its file descriptor); folders of groups that have ended are removed.

    A socket's inode number stays through upgrades of the program, and is another's only when the socket has gone.
    """
    above = Path(home, "run", "metrics")
    here = above / f"{service}-{os.fstat(listener).st_ino}"
    for folder in above.glob(f"{service}-*"):
        with contextlib.suppress(OSError):
            if folder != here and time.time() - folder.stat().st_mtime > OLD_S and not any(map(_held, folder.glob("*.lock"))):
                shutil.rmtree(folder)
    return here


def _held(lock: Path) -> bool:
    """Whether the process that made this lock lives."""
    try:
        held = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(held)
    return False


def _write(path: Path, data: bytes) -> None:
    """The whole of it, or what was there before."""
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_bytes(data)
    aside.replace(path)
