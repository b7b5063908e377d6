"""Several replicas of a service under load: killed, scaled, replaced by newer programs, put to sleep; what a client notices of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from andon.api.handover import Note, note_holder, process_mark, read_note
from andon.autoscaling import ServingPolicy, decisions, register_serving_policy
from andon.core.settings import load
from andon.store import open_store
from tests.conftest import ANA
from tests.faults.watched import Plane, andon
from tests.unit.serving.clients import Client, Dropped, run
from tests.unit.serving.line import Line

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")

SERVICE = "bikes"
ROWS = {"rows": [{"x": 1, "k": 1}]}


def wait(true: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    until_s = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < until_s, f"waited for {what}"
        time.sleep(0.01)
    return found


class Group:
    """``andon serve`` as a person starts it."""

    def __init__(self, home: Path, *options: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}
        self.home = home
        self.said = home.parent / "said"
        with self.said.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "andon", "serve", SERVICE, "--home", str(home), *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " on http://" in line, (line, self.said.read_text())
        self.port = int(line.strip().rpartition(":")[2])

    def replicas(self) -> list[int]:
        """The process ids of those that hold connections or wait for some: children of a zygote."""
        return [pid for zygote in children(self.process.pid) for pid in children(zygote)]

    def note(self) -> Note:
        note = read_note(load(self.home), SERVICE)
        assert note is not None
        return note

    async def upgrade(self) -> None:
        """SIGHUP, until the new program has taken over."""
        generation = self.note().generation
        self.process.send_signal(signal.SIGHUP)
        until_s = time.monotonic() + 30
        while self.note().generation == generation:
            assert time.monotonic() < until_s, self.said.read_text()
            assert self.process.poll() is None, self.said.read_text()
            await asyncio.sleep(0.02)

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(40)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        everyone = [*self.replicas(), *children(self.process.pid)] if self.process.poll() is None else []
        for pid in (self.process.pid, *everyone):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def children(pid: int) -> list[int]:
    try:
        return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    except OSError:
        return []


class Load:
    """Clients that ask all the time on kept-alive connections, and note what they saw."""

    def __init__(self, port: int, clients: int = 8) -> None:
        self.port = port
        self.stopping = False
        self.answered = 0
        self.dropped: list[str] = []
        self.refused: list[bytes] = []
        self.unreachable: list[str] = []
        self.longest_s = 0.0
        self.tasks = [asyncio.get_running_loop().create_task(self._ask()) for _ in range(clients)]

    async def _ask(self) -> None:
        client = Client(self.port)
        while not self.stopping:
            began_s = time.monotonic()
            try:
                await client.connect() if client._writer is None else None
            except OSError as error:
                self.unreachable.append(repr(error))
                continue
            try:
                reply = await client.post("/predict", ROWS)
            except (Dropped, OSError) as error:
                self.dropped.append(repr(error))
                continue
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            if reply.status == 200:
                self.answered += 1
            else:
                self.refused.append(reply.body)
            await asyncio.sleep(0.001)
        await client.close()

    async def more(self, by: int = 200) -> None:
        """Until so many more were answered."""
        goal, until_s = self.answered + by, time.monotonic() + 30
        while self.answered < goal:
            assert time.monotonic() < until_s
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self.stopping = True
        await asyncio.gather(*self.tasks)

    @property
    def failed(self) -> tuple[list[str], list[bytes], list[str]]:
        return self.dropped, self.refused, self.unreachable


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with open_store(tmp_path / "home") as store:
        line = Line(store, tmp_path / "scratch", SERVICE)
        line.point(line.onnx())
    return tmp_path / "home"


def test_upgrades_and_restarts_of_replicas_under_load_drop_nothing(home: Path) -> None:
    """Two upgrades of Andon itself, then each replica told to end (SIGTERM): new ones answer before the old ones stop."""

    async def story(group: Group) -> Load:
        traffic = Load(group.port)
        await traffic.more()
        first = set(group.replicas())
        assert len(first) == 2
        for _ in range(2):
            before = set(group.replicas())
            await group.upgrade()
            await traffic.more()
            assert not before & set(group.replicas())
        for pid in group.replicas():
            os.kill(pid, signal.SIGTERM)
            await traffic.more()
        await traffic.stop()
        return traffic

    with Group(home, "-n", "2") as group:
        pid = group.process.pid
        traffic = run(story(group))
        assert traffic.failed == ([], [], [])
        assert group.note().generation == 2
        assert group.process.pid == pid
        assert group.process.poll() is None
        wait(lambda: len(group.replicas()) == 2, "both to be there again")
        last = group.replicas()
        assert group.terminate() == 0
        wait(lambda: all(process_mark(pid).endswith(":") for pid in last), "the replicas to end")


def test_a_killed_replica_loses_what_it_was_answering_and_nothing_else(home: Path) -> None:
    """The other one goes on, waiting connections are nobody's and so not lost, and a new one is started at once."""

    async def story(group: Group) -> tuple[Load, int]:
        while ready_ones(home) < 2:  # a process that has not loaded yet takes no connection
            await asyncio.sleep(0.01)
        traffic = Load(group.port)
        await traffic.more(500)
        first = group.replicas()
        held = Counter(await asyncio.gather(*(asyncio.to_thread(connections_of, pid, group.port) for pid in first)))
        os.kill(first[0], signal.SIGKILL)
        await traffic.more(500)
        until_s = time.monotonic() + 20
        while len(set(group.replicas())) < 2 or first[0] in group.replicas():
            assert time.monotonic() < until_s
            await asyncio.sleep(0.02)
        await traffic.more(100)
        await traffic.stop()
        return traffic, max(held)

    with Group(home, "-n", "2") as group:
        traffic, held = run(story(group))
        assert 3 <= held <= 5  # of eight: they share evenly
        assert len(traffic.dropped) <= held, traffic.dropped
        assert (traffic.refused, traffic.unreachable) == ([], [])
        assert group.terminate() == 0


