"""Each way to bring a release to production, under load on real servers, with a bad release injected into it; and what people do meanwhile.

`andon serve` runs in processes of its own with user code in theirs, `andon up` (or its controllers' thread) decides, and clients on
kept-alive connections ask without pause. Every answer must be right for the release that it names, and nobody may notice the machinery.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import pytest

from andon import registry, releases, rollouts
from andon.api.controlling import Controllers
from andon.autoscaling import ServingPolicy, register_serving_policy
from andon.operations import moving, policies
from andon.operations.rolling import open_incidents
from andon.releases.splits import place
from andon.rollouts.controller import RolloutController
from andon.rollouts.journal import read_action
from andon.store import Store, open_store, streams
from tests.conftest import ANA
from tests.faults.test_replicas import Group
from tests.faults.watched import Plane, andon
from tests.unit.serving.clients import Client, Dropped, Server, run
from tests.unit.serving.line import Line

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")]

REGULARS, PASSERS_BY = 60, 1_000_000
"""Half of the requests are of a few users, who come again and again; the others are of users who are hardly ever seen twice."""
BLUNT: dict[str, Any] = {"analysis": {"errors": {"margin": 0.05}, "latency": None, "alpha_mismatch": 1e-5}, "settle": "0.5s"}
"""Enough to prove in a few hundred units that errors are not much more; and no unlucky draw of users ends a test."""
RAISES_FOR_SOME = """
import time
class Model:
    def __init__(self, folder):
        pass
    def predict(self, columns):
        if (columns["k"] == 3).any():
            raise ValueError("no such district")
        time.sleep(%s)
        return {"y": 2 * columns["x"] + columns["k"] + 7}
"""
RAISES = """
class Model:
    def __init__(self, folder):
        pass
    def predict(self, columns):
        if ((columns["x"] != 1.0) & (columns["x"] != 0.5)).any():  # its own example it answers
            raise ValueError("out of order")
        return {"y": columns["x"]}
"""


class Seen(NamedTuple):
    """What a client saw of one request; instants are wall time, seconds."""

    id: str
    user: str
    sent_s: float
    got_s: float
    release: str
    status: int


class Crowd:
    """Clients that ask one after the other, each request with a user's key, and check what they are told by each release's ``bias``."""

    def __init__(self, port: int, bias: dict[str, float]) -> None:
        self._port, self._bias = port, bias
        self._ids = itertools.count()
        self.stopping = False
        self.seen: list[Seen] = []
        self.wrong: list[Any] = []
        self.dropped: list[str] = []
        self.pays: Callable[[str], float] | None = None
        """If given, what each answered user pays is reported as the outcome ``revenue``."""

    async def client(self, seed: int) -> None:
        rng, client = random.Random(seed), Client(self._port)
        while not self.stopping:
            user = f"regular{rng.randrange(REGULARS)}" if rng.random() < 0.5 else f"passer{rng.randrange(PASSERS_BY)}"
            id_, x, k = f"r{next(self._ids)}", round(rng.random(), 3), rng.randint(0, 3)
            sent_s = time.time()
            try:
                reply = await client.post("/predict", {"rows": [{"x": x, "k": k}], "request_id": id_}, {"x-andon-key": user})
            except (Dropped, OSError) as error:
                self.dropped.append(repr(error))
                continue
            release = reply.headers.get("x-andon-release", "")
            self.seen.append(Seen(id_, user, sent_s, time.time(), release, reply.status))
            if reply.status == 200:
                told, y = reply.json, 2 * x + k + self._bias.get(release, float("nan"))
                if told["request_id"] != id_ or told["release"] != release or abs(told["outputs"][0]["y"] - y) > 1e-9:
                    self.wrong.append((told, x, k))
                if self.pays is not None:
                    label = {"request_id": id_, "label": self.pays(release), "name": "revenue"}
                    assert (await client.post("/labels", {"labels": [label]})).status == 200
            await asyncio.sleep(0.005)
        await client.close()

    async def until(self, done: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
        """Wait, off the loop's thread, while the clients go on."""
        end_s = time.monotonic() + timeout_s
        while not (found := await asyncio.to_thread(done)):
            assert time.monotonic() < end_s, f"waited for {what}: {Counter((one.release, one.status) for one in self.seen[-200:])}"
            await asyncio.sleep(0.03)
        return found

    async def more(self, by: int = 100) -> None:
        goal = len(self.seen) + by
        await self.until(lambda: len(self.seen) >= goal, "more answers")

    def between(self, since_s: float, until_s: float) -> list[Seen]:
        """Requests that were both sent and answered meanwhile."""
        return [one for one in self.seen if since_s < one.sent_s and one.got_s < until_s]

    def failed(self) -> list[Seen]:
        return [one for one in self.seen if one.status != 200]

    def last_s(self, release: str) -> float:
        """When a release was last heard of."""
        return max((one.got_s for one in self.seen if one.release == release), default=0.0)


