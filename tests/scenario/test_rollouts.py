"""A canary under load: a release that passed every check here, and fails for some users there, is taken back before most of them notice.

Everything is real: `andon serve` in a process of its own with the models in theirs, clients over HTTP, and the controllers' thread of a
control plane. Nobody tells the controller that the release is bad.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from pathlib import Path

from andon import registry, releases, rollouts
from andon.api.controlling import Controllers
from andon.operations.rolling import open_incidents
from andon.rollouts.controller import RolloutController, memory_of
from andon.store import Store
from tests.conftest import ANA
from tests.unit.serving.clients import Client, Dropped, Server, run
from tests.unit.serving.line import Line

FAILS_FOR_SOME = """
class Model:
    def __init__(self, folder):
        pass
    def predict(self, columns):
        if (columns["k"] == 3).any():
            raise ValueError("no such district")
        return {"y": columns["x"] * 0 + 5000.0}
"""
CLIENTS, USERS = 6, 120


class Crowd:
    """Users who keep asking, each known by a key; who answered whom, and what went wrong."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stop = asyncio.Event()
        self.answered: dict[str, set[str]] = {}
        self.failed: list[tuple[float, int, str]] = []
        self.dropped: list[str] = []
        self.answers = 0
        self._ids = itertools.count()

    async def client(self, seed: int) -> None:
        rng = random.Random(seed)
        client = Client(self.port)
        while not self.stop.is_set():
            user = f"u{rng.randrange(USERS)}"
            sent = {"rows": [{"x": 1.0, "k": rng.randint(0, 3)}], "request_id": f"{seed}-{next(self._ids)}"}
            try:
                reply = await client.post("/predict", sent, {"x-andon-key": user})
            except (Dropped, OSError) as error:
                self.dropped.append(repr(error))
                continue
            if reply.status == 200:
                self.answers += 1
                self.answered.setdefault(user, set()).add(reply.json["release"])
            else:
                self.failed.append((time.monotonic(), reply.status, reply.json["error"]["code"]))
            await asyncio.sleep(0.005)
        await client.close()


def test_a_canary_that_fails_for_some_users_is_taken_back_under_load(disk_store: Store, tmp_path: Path) -> None:
    line = Line(disk_store, tmp_path / "scratch")
    old, bad = line.onnx(), line.python(FAILS_FOR_SOME)
    for release in (old, bad):
        releases.waive(disk_store, release, for_s=3_600, actor=ANA, reason="a test")
    releases.deploy(disk_store, old, actor=ANA)
    controllers = Controllers(disk_store, [RolloutController(open_incidents)])

    async def until(done, timeout_s: float) -> None:  # type: ignore[no-untyped-def]
        end_s = time.monotonic() + timeout_s
        while not await asyncio.to_thread(done):
            assert time.monotonic() < end_s, rollouts.rollout_of(disk_store, "service:bikes")
            await asyncio.sleep(0.1)

    async def story() -> Crowd:
        with Server(Path(disk_store.settings.home)) as server:
            await server.wait_release(old)
            crowd = Crowd(server.port)
            clients = [asyncio.ensure_future(crowd.client(seed)) for seed in range(CLIENTS)]
            state = rollouts.start(disk_store, bad, rollouts.canary(steps=[20, 100], step="2s", step_units=10), actor=ANA)
            controllers.start()
            try:
                await until(lambda: rollouts.rollout_of(disk_store, state.id).over, 20)
                over_s = time.monotonic()
                await asyncio.sleep(1.0)
            finally:
                crowd.stop.set()
                await asyncio.to_thread(controllers.stop)
                await asyncio.wait_for(asyncio.gather(*clients), 10)
            crowd.failed = [(at_s - over_s, status, code) for at_s, status, code in crowd.failed]
            code, errors = server.terminate()
            assert code == 0, errors
            return crowd

    crowd = run(story())
    state = rollouts.rollout_of(disk_store, "service:bikes")
    assert state.phase == "aborted", state
    assert state.why.startswith("errors: ")
    assert not crowd.dropped
    assert {(status, code) for _, status, code in crowd.failed} == {(500, "model-failed")}
    assert max(at_s for at_s, _, _ in crowd.failed) < 0.5, "the split goes within a moment of the decision"
    assert len(crowd.failed) < 0.1 * crowd.answers
    assert set().union(*crowd.answered.values()) == {old, bad}
    assert str(registry.resolve(disk_store, "service:bikes@production")) == old
    assert registry.aliases_of(disk_store, "service:bikes") == {"production": old}
    assert bad in releases.service_state(disk_store, "bikes").rejections
    memory = memory_of(disk_store, state.id)
    assert memory.tally(1, 1).failed > 0
    assert memory.tally(1, 0).failed == 0
    assert memory.analysis is not None
    assert sum(memory.analysis.counts) <= USERS