def ready_ones(home: Path) -> int:
    """How many replicas say that they are ready."""
    with contextlib.closing(sqlite3.connect(home / "ledger.db")) as ledger:
        return int(ledger.execute("select count(*) from replicas where status = 'ready'").fetchone()[0])


def connections_of(pid: int, port: int) -> int:
    """How many established connections to ``port`` a process holds."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" and row[9] in inodes for row in rows)


def test_one_process_is_replaced_in_place_and_drops_nothing(home: Path) -> None:
    async def story(group: Group) -> Load:
        while (await Client(group.port).get("/health")).status != 200:
            await asyncio.sleep(0.02)
        traffic = Load(group.port, 4)
        await traffic.more(100)
        for _ in range(2):
            await group.upgrade()
            await traffic.more(100)
        await traffic.stop()
        return traffic

    with Group(home) as group:
        traffic = run(story(group))
        assert traffic.failed == ([], [], [])
        assert group.note().generation == 2
        assert group.replicas() == []
        assert group.terminate() == 0


def test_one_process_is_replaced_though_it_loads_for_long_and_nobody_waits_for_it(home: Path, tmp_path: Path) -> None:
    """Somebody stands in: with a release that takes seconds to load, no request takes as long; and who stood in is gone afterwards."""
    slow = "import time\ntime.sleep(2.5)\nclass Model:\n    def predict(self, columns):\n        return {'y': columns['x']}\n"
    with open_store(home) as store:
        line = Line(store, tmp_path / "slow", SERVICE)
        line.point(line.python(slow))

    async def story(group: Group) -> Load:
        while (await Client(group.port).get("/health")).status != 200:
            await asyncio.sleep(0.02)
        traffic = Load(group.port, 4)
        await traffic.more(100)
        began_s = time.monotonic()
        await group.upgrade()
        assert time.monotonic() - began_s > 2.5
        group.process.send_signal(signal.SIGSTOP)  # whoever answers now is not this one
        await traffic.more(20)
        group.process.send_signal(signal.SIGCONT)
        until_s = time.monotonic() + 30
        while len(children(group.process.pid)) > 1 or not children(group.process.pid):  # the child of its release only
            assert time.monotonic() < until_s
            await asyncio.sleep(0.05)
        await traffic.more(100)
        await traffic.stop()
        return traffic

    with Group(home) as group:
        traffic = run(story(group))
        assert traffic.failed == ([], [], [])
        assert traffic.longest_s < 2.0
        assert group.note().generation == 1
        assert group.terminate() == 0


def test_one_process_that_the_next_program_cannot_follow_goes_on(home: Path, tmp_path: Path) -> None:
    async def story(group: Group) -> Load:
        while (await Client(group.port).get("/health")).status != 200:
            await asyncio.sleep(0.02)
        traffic = Load(group.port, 4)
        await traffic.more(100)
        with open_store(home) as store:
            line = Line(store, tmp_path / "bad", SERVICE)
            line.point(line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx")))
        said = await asyncio.to_thread(andon, home, "upgrade", SERVICE)
        assert said.returncode != 0
        assert "could not be loaded" in said.stderr
        await traffic.more(100)
        await traffic.stop()
        return traffic

    with Group(home) as group:
        traffic = run(story(group))
        assert traffic.failed == ([], [], [])
        assert group.note().generation == 0
        wait(lambda: children(group.process.pid) == [], "who was to stand in to be gone")
        assert group.terminate() == 0


def test_who_stands_in_ends_with_whom_it_stands_in_for(home: Path, tmp_path: Path) -> None:
    slow = "import time\ntime.sleep(3)\nclass Model:\n    def predict(self, columns):\n        return {'y': columns['x']}\n"
    with open_store(home) as store:
        line = Line(store, tmp_path / "slow", SERVICE)
        line.point(line.python(slow))
    with Group(home) as group:
        wait(lambda: run(Client(group.port).get("/health")).status == 200, "it to be ready")
        release = set(children(group.process.pid))
        group.process.send_signal(signal.SIGHUP)
        wait(lambda: len(set(children(group.process.pid)) - release) == 1 and group.note().generation == 1, "the next program to begin")
        (stand_in,) = set(children(group.process.pid)) - release
        group.process.kill()
        wait(lambda: not Path(f"/proc/{stand_in}").exists() or process_mark(stand_in).endswith(":"), "the stand-in to end")


def test_an_upgrade_whose_replicas_are_never_ready_changes_nothing(home: Path, tmp_path: Path) -> None:
    """Production points to a release that cannot be loaded: those who hold the one before go on, and the note says why."""

    async def story(group: Group) -> Load:
        traffic = Load(group.port, 4)
        await traffic.more(100)
        before = set(group.replicas())
        with open_store(home) as store:
            line = Line(store, tmp_path / "bad", SERVICE)
            line.point(line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx")))
        group.process.send_signal(signal.SIGHUP)
        until_s = time.monotonic() + 20
        while not group.note().problem:
            assert time.monotonic() < until_s
            await asyncio.sleep(0.05)
        await traffic.more(100)
        assert set(group.replicas()) == before
        await traffic.stop()
        return traffic

    with Group(home, "-n", "2") as group:
        traffic = run(story(group))
        assert traffic.failed == ([], [], [])
        assert group.note().generation == 0
        assert "could not be loaded" in group.note().problem
        assert group.terminate() == 0


def test_it_sleeps_when_nothing_is_asked_and_the_first_requests_wait_for_it(home: Path) -> None:
    """Fifty clients at once find nobody there; every one is answered. Then it sleeps again, and the ledger says why each time."""
    with open_store(home) as store:
        policy = ServingPolicy(min_replicas=0, max_replicas=2, idle_s=0.5, up_window_s=0.25)
        register_serving_policy(store, SERVICE, policy, actor=ANA)

    async def crowd(port: int) -> list[int]:
        async def one() -> int:
            reply = await Client(port).post("/predict", ROWS)
            return reply.status

        return await asyncio.gather(*(one() for _ in range(50)))

    with Group(home) as group, open_store(home) as store:
        assert run(crowd(group.port)) == [200] * 50
        for _ in range(2):
            wait(lambda: not group.replicas(), "it to sleep")
            assert run(crowd(group.port)) == [200] * 50
        wait(lambda: not group.replicas(), "it to sleep")
        assert group.terminate() == 0
        told = [decision for _, decision in decisions(store, SERVICE)]
        assert [decision.action for decision in told if decision.action in ("wake", "sleep")] == ["sleep", "wake"] * 2 + ["sleep"]
        assert all(decision.why for decision in told)


def test_more_replicas_come_when_the_policy_changes_and_the_port_stays(home: Path) -> None:
    with Group(home) as group:
        port = group.port
        assert run(Client(port).get("/health")).status in (200, 503)
        assert group.terminate() == 0
    with open_store(home) as store:
        register_serving_policy(store, SERVICE, ServingPolicy(min_replicas=1, max_replicas=3), actor=ANA)
        with Group(home) as group:
            assert group.port == port
            wait(lambda: len(group.replicas()) == 1, "one")
            register_serving_policy(store, SERVICE, ServingPolicy(min_replicas=3, max_replicas=3), actor=ANA)
            wait(lambda: len(group.replicas()) == 3, "three")
            assert group.terminate() == 0


def test_a_service_without_a_release_says_so(tmp_path: Path) -> None:
    with open_store(tmp_path / "home"):
        pass
    with Group(tmp_path / "home", "-n", "2") as group:
        reply = run(Client(group.port).get("/health"))
        assert reply.status == 503
        assert "points to no release yet" in reply.json["error"]["message"]
        with open_store(tmp_path / "home") as store:
            line = Line(store, tmp_path / "scratch", SERVICE)
            line.point(line.onnx())
        wait(lambda: run(Client(group.port).get("/health")).status == 200, "it to be ready")
        assert group.terminate() == 0


@pytest.mark.parametrize("count", ["0", "2:1", "-1", "x", "1:", "257", "0:0"])
def test_a_number_of_replicas_that_is_none_is_refused(home: Path, count: str) -> None:
    said = andon(home, "serve", SERVICE, "-n", count)
    assert said.returncode == 64
    assert "-n" in said.stderr


def test_a_control_plane_that_is_replaced_or_ended_leaves_serving_alone(home: Path) -> None:
    """SIGHUP to ``andon up``: same process, same address, same children. ``--keep-serving``: the next one adopts them, and ends them."""
    with open_store(home) as store:
        register_serving_policy(store, SERVICE, ServingPolicy(min_replicas=2, max_replicas=2), actor=ANA)
    settings = load(home)

    async def both(traffic_port: int, act: Callable[[], Any]) -> Load:
        traffic = Load(traffic_port, 4)
        await traffic.more(100)
        await asyncio.to_thread(act)
        await traffic.more(100)
        await traffic.stop()
        return traffic

    with Plane(home, "--keep-serving") as first:
        note = wait(lambda: read_note(settings, SERVICE), "the child to be there")
        supervisor = int(note.process.partition(":")[0])

        def replace() -> None:
            first.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            wait(lambda: _healthy(first.port), "the control plane to be back")

        traffic = run(both(note.port, replace))
        assert traffic.failed == ([], [], [])
        assert first.process.poll() is None
        assert first.terminate()[0] == 0
    assert Path(f"/proc/{supervisor}").exists()
    assert len([pid for zygote in children(supervisor) for pid in children(zygote)]) == 2
    with Plane(home) as second:
        traffic = run(both(note.port, lambda: time.sleep(1.5)))  # longer than it takes to look after its children
        assert traffic.failed == ([], [], [])
        again = read_note(settings, SERVICE)
        assert again is not None
        assert (again.process, again.port) == (note.process, note.port)
        assert second.terminate()[0] == 0
    wait(lambda: not Path(f"/proc/{supervisor}").exists(), "the adopted supervisor to end")


def _healthy(port: int) -> bool:
    try:
        return run(Client(port).get("/health")).status == 200
    except (Dropped, OSError):
        return False


def test_a_killed_supervisor_under_a_control_plane_is_succeeded_without_a_gap(home: Path) -> None:
    """Its replicas answer on, start another on the same socket, and leave once it has ready ones. The control plane adopts it."""
    with open_store(home) as store:
        register_serving_policy(store, SERVICE, ServingPolicy(min_replicas=2, max_replicas=2), actor=ANA)
    settings = load(home)

    async def story(port: int, killed: int) -> Load:
        traffic = Load(port, 4)
        await traffic.more(100)
        os.kill(killed, signal.SIGKILL)
        until_s = time.monotonic() + 30
        while (note := read_note(settings, SERVICE)) is None or not note.ready or note_holder(note) in (None, killed):
            assert time.monotonic() < until_s
            await asyncio.sleep(0.05)
        await traffic.more(300)
        await traffic.stop()
        return traffic

    with Plane(home) as plane:
        wait(lambda: (note := read_note(settings, SERVICE)) and note.ready, "the child to be there")
        first = note_holder(read_note(settings, SERVICE))
        assert first is not None
        port = read_note(settings, SERVICE).port  # type: ignore[union-attr]
        traffic = run(story(port, first))
        assert traffic.failed == ([], [], [])
        second = note_holder(read_note(settings, SERVICE))
        assert second not in (None, first)
        time.sleep(2.5)  # longer than it takes to look after its children, twice
        assert note_holder(read_note(settings, SERVICE)) == second
        assert plane.terminate()[0] == 0
    wait(lambda: process_mark(second or 0).endswith(":"), "the successor to end with the control plane")


def test_upgrade_says_what_came_of_it(home: Path) -> None:
    said = andon(home, "upgrade", SERVICE)
    assert (said.returncode, "andon serve" in said.stderr) == (66, True), said.stderr
    with Group(home, "-n", "1:1") as group:
        said = andon(home, "upgrade", SERVICE)
        assert said.returncode == 0, said.stderr
        assert "generation 1" in said.stdout
        assert run(Client(group.port).get("/health")).status == 200
        assert group.terminate() == 0