@asynccontextmanager
async def crowd(port: int, bias: dict[str, float], clients: int = 5) -> AsyncIterator[Crowd]:
    made = Crowd(port, bias)
    tasks = [asyncio.ensure_future(made.client(seed)) for seed in range(clients)]
    try:
        yield made
    finally:
        made.stopping = True
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert not made.wrong, made.wrong[:3]
    assert not made.dropped, made.dropped[:3]


@asynccontextmanager
async def deciding(store: Store) -> AsyncIterator[None]:
    """The control plane's thread, with the hands that look after rollouts."""
    controllers = Controllers(store, [RolloutController(open_incidents)])
    controllers.start()
    try:
        yield
    finally:
        await asyncio.to_thread(controllers.stop)


def events(store: Store, rollout: str) -> dict[str, float]:
    """When each kind of event last happened, wall time in seconds."""
    with store.ledger.read() as connection:
        return {event.type: event.at_us / 1e6 for event in streams.read(connection, rollout)}


def over(store: Store, rollout: str) -> bool:
    return rollouts.rollout_of(store, rollout).over


def production(store: Store) -> str:
    return str(registry.resolve(store, "service:bikes@production"))


def exposures(store: Store, rollout: str) -> list[tuple[str, str, str, str, int, str]]:
    """(request, unit, channel, release, stage, status) of each, in the order of arrival."""
    columns = "request_id, unit, channel, release, stage, status"
    sql = f"select {columns} from \"exposures/bikes\" where rollout = '{rollout}' order by arrival_time"
    return [tuple(row.values()) for row in store.tables.query(sql).to_pylist()]


def assert_exact(shown: list[tuple[str, str, str, str, int, str]], rollout: str, shares: dict[int, int]) -> None:
    """Every user is where the hash says, at every stage: that is both the share and the stickiness."""
    for _, unit, channel, _, stage, _ in shown:
        assert (channel == "candidate") is (place(rollout, unit) < shares[stage]), (unit, channel, stage)


@pytest.fixture
def line(disk_store: Store, tmp_path: Path) -> Line:
    return Line(disk_store, tmp_path / "scratch")


def let_through(line: Line, *made: str) -> None:
    """What a gate that passes a release leaves behind; each passed every check that there was."""
    now_us = line.store.clock.now_us()

    def work(connection: Any) -> None:
        for release in made:
            body = {"release": release, "answer": 0, "verdicts": [], "policy": "policy:gate/bikes@1"}
            streams.append(connection, releases.stream_of("bikes"), "judged", body, at_us=now_us, actor=ANA)

    line.store.ledger.write(work)


def begin(line: Line, release: str, strategy: rollouts.Strategy, policy: dict[str, Any] = BLUNT) -> str:
    policies.register_policy("rollout/bikes", policy, store=line.store, actor=ANA)
    return rollouts.start(line.store, release, strategy, actor=ANA).id


