"""What goes wrong around the control plane: two of them, none, killed ones, a ledger that is away, damaged bytes, and requests that lie."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from andon import registry, releases
from andon.core.clocks import DAY_US, SystemClock
from andon.operations.watching import judged_until_us
from andon.store import Store, open_store
from andon.store.schema import cursors, replicas
from tests.conftest import ANA, START_US
from tests.faults.watched import DAYS, SERVICE, Plane, andon, make_home, told
from tests.unit.serving.clients import Client, Dropped, Server, run
from tests.unit.serving.line import Line

Told = list[tuple[Any, ...]]
JUDGED_US = START_US + (DAYS - 1) * DAY_US


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose days nobody has judged yet."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "scratch").mkdir()
    with open_store(folder / "home", clock=SystemClock()) as store:
        make_home(store, folder / "scratch")
    return folder / "home"


@pytest.fixture(scope="module")
def undisturbed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What the monitors say when nothing goes wrong with them."""
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    shutil.copytree(template, home)
    watched = andon(home, "watch", SERVICE)
    assert watched.returncode == 0, watched.stderr
    return _told(home)


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    """A copy to be rough with."""
    return Path(shutil.copytree(template, tmp_path / "home"))


def _told(home: Path) -> Told:
    with open_store(home) as store:
        return told(store)


