"""The story of a swap: two releases whose code needs different versions of one library, exchanged under load, and nobody notices.

Everything is real: two environments are built from two wheels, the front and its runners are processes of their own, and clients talk HTTP
over kept-alive connections. A release answers with its library's number in the output, so that each answer betrays who made it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from andon.releases.records import CodePin
from andon.store import Store
from tests.unit.serving.clients import Client, Dropped, Reply, Server, run
from tests.unit.serving.line import Line, small_lock

MODEL = """
import tinydep

class Model:
    def __init__(self, folder):
        pass
    def predict(self, columns):
        return {"y": columns["x"] * 2 + tinydep.N}
"""
TRANSFORM = """
import tinydep

def prepare(columns):
    assert tinydep.N in (1000, 2000)
    return {"x": columns["x"] + columns["k"], "k": columns["k"]}
"""
CLIENTS = 8
FLIPS = 10


def release(line: Line, version: str, n: int) -> str:
    wheels = line.wheels(("tinydep", version, f"N = {n}"))
    lock = msgspec.structs.replace(small_lock(tinydep=version), wheels=wheels)
    code = CodePin(tree=line.tree({"bike_code.py": TRANSFORM}), transform="bike_code:prepare")
    return line.python(MODEL, environment=lock, code=code)


class Traffic:
    """Clients that never stop asking, and everything they saw."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stop = asyncio.Event()
        self.answers: list[tuple[dict[str, Any], Reply]] = []
        self.failed: list[Reply] = []
        self.dropped: list[str] = []
        self._ids = itertools.count()

    async def client(self, seed: int) -> None:
        rng = random.Random(seed)
        client = Client(self.port)
        while not self.stop.is_set():
            rows = [{"x": rng.uniform(-5, 5), "k": rng.randint(-3, 3)} for _ in range(rng.choice((1, 1, 1, 3)))]
            sent = {"rows": rows, "request_id": f"{seed}-{next(self._ids)}", "event_time": "2011-08-01T00:00:00Z"}
            try:
                reply = await client.post("/predict", sent)
            except (Dropped, OSError) as error:
                self.dropped.append(repr(error))
                continue
            (self.answers if reply.status == 200 else self.failed).append((sent, reply) if reply.status == 200 else reply)  # type: ignore[arg-type]
        await client.close()


def test_two_releases_with_different_libraries_are_swapped_under_load(disk_store: Store, tmp_path: Path) -> None:
    line = Line(disk_store, tmp_path / "scratch")
    first, second = release(line, "1.0", 1000), release(line, "2.0", 2000)
    constant = {first: 1000, second: 2000}
    line.point(first)

    async def story() -> Traffic:
        with Server(Path(disk_store.settings.home)) as server:
            await server.wait_release(first)
            traffic = Traffic(server.port)
            clients = [asyncio.ensure_future(traffic.client(seed)) for seed in range(CLIENTS)]
            line.point(second)  # built, loaded and warmed up while the first one answers
            await server.wait_release(second)
            for to in itertools.islice(itertools.cycle((first, second)), FLIPS):
                await asyncio.sleep(0.1)
                line.point(to)
                await server.wait_release(to)
            await asyncio.sleep(0.2)
            traffic.stop.set()
            await asyncio.gather(*clients)
            code, errors = server.terminate()
            assert code == 0, errors
            return traffic

    traffic = run(story())
    assert not traffic.dropped
    assert not traffic.failed
    assert len(traffic.answers) > 200

    expected = []
    for sent, reply in traffic.answers:
        said = reply.json
        assert said["request_id"] == sent["request_id"] == reply.headers["x-request-id"]
        assert said["release"] == reply.headers["x-andon-release"]
        for row, (given, answered) in enumerate(zip(sent["rows"], said["outputs"], strict=True)):
            assert answered["y"] == pytest.approx((given["x"] + given["k"]) * 2 + constant[said["release"]], rel=1e-12)
            expected.append((sent["request_id"], row, said["release"], said["release_digest"], given["x"], given["k"], answered["y"]))
    assert {item[2] for item in expected} == {first, second}

    logged = disk_store.tables.query(
        'select request_id, "row", "release", release_digest, "input.x", "input.k", "output.y", epoch_us(event_time) as at '
        'from "predictions/bikes"'
    ).to_pylist()
    assert {row.pop("at") for row in logged} == {1_312_156_800_000_000}
    assert sorted(tuple(row.values()) for row in logged) == sorted(expected)