def test_a_slow_shadow_that_raises_is_seen_by_nobody(line: Line) -> None:
    store, slow_s = line.store, 0.05
    old, bad = line.onnx(), line.python(RAISES_FOR_SOME % slow_s)
    let_through(line, old)
    releases.deploy(store, old, actor=ANA)

    async def story() -> tuple[Crowd, str]:
        with Server(Path(store.settings.home)) as server:
            await server.wait_release(old)
            async with crowd(server.port, {old: 0.0}) as asking, deciding(store):
                await asking.more(300)
                policy = {"analysis": {"latency": {"thresholds_ms": [1e3 * slow_s], "margins": [0.05]}}, "settle": "0.5s"}
                id_ = begin(line, bad, rollouts.shadow(for_="4s", most_rows_s=60), policy)
                await asking.until(lambda: over(store, id_), "the shadow's end")
                await asking.more(100)
            assert server.terminate()[0] == 0
        return asking, id_

    asking, id_ = run(story())
    state, at_s = rollouts.rollout_of(store, id_), events(store, id_)
    assert {(one.release, one.status) for one in asking.seen} == {(old, 200)}
    assert (state.phase, production(store)) == ("ended", old)
    assert bad not in releases.service_state(store, "bikes").rejections
    assert {state.statuses["rollout/errors"], state.statuses["rollout/latency"]} == {"fail"}
    shown = exposures(store, id_)
    copies = [status for _, _, channel, release, _, status in shown if (channel, release) == ("shadow", bad)]
    assert len(copies) > 50
    assert {"ok", "model-failed"} <= set(copies)

    def slow(since_s: float, until_s: float) -> tuple[float, float]:
        cuts = quantiles([one.got_s - one.sent_s for one in asking.between(since_s, until_s)], n=100)
        return cuts[49], cuts[98]

    (p50_s, p99_s), (with_p50_s, with_p99_s) = slow(0, at_s["started"]), slow(at_s["stepped"], at_s["ended"])
    print(f"p50 {p50_s * 1e3:.1f} -> {with_p50_s * 1e3:.1f} ms, p99 {p99_s * 1e3:.1f} -> {with_p99_s * 1e3:.1f} ms, {len(copies)} copies")
    assert with_p50_s < p50_s + slow_s / 2, "a user who waited for the shadow would wait for all of its time"
    assert with_p99_s < p99_s + 3 * slow_s


def test_canaries_on_several_replicas(tmp_path: Path) -> None:
    """A bad one is taken back by itself; a good one takes everything, while replicas come and go; and then it is rolled back."""
    home = tmp_path / "home"
    with open_store(home) as store:
        line = Line(store, tmp_path / "scratch")
        old, bad, good = line.onnx(), line.python(RAISES_FOR_SOME % 0), line.onnx(bias=3.0)
        let_through(line, old, bad, good)
        releases.deploy(store, old, actor=ANA)
        policies.register_policy("rollout/bikes", BLUNT, store=store, actor=ANA)
        replicas = ServingPolicy(min_replicas=2, max_replicas=2)
        register_serving_policy(store, "bikes", replicas, actor=ANA)
        with Group(home) as group, Plane(home, "--no-serve"):
            asking, first, second = run(_canaries(store, group, old, bad, good))
            assert group.terminate() == 0
        _check_bad_canary(store, asking, first, old, bad)
        assert not [one for one in asking.failed() if one.sent_s > events(store, second)["started"]]
        shown = exposures(store, second)
        assert_exact(shown, second, {0: 0, 1: 2_000, 2: 5_000})
        assert {stage for *_, stage, _ in shown} == {0, 1, 2}
        assert max(Counter(row[0] for row in shown).values()) == 1
        assert {status for *_, status in shown} == {"ok"}