def wait(true: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    until_s = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < until_s, f"waited for {what}"
        time.sleep(0.02)
    return found


def judged(store: Store, until_us: int = JUDGED_US) -> bool:
    return (judged_until_us(f"service:{SERVICE}", store=store) or 0) >= until_us


def replica(store: Store) -> dict[str, Any] | None:
    """The replica that answers."""
    with store.ledger.read() as connection:
        row = connection.execute(select(replicas).where(replicas.c.status == "ready").order_by(replicas.c.seen_us.desc())).first()
    return None if row is None else dict(row._mapping)


# --- killed, and done again


def test_the_days_tell_a_story_worth_repeating(undisturbed: Told) -> None:
    """A broken input and a bad release, each answered once: what every test below must come to as well."""
    assert [entry[1] for entry in undisturbed if entry[1] in ("open", "rollback", "block-training", "rolled-back", "rejected")] == [
        "open",
        "block-training",
        "open",
        "rollback",
        "rolled-back",
        "rejected",
    ]


@pytest.mark.parametrize("fault", ["ledger.before_commit:6", "ledger.after_commit:6"])
def test_a_watch_that_is_killed_again_and_again_judges_nothing_twice(home: Path, undisturbed: Told, fault: str) -> None:
    """Each attempt gets through a few windows, and none has to wait for the lease of the one that was killed."""
    killed = 0
    while (watched := andon(home, "watch", SERVICE, environ={"ANDON_FAULT": fault})).returncode == -signal.SIGKILL:
        killed += 1
        assert killed < DAYS
    assert watched.returncode == 0, watched.stderr
    assert killed >= 3
    with open_store(home) as store, store.ledger.read() as connection:
        assert len(connection.execute(select(cursors.c.state)).scalar() or b"") < 60_000  # what is carried along stays small
    assert _told(home) == undisturbed
    with open_store(home) as store:
        assert releases.service_state(store, SERVICE).held() == ["release:bikes@1", "release:bikes@2", "release:bikes@1"]
    assert andon(home, "doctor").returncode == 0


# --- two control planes, and none


def test_two_control_planes_both_answer_and_one_acts(home: Path, undisturbed: Told) -> None:
    with Plane(home, "--no-serve") as first, Plane(home, "--no-serve") as second, open_store(home) as store:
        wait(lambda: judged(store), "every day to be judged")
        for plane in (first, second):
            assert run(Client(plane.port).get("/health")).status == 200
            shown = run(Client(plane.port).get(f"/api/v1/services/{SERVICE}"))
            assert shown.status == 200, shown.body
        assert told(store) == undisturbed
        assert first.terminate() == (0, "")
        assert second.terminate() == (0, "")


def test_a_control_plane_killed_while_it_judges_is_succeeded(home: Path, undisturbed: Told) -> None:
    with Plane(home, "--no-serve", environ={"ANDON_FAULT": "ledger.before_commit:9"}) as first, open_store(home) as store:
        wait(lambda: first.process.poll() is not None, "the first to be killed at its ninth commit")
        holder = _holder(store)
        assert f"/{first.process.pid}/" in holder
        assert judged(store, START_US + DAY_US)
        assert not judged(store)
        with Plane(home, "--no-serve"):
            wait(lambda: judged(store), "the other to take over")
        assert _holder(store) != holder
        assert told(store) == undisturbed


def _holder(store: Store) -> str:
    from andon.store.schema import leases

    with store.ledger.read() as connection:
        return str(connection.execute(select(leases.c.holder).where(leases.c.name == "controllers")).scalar())


class Traffic:
    """One client that asks all the time, and notes what it saw."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.ids: list[str] = []
        self.dropped: list[str] = []
        self.refused: list[bytes] = []

    async def ask(self, for_s: float) -> None:
        client = Client(self.port)
        until_s = time.monotonic() + for_s
        while time.monotonic() < until_s:
            try:
                reply = await client.post("/predict", {"rows": [{"x": 1, "k": 1}], "event_time": "2011-08-20T00:00:00Z"})
            except (Dropped, OSError) as error:
                self.dropped.append(repr(error))
                continue
            if reply.status == 200:
                self.ids.append(reply.json["request_id"])
            else:
                self.refused.append(reply.body)
            await asyncio.sleep(0.002)
        await client.close()


def test_serving_outlives_its_control_plane_and_is_adopted_by_the_next(home: Path) -> None:
    with open_store(home) as store:
        with Plane(home) as first:
            row = wait(lambda: replica(store), "the service to be ready")
            traffic = Traffic(int(row["url"].rpartition(":")[2]))
            run(traffic.ask(0.3))
            first.kill()
        run(traffic.ask(0.5))
        with Plane(home) as second:
            run(traffic.ask(1.5))  # longer than the new one takes to look after its children
            adopted = replica(store)
            assert adopted is not None
            assert adopted["pid"] == row["pid"], "a second replica was started beside the one that answers"
            assert second.terminate() == (0, "")
        assert (traffic.dropped, traffic.refused) == ([], [])
        wait(lambda: not Path(f"/proc/{row['pid']}").exists(), "the adopted replica to end with its new parent")
        logged = store.tables.query(f'select request_id from "predictions/{SERVICE}"')["request_id"].to_pylist()
        assert set(traffic.ids) <= set(logged)


def test_a_second_control_plane_that_ends_leaves_the_firsts_serving_alone(home: Path) -> None:
    with open_store(home) as store, Plane(home) as first:
        row = wait(lambda: replica(store), "the service to be ready")
        traffic = Traffic(int(row["url"].rpartition(":")[2]))
        with Plane(home) as second:
            run(traffic.ask(1.5))  # longer than the second takes to look after its children
            assert second.terminate() == (0, "")
        run(traffic.ask(0.5))
        assert (traffic.dropped, traffic.refused) == ([], [])
        left = replica(store)
        assert left is not None
        assert left["pid"] == row["pid"]
        assert first.terminate() == (0, "")
        wait(lambda: not Path(f"/proc/{row['pid']}").exists(), "the replica to end with its own parent")


def test_a_ledger_that_is_away_for_a_while_costs_no_answer_and_no_label(home: Path) -> None:
    """Writers wait (another process holds the ledger), then the files are gone, then they are back."""
    with open_store(home) as store, Plane(home) as plane:
        row = wait(lambda: replica(store), "the service to be ready")
        wait(lambda: judged(store), "every day to be judged")
        traffic = Traffic(int(row["url"].rpartition(":")[2]))
        acknowledged: list[str] = []

        async def both(phase: str, for_s: float) -> None:
            asking = asyncio.ensure_future(traffic.ask(for_s))
            for n, port in enumerate((traffic.port, plane.port)):
                path = "/labels" if port == traffic.port else f"/api/v1/services/{SERVICE}/labels"
                label = {"request_id": f"{phase}-{n}", "label": 1.0}
                with contextlib.suppress(Dropped):
                    if (await Client(port).post(path, {"labels": [label]})).status == 200:
                        acknowledged.append(label["request_id"])
            await asking

        blocker = sqlite3.connect(home / "ledger.db", isolation_level=None)
        blocker.execute("begin exclusive")
        run(both("locked", 0.7))
        blocker.execute("rollback")
        blocker.close()
        files, away = list(home.glob("ledger.db*")), home / "away"
        away.mkdir()
        for file in files:
            file.rename(away / file.name)
        run(both("away", 0.7))
        for file in files:
            (home / file.name).unlink(missing_ok=True)
            (away / file.name).rename(file)
        run(both("back", 0.5))
        assert (traffic.dropped, traffic.refused) == ([], [])
        assert {"locked-0", "away-0", "back-0", "back-1"} <= set(acknowledged)
        assert run(Client(plane.port).get("/health")).status == 200
        plane.kill()
        _end(row["pid"])
    with open_store(home) as again:
        labels = again.tables.query(f'select request_id from "labels/{SERVICE}"')["request_id"].to_pylist()
        assert set(acknowledged) <= set(labels)
        logged = again.tables.query(f'select request_id from "predictions/{SERVICE}"')["request_id"].to_pylist()
        assert set(traffic.ids) <= set(logged)
    assert andon(home, "doctor").stdout.strip() == "all is well"


def _end(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGTERM)
    wait(lambda: not Path(f"/proc/{pid}").exists() or "(zombie)" in Path(f"/proc/{pid}/status").read_text(), "the replica to end")


# --- what it cannot do, it says


def test_a_taken_port_is_exit_69_and_named(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for command in (("up", "--no-serve"), ("serve", SERVICE)):
            said = andon(home, *command, "--port", str(port))
            assert said.returncode == 69, said.stderr
            assert str(port) in said.stderr
            assert "--port" in said.stderr
            assert "Traceback" not in said.stderr


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that was remounted read-only (as root, permissions alone stop nobody)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,ro", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"may not mount a small disk here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    "command", [("up", "--no-serve", "--port", "0"), ("serve", SERVICE), ("watch", SERVICE), ("cord", SERVICE, "--why", "x")]
)
def test_a_home_that_cannot_be_written_is_said(read_only: Path, command: tuple[str, ...]) -> None:
    said = andon(read_only / "home", *command)
    assert said.returncode == 73, (said.stdout, said.stderr)
    assert str(read_only) in said.stderr
    assert "Traceback" not in said.stderr


def test_a_home_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    said = andon(tmp_path / "home", "up", "--no-serve", "--port", "0")
    assert said.returncode in (64, 69, 73, 78), said.stderr
    assert "home" in said.stderr
    assert "Traceback" not in said.stderr


# --- requests that lie


@pytest.fixture(scope="module")
def plane(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    home = Path(shutil.copytree(template, tmp_path_factory.mktemp("asked") / "home"))
    with Plane(home, "--no-serve") as running:
        yield running


LABELS = f"/api/v1/services/{SERVICE}/labels"
BAD = [
    (b"", "body"),
    (b"labels", "body"),
    (b"[]", "body"),
    (b"{}", "labels"),
    (b'{"labels": 1}', "labels"),
    (b'{"labels": [{"label": 1}]}', "request_id"),
    (b'{"labels": [{"request_id": "a"}]}', "label"),
    (b'{"labels": [{"request_id": "a", "label": NaN}]}', "body"),
    (b'{"labels": [{"request_id": "a", "label": Infinity}]}', "body"),
    (b'{"labels": [{"request_id": "a", "label": 1e999}]}', "body"),
    (b'{"labels": [{"request_id": "a", "label": null}]}', "label"),
    (b'{"labels": [{"request_id": "", "label": 1}]}', "request_id"),
    (b'{"labels": [{"request_id": "a", "label": 1, "colour": "red"}]}', "colour"),
    (b'{"labels": [{"request_id": "a", "label": 1, "row": -1}]}', "row"),
    (b'{"labels": [{"request_id": "a", "label": 1, "row": 99999999999}]}', "row"),
    (b'{"labels": [{"request_id": "a", "label": 1, "event_time": "noon"}]}', "event_time"),
    (b'{"labels": [{"request_id": "a", "label": 1, "event_time": 1e30}]}', "event_time"),
    (b'{"labels": [{"request_id": "ok", "label": 1}, {"request_id": 7, "label": 1}]}', "request_id"),
    (b"[" * 100_000, "body"),
    (b'{"labels": [{"request_id": "\xff\xfe", "label": 1}]}', "body"),
]


@pytest.mark.parametrize(("body", "field"), BAD, ids=[f"{body[:60]!r}"[2:-1] for body, _ in BAD])
def test_labels_that_are_none_are_refused_by_name(plane: Plane, body: bytes, field: str) -> None:
    reply = run(Client(plane.port).ask("POST", LABELS, body, {"content-type": "application/json"}))
    assert reply.status == 400, reply.body
    error = reply.json["error"]
    assert set(error) == {"code", "message", "next_step", "fields"}
    assert field in str(error["fields"].get("field")) or field in error["message"], error


def test_nothing_of_a_refused_batch_is_kept(plane: Plane) -> None:
    before = run(Client(plane.port).post(LABELS, {"labels": [{"request_id": "kept", "label": 1}]}))
    assert before.status == 200, before.body
    mixed = {"labels": [{"request_id": "half", "label": 1}, {"request_id": "half", "label": 1, "row": -5}]}
    assert run(Client(plane.port).post(LABELS, mixed)).status == 400


def test_another_host_and_a_huge_body_are_refused_and_the_server_goes_on(plane: Plane) -> None:
    raw = http.client.HTTPConnection("127.0.0.1", plane.port, timeout=20)
    raw.request("GET", "/health", headers={"host": "evil.example"})
    answer = raw.getresponse()
    assert answer.status == 403
    assert json.loads(answer.read())["error"]["fields"]["field"] == "host"
    raw.close()

    async def flood(head: bytes) -> int:
        client = Client(plane.port)
        await client.send(
            b"POST " + LABELS.encode() + b" HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n" + head + b"\r\n\r\n"
        )
        with contextlib.suppress(OSError, Dropped):
            for _ in range(100):
                await client.send(b" " * 1_000_000 if b"length" in head else b"%x\r\n%s\r\n" % (1_000_000, b" " * 1_000_000))
        return (await client.receive()).status

    assert run(flood(b"content-length: 100000000")) == 413
    with contextlib.suppress(Dropped, OSError):  # it may hang up before the answer is read: the sender is still sending
        assert run(flood(b"transfer-encoding: chunked")) == 413
    assert run(Client(plane.port).get("/health")).status == 200


def test_a_label_for_a_service_that_is_not_there(plane: Plane) -> None:
    reply = run(Client(plane.port).post("/api/v1/services/nobody/labels", {"labels": [{"request_id": "a", "label": 1}]}))
    assert (reply.status, reply.json["error"]["code"]) == (404, "not-found")


# --- damaged bytes


def test_damaged_bytes_of_the_model_are_named_by_serving_and_doctor(home: Path) -> None:
    with open_store(home) as store:
        release = registry.resolve(store, f"service:{SERVICE}@production")
        model = registry.get(store, registry.get(store, release).manifest["model"]["address"])
        tree = model.manifest["files"]
        files = [digest for digest in store.blobs.digests() if digest != tree and _is_model(store, digest, release)]
    damaged = files[0]
    path = next(path for path in (home / "blobs").rglob("*") if path.is_file() and damaged.removeprefix("b3:")[-20:] in path.name)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    shutil.rmtree(home / "environments", ignore_errors=True)  # a replica on a new machine has laid nothing out yet
    with Server(home) as server:

        async def refused() -> Any:
            client = Client(server.port)
            until_s = time.monotonic() + 20
            while True:
                reply = await client.get("/health")
                if "damaged" in reply.body.decode() or damaged in reply.body.decode() or time.monotonic() > until_s:
                    return reply
                await asyncio.sleep(0.05)

        reply = run(refused())
        assert reply.status == 503
        assert damaged in reply.body.decode(), reply.body
    deep = andon(home, "doctor", "--deep")
    assert deep.returncode == 1
    assert damaged in deep.stdout


def _is_model(store: Store, digest: str, release: Any) -> bool:
    """Whether this blob is the ONNX of the release in production (the bytes of its bias are in it)."""
    import struct

    bias = 100.0 if str(release).endswith("@1") else 104.0
    data = store.blobs.get(digest)
    return b"MatMul" in data and struct.pack("<d", bias) in data


def test_a_truncated_part_is_named_and_the_board_still_opens(home: Path) -> None:
    with open_store(home) as store:
        assert store.tables.seal() > 0
    part = max((home / "tables" / "predictions" / SERVICE).glob("*.parquet"), key=lambda path: path.stat().st_size)
    part.chmod(0o644)
    part.write_bytes(part.read_bytes()[:-100])
    said = andon(home, "doctor")
    assert said.returncode == 1
    assert part.name in said.stdout.replace("\n", "")
    with Plane(home, "--no-serve") as plane:
        for path in ("/", f"/services/{SERVICE}"):
            page = run(Client(plane.port).ask("GET", path, headers={"accept": "text/html"}))
            assert page.status == 200, page.body[:300]
            assert SERVICE in page.body.decode()
        assert run(Client(plane.port).get("/health")).status == 200
    watched = andon(home, "watch", SERVICE)
    assert watched.returncode == 74, watched.stderr
    assert part.name in watched.stderr or part.stem in watched.stderr


# --- a deploy that cannot be followed


def test_a_release_that_cannot_load_is_explained_by_show(home: Path, tmp_path: Path) -> None:
    with open_store(home) as store, Plane(home) as plane:
        wait(lambda: judged(store), "every day to be judged, and the bad release to be rolled back")
        row = wait(lambda: (found := replica(store)) and found["release"] == "release:bikes@1" and found, "the service to follow")
        (tmp_path / "scratch").mkdir()
        line = Line(store, tmp_path / "scratch", SERVICE)
        bad = line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx"))
        releases.waive(store, bad, for_s=9e5, actor=ANA, reason="it looked fine")
        good = row["release"]
        deployed = andon(home, "deploy", bad, "--why", "it looked fine")
        assert deployed.returncode == 0, deployed.stderr

        def explained() -> str:
            shown = andon(home, "show", f"service:{SERVICE}")
            assert shown.returncode == 0, shown.stderr
            return shown.stdout if "could not be loaded" in shown.stdout else ""

        assert bad in wait(explained, "`andon show` to say why")
        answered = run(Client(int(row["url"].rpartition(":")[2])).post("/predict", {"rows": [{"x": 1, "k": 1}]}))
        assert answered.json["release"] == good
        assert plane.terminate()[0] == 0
