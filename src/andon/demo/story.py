"""The story that ``andon demo`` tells. Only the faults are written in advance; what is noticed, explained and done is not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from andon.core.actors import Actor
from andon.core.errors import Conflict, Unavailable
from andon.demo.script import END

MARKER = "made-by-andon-demo"
ANA = Actor("person", "ana")
"""The one person in the story: she releases, waives and retrains."""


def tell(home: str, *, port: int, seed: int, fault: str, stay: bool | None, until: str = END) -> int:
    """Run the demo in ``home``; returns the exit status (0: every event that had time was noticed, and nothing else was).

    Raises ``Conflict`` when the folder holds something else, or a demo that still runs.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # two boosters that each take every core slow each other to a crawl
    os.environ["ANDON_ACTOR"] = str(ANA)
    folder = Path(home).absolute()
    with fresh(folder):
        return _tell(folder, port=port, seed=seed, fault=fault, stay=stay, until=until)


def _tell(folder: Path, *, port: int, seed: int, fault: str, stay: bool | None, until: str) -> int:
    from andon.demo.acts import Acts
    from andon.operations.session import use
    from andon.store import open_store

    began = time.perf_counter()
    with open_store(folder) as store, use(store):
        acts = Acts(store, seed=seed, fault=fault)
        acts.make_the_first_release()
        with control_plane(folder, port) as plane:
            acts.teller.say(f"board: {plane.url}")
            acts.live(until)
            status = acts.sum_up(time.perf_counter() - began)
            stays = sys.stdout.isatty() if stay is None else stay
            acts.say_what_next(folder, plane.url, stays=stays)
            if stays:
                acts.teller.say("the board stays up until Ctrl-C")
                with contextlib.suppress(KeyboardInterrupt):
                    plane.process.wait()
    return status


@contextlib.contextmanager
def fresh(folder: Path) -> Iterator[None]:
    """An empty home, held while the block runs; one that an earlier demo made is made anew. Raises ``Conflict`` for any other folder."""
    mark = folder / MARKER
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise Conflict("the demo needs a folder of its own", home=folder, next_step="choose another with --home")
    folder.mkdir(parents=True, exist_ok=True)
    with mark.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict("a demo runs in that folder", home=folder, next_step="end it, or choose another with --home") from None
        for entry in folder.iterdir():
            if entry == mark:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        yield


@dataclass
class Plane:
    """A running control plane."""

    process: subprocess.Popen[str]
    url: str
    output: list[str] = field(default_factory=list)


@contextlib.contextmanager
def control_plane(folder: Path, port: int) -> Iterator[Plane]:
    """``andon up`` as anybody would start it, on ``port`` or, when that is taken, on any free one."""
    log = folder / "up.log"
    for attempt in dict.fromkeys((port, 0)):
        with log.open("w") as output:
            process = _start(folder, attempt, output)
        url = _url_from(log, process)
        if url is not None:
            break
    else:
        raise Unavailable("the control plane did not start", log=log, said=log.read_text()[-500:])
    try:
        yield Plane(process, url)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _start(folder: Path, port: int, output: IO[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "andon", "up", "--home", str(folder), "--port", str(port)]
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)


def _url_from(log: Path, process: subprocess.Popen[Any], timeout_s: float = 30.0) -> str | None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and process.poll() is None:
        for word in log.read_text().split():
            if word.startswith("http://"):
                return word
        time.sleep(0.02)
    if process.poll() is None:
        process.terminate()
    return None