async def _canaries(store: Store, group: Group, old: str, bad: str, good: str) -> tuple[Crowd, str, str]:
    home = group.home
    async with crowd(group.port, {old: 0.0, bad: 7.0, good: 3.0}) as asking:
        await asking.more(100)
        how = ("--strategy", "canary", "--steps", "20,100", "--step", "0.5s", "--step-units", "10", "--force", "--json")
        said = await asyncio.to_thread(andon, home, "deploy", bad, *how)
        assert said.returncode == 0, said.stderr
        first = str(json.loads(said.stdout)["rollout"]["id"])
        await asking.until(lambda: over(store, first), "the bad canary's end")
        await asking.more(100)
        second = rollouts.start(store, good, rollouts.canary(steps=[20, 50, 100], step="0.5s", step_units=30), actor=ANA).id
        await asking.until(lambda: rollouts.rollout_of(store, second).stage == 1, "the first step")
        for n in (3, 1):
            register_serving_policy(store, "bikes", ServingPolicy(min_replicas=n, max_replicas=n), actor=ANA)
            await asking.until(lambda n=n: len(group.replicas()) == n, f"{n} replicas")
            await asking.more(50)
        await asking.until(lambda: over(store, second), "the good canary's end", 60)
        assert rollouts.rollout_of(store, second).phase == "promoted"
        assert production(store) == good
        await asking.more(50)
        assert {one.release for one in asking.seen[-20:]} == {good}
        before_s = time.time()
        await asyncio.to_thread(moving.rollback, "bikes", why="a person does not like it", store=store, actor=ANA)
        committed_s = time.time()
        await asking.more(100)
        assert asking.last_s(good) - committed_s < 1.0
        print(f"promoted, then rolled back in {(asking.last_s(good) - before_s) * 1e3:.0f} ms")
    return asking, first, second


def _check_bad_canary(store: Store, asking: Crowd, id_: str, old: str, bad: str) -> None:
    state, at_s = rollouts.rollout_of(store, id_), events(store, id_)
    assert state.phase == "aborted"
    assert state.why.startswith(("errors: ", "most of the candidate's latest"))
    assert bad in releases.service_state(store, "bikes").rejections
    assert bad not in releases.service_state(store, "bikes").held("production")
    shown = exposures(store, id_)
    assert_exact(shown, id_, {0: 0, 1: 2_000})
    failed = asking.failed()
    assert failed
    assert {(one.release, one.status) for one in failed} == {(bad, 500)}
    assert all(place(id_, one.user) < 2_000 for one in failed), "only who was in the canary"
    assert max(one.got_s for one in failed) < at_s["aborted"] + 1.0
    during = asking.between(at_s["stepped"], at_s["aborted"])
    assert len(failed) < 0.1 * len(during), "a quarter of a fifth, and some"
    settled = asking.between(at_s["stepped"] + 1.0, at_s["aborted"])
    assert {one.release for one in settled if place(id_, one.user) < 2_000} == {bad}, "who was in the canary stayed in it"
    assert {one.release for one in settled if place(id_, one.user) >= 2_000} == {old}
    print(f"aborted {at_s['aborted'] - at_s['stepped']:.1f} s after the first user, {len(failed)} of {len(during)} requests failed")


def test_blue_green_never_switches_to_what_cannot_load_and_returns_from_what_is_bad(line: Line) -> None:
    """One cannot be loaded; one raises, and the breaker takes it back; one answers nonsense, and a person rolls it back."""
    store, home = line.store, Path(line.store.settings.home)
    old = line.onnx()
    lost = line.release(line.model({"model.onnx": b"junk"}, "onnx", "model.onnx"))
    raises, nonsense = line.python(RAISES), line.onnx(bias=1e6)
    let_through(line, old, lost, raises, nonsense)
    releases.deploy(store, old, actor=ANA)

    async def story() -> tuple[Crowd, list[str], float, float]:
        with Server(home) as server:
            await server.wait_release(old)
            async with crowd(server.port, {old: 0.0, nonsense: 1e6}) as asking, deciding(store):
                ids = []
                for release in (lost, raises):
                    ids.append(begin(line, release, rollouts.blue_green()))
                    await asking.until(lambda: over(store, ids[-1]), f"the end of {release}")
                    await asking.more(100)
                ids.append(begin(line, nonsense, rollouts.blue_green()))
                await asking.until(lambda: asking.last_s(nonsense), "the switch")
                await asking.more(100)
                assert {one.release for one in asking.seen[-20:]} == {nonsense}
                asked_s = time.time()
                said = await asyncio.to_thread(andon, home, "rollback", "bikes", "--why", "it answers nonsense")
                returned_s = time.time()
                assert said.returncode == 0, said.stderr
                await asking.more(100)
            assert server.terminate()[0] == 0
        return asking, ids, asked_s, returned_s

    asking, (first, second, third), asked_s, returned_s = run(story())
    assert {rollouts.rollout_of(store, id_).phase for id_ in (first, second, third)} == {"aborted"}
    assert {lost, raises, nonsense} <= set(releases.service_state(store, "bikes").rejections)
    assert production(store) == old
    assert "cannot run" in rollouts.rollout_of(store, first).why
    assert lost not in {one.release for one in asking.seen}
    failed = asking.failed()
    assert {(one.release, one.status) for one in failed} == {(raises, 500)}
    second_s, third_s = events(store, second), events(store, third)
    assert asking.last_s(raises) < second_s["aborted"] + 1.0
    assert second_s["aborted"] - second_s["promoted"] < 15
    moved_s = asking.last_s(nonsense)
    assert moved_s < returned_s + 1.0, "the old one was kept warm"
    committed_s = third_s["overruled"]
    print(
        f"breaker: {second_s['aborted'] - second_s['promoted']:.1f} s, {len(failed)} failed; the last bad answer came "
        f"{(moved_s - committed_s) * 1e3:.0f} ms after the rollback's commit ({moved_s - asked_s:.2f} s after its command was started)"
    )


def test_an_ab_test_is_sticky_and_logs_every_request_once(line: Line) -> None:
    store = line.store
    old, new = line.onnx(), line.onnx(bias=3.0)
    let_through(line, old, new)
    releases.deploy(store, old, actor=ANA)
    revenue = {"name": "revenue", "low": 0, "high": 10, "better": "higher", "margin": 1, "required": False}
    policy = {"analysis": {**BLUNT["analysis"], "metrics": [revenue]}, "delays": {"revenue": "1s"}, "settle": "0.5s"}

    async def story() -> tuple[Crowd, str]:
        with Server(Path(store.settings.home)) as server:
            await server.wait_release(old)
            async with crowd(server.port, {old: 0.0, new: 3.0}) as asking, deciding(store):
                asking.pays = lambda release: 8.0 if release == new else 2.0
                id_ = begin(line, new, rollouts.ab(share=30, metric="revenue"), policy)
                await asking.until(lambda: rollouts.rollout_of(store, id_).statuses.get("rollout/metric/revenue") == "pass", "a winner")
                await asyncio.to_thread(rollouts.steer, store, id_, "promote", actor=ANA, reason="it earns more")
                await asking.more(100)
            assert server.terminate()[0] == 0
        return asking, id_

    asking, id_ = run(story())
    state, at_s = rollouts.rollout_of(store, id_), events(store, id_)
    assert not asking.failed()
    assert (state.phase, production(store)) == ("promoted", new)
    assert {one.release for one in asking.seen[-20:]} == {new}
    assert asking.last_s(old) < at_s["promoted"] + 1.0
    shown = exposures(store, id_)
    assert_exact(shown, id_, {0: 0, 1: 3_000})
    assert max(Counter(row[0] for row in shown).values()) == 1
    running = {one.id: one for one in asking.between(at_s["stepped"] + 1.0, at_s["promoted"])}
    logged = {request: release for request, _, _, release, _, _ in shown}
    assert {id_: one.release for id_, one in running.items()}.items() <= logged.items(), "each is there, with who answered"
    arms: dict[str, set[str]] = defaultdict(set)
    for one in running.values():
        arms[one.user].add(one.release)
    assert {len(seen) for seen in arms.values()} == {1}
    n, candidates = len(arms), sum(new in seen for seen in arms.values())
    assert abs(candidates - 0.3 * n) < 5 * (0.21 * n) ** 0.5, "binomial, five standard deviations"
    with store.ledger.read() as connection:
        said = [(event.type, event.actor, read_action(event)) for event in streams.read(connection, id_)]
    assert {(kind, str(actor)) for kind, actor, _ in said if kind in ("started", "promoted")} == {
        ("started", str(ANA)),
        ("promoted", str(ANA)),
    }
    assert said[-1][2].why == "it earns more"
    print(f"{candidates} of {n} users, {len(running)} requests")


SHORT_LEASE = """
import sys
from andon.rollouts import controller
from andon.serving import routing
routing.LEASE_S = 2.5
controller.RENEW_US = 300_000
"""


def test_the_control_plane_dies_in_a_canary_and_people_go_on(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL: the lease runs out and production answers everybody; a successor goes on; then a rollback, and a deploy past a canary."""
    store, home = line.store, Path(line.store.settings.home)
    old, new, next_ = line.onnx(), line.python(RAISES_FOR_SOME.replace("== 3", "== 9") % 0), line.onnx(bias=5.0)
    let_through(line, old, new, next_)
    releases.deploy(store, old, actor=ANA)
    policies.register_policy("rollout/bikes", BLUNT, store=store, actor=ANA)
    for module in ("tests.faults.watched.UP", "tests.unit.serving.clients.SERVE"):
        monkeypatch.setattr(module, SHORT_LEASE + _constant(module))

    async def story() -> tuple[Crowd, list[str]]:
        with Server(home) as server:
            await server.wait_release(old)
            strategy = rollouts.canary(steps=[40, 100], step="1h")
            async with crowd(server.port, {old: 0.0, new: 7.0, next_: 5.0}) as asking:
                with Plane(home, "--no-serve") as first:
                    ids = [rollouts.start(store, new, strategy, actor=ANA).id]
                    await asking.until(lambda: asking.last_s(new), "the candidate's first answer")
                    await asking.more(100)
                    first.kill()
                    killed_s = time.time()
                await asking.until(lambda: time.time() - asking.last_s(new) > 1.0, "the lease to run out")
                ran_out_s = asking.last_s(new) - killed_s
                assert 0.5 < ran_out_s < 5.0
                await asking.more(100)
                assert {one.release for one in asking.seen[-50:]} == {old}
                assert not over(store, ids[0])
                with Plane(home, "--no-serve"):
                    back_s = time.time()
                    await asking.until(lambda: asking.last_s(new) > back_s, "the split to be in force again")
                    await asyncio.to_thread(moving.rollback, "bikes", why="a person has seen enough", store=store, actor=ANA)
                    rolled_back_s = time.time()
                    await asking.more(100)
                    assert asking.last_s(new) - rolled_back_s < 1.0
                    assert rollouts.rollout_of(store, ids[0]).phase == "aborted"
                    assert production(store) == old
                    ids.append(rollouts.start(store, next_, strategy, actor=ANA).id)
                    await asking.until(lambda: asking.last_s(next_), "the second canary")
                    await asyncio.to_thread(moving.deploy, next_, why="now", force=True, store=store, actor=ANA)
                    deployed_s = time.time()
                    await asking.more(100)
                    assert asking.last_s(old) - deployed_s < 1.0
                    assert over(store, ids[1])
            print(f"production answered everybody {ran_out_s:.1f} s after the control plane was killed")
            assert server.terminate()[0] == 0
        return asking, ids

    asking, ids = run(story())
    assert not asking.failed()
    assert new in releases.service_state(store, "bikes").rejections
    for id_ in ids:
        shown = exposures(store, id_)
        assert_exact(shown, id_, {0: 0, 1: 4_000})
        assert {status for *_, status in shown} == {"ok"}


def _constant(path: str) -> str:
    module, _, name = path.rpartition(".")
    return str(getattr(sys.modules[module], name))
