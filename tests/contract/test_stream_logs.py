"""The same promises from every engine of the streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from andon.core.errors import Conflict, InvalidInput, Unavailable
from andon.serving.streaming import Message, Record, StreamLog, open_log, parse
from andon.serving.streaming.embedded import records, trim
from andon.store import Store, memory_store, open_store
from tests.unit.serving.streaming.brokers import Broker, free_port

GROUP = "readers"
CLAIM_S = 0.4
EMBEDDED, BROKERS = ["embedded", "embedded postgres", "embedded memory"], ["redis", "nats"]


def of(*engines: str) -> pytest.MarkDecorator:
    """A promise of these engines only."""
    return pytest.mark.parametrize("server", engines, indirect=True, scope="module")


class Engine:
    """Opens logs over one server, each as a process of its own would."""

    def __init__(self, store: Store, url: str) -> None:
        self.store = store
        self.url = url
        self.opened: list[StreamLog] = []

    def log(self, consumer: str = "") -> StreamLog:
        endpoint = parse(f"{self.url}rides" + ("" if self.url == "log:" else f"?claim_s={CLAIM_S}"))
        self.opened.append(open_log(self.store, endpoint, consumer=consumer or f"c{len(self.opened)}"))
        return self.opened[-1]


@pytest.fixture(scope="module", params=[*EMBEDDED, *BROKERS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param.startswith("embedded"):
        yield request.param
        return
    broker = Broker(request.param, tmp_path_factory.mktemp(request.param))
    broker.start()
    yield broker.url
    broker.stop()


@pytest.fixture
def engine(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A fresh set of topics."""
    settings: dict[str, Any] = {"ledger": request.getfixturevalue("postgres_url")} if "postgres" in server else {}
    with memory_store() if "memory" in server else open_store(tmp_path / ".andon", **settings) as store:
        if server.startswith("embedded"):
            yield Engine(store, "log:")
            return
        if server.startswith("redis"):
            import redis

            with redis.Redis.from_url(server) as client:
                client.flushall()
        else:
            asyncio.run(_clear_nats(server))
        yield Engine(store, f"{server}/")


async def _clear_nats(server: str) -> None:
    import nats

    client = await nats.connect(server)
    js = client.jetstream()
    for stream in await js.streams_info():
        await js.delete_stream(stream.config.name)
    await client.close()


def run(engine: Engine, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        try:
            await work()
        finally:
            for log in engine.opened:
                await log.close()

    asyncio.run(asyncio.wait_for(whole(), 30))


def record(n: int, **more: Any) -> Record:
    return Record(id=f"m{n}", value=b'{"x":%d}' % n, **more)


async def take(log: StreamLog, most: int, *, topic: str = "rides", group: str = GROUP, tries: int = 40) -> list[Message]:
    """At least one and at most ``most`` messages, or none after a while."""
    found: list[Message] = []
    for _ in range(tries):
        found += await log.fetch(topic, group, most - len(found), 0.1)
        if len(found) >= most:
            break
    return found


async def lag_is(log: StreamLog, wanted: int, group: str) -> None:
    """A broker hears of a commit a little later."""
    until_s = time.monotonic() + 5
    while (lag := await log.lag("rides", group)) != wanted:
        assert time.monotonic() < until_s, lag
        await asyncio.sleep(0.02)


def ids(messages: list[Message]) -> list[str]:
    return [message.record.id for message in messages]


def test_messages_come_in_order_with_all_they_carry(engine: Engine) -> None:
    async def work() -> None:
        log = engine.log()
        await log.open()
        await log.put("rides", [record(n, key=f"k{n}", headers={"colour": "red"}) for n in range(10)])
        await log.put("rides", [Record(id="raw", value=bytes(range(256)))])
        found = await take(log, 11)
        assert ids(found) == [*(f"m{n}" for n in range(10)), "raw"]
        assert found[3].record == record(3, key="k3", headers={"colour": "red"})
        assert found[10].record.value == bytes(range(256))
        assert (found[10].record.key, found[10].record.headers, found[0].deliveries) == (None, {}, 1)
        assert len({message.position for message in found}) == 11

    run(engine, work)


def test_what_is_committed_does_not_come_again_and_what_is_not_does(engine: Engine) -> None:
    async def work() -> None:
        first = engine.log()
        await first.put("rides", [record(n) for n in range(6)])
        found = await take(first, 4)
        assert ids(found) == ["m0", "m1", "m2", "m3"]
        await lag_is(first, 6, GROUP)
        await first.commit("rides", GROUP, found[:2])
        await lag_is(first, 4, GROUP)
        await first.close()
        second = engine.log()
        again: list[str] = []
        while len(again) < 4:
            found = await second.fetch("rides", GROUP, 4, 0.1)
            await second.commit("rides", GROUP, found)  # at once: what is held for longer than claim_s is given away again
            again += ids(found)
        assert sorted(again) == ["m2", "m3", "m4", "m5"]
        await lag_is(second, 0, GROUP)
        assert await second.fetch("rides", GROUP, 10, 0.05) == []

    run(engine, work)


def test_groups_have_positions_of_their_own_and_begin_at_the_oldest(engine: Engine) -> None:
    async def work() -> None:
        log = engine.log()
        await log.put("rides", [record(n) for n in range(3)])
        await lag_is(log, 3, "late")
        for group in ("early", "late"):
            found = await take(log, 3, group=group)
            assert ids(found) == ["m0", "m1", "m2"]
            await log.commit("rides", group, found)
            await lag_is(log, 0, group)

    run(engine, work)


def test_a_topic_without_messages_waits_and_one_that_is_new_is_made(engine: Engine) -> None:
    async def work() -> None:
        log, other = engine.log(), engine.log()
        await lag_is(log, 0, GROUP)
        waiting = asyncio.create_task(take(log, 1))
        await asyncio.sleep(0.05)
        await other.put("rides", [record(1)])
        assert ids(await waiting) == ["m1"]

    run(engine, work)


def test_what_was_produced_is_kept_with_the_commit(engine: Engine) -> None:
    async def work() -> None:
        log = engine.log()
        await log.put("rides", [record(n) for n in range(3)])
        found = await take(log, 3)
        produced = [("answers", Record(id=one.record.id, value=b"yes", headers={"andon-release": "r@1"})) for one in found[:2]]
        await log.commit("rides", GROUP, found, [*produced, ("rides.dead", record(2, headers={"andon-reason": "no"}))])
        answers = await take(log, 2, topic="answers", group="look")
        assert ids(answers) == ["m0", "m1"]
        assert answers[0].record.headers == {"andon-release": "r@1"}
        dead = await take(log, 1, topic="rides.dead", group="look")
        assert (dead[0].record.value, dead[0].record.headers) == (b'{"x":2}', {"andon-reason": "no"})

    run(engine, work)


def test_an_engine_that_says_it_drops_duplicates_does(engine: Engine) -> None:
    async def work() -> None:
        log = engine.log()
        for _ in range(3):
            await log.put("rides", [record(1), record(2)])
        found = await take(log, 6, tries=4)
        assert len(found) == (2 if log.capabilities.deduplicates else 6)
        assert set(ids(found)) == {"m1", "m2"}

    run(engine, work)


def test_two_consumers_of_a_group_finish_each_message_once(engine: Engine) -> None:
    async def work() -> None:
        one, two = engine.log(), engine.log()
        await one.put("rides", [record(n) for n in range(40)])
        seen: list[str] = []

        async def consume(log: StreamLog) -> None:
            while len(seen) < 40:
                found = await log.fetch("rides", GROUP, 5, 0.05)
                await log.commit("rides", GROUP, found)
                seen.extend(ids(found))

        await asyncio.gather(consume(one), consume(two))
        assert sorted(seen) == sorted(f"m{n}" for n in range(40))
        await lag_is(one, 0, GROUP)

    run(engine, work)


@of(*EMBEDDED)
def test_a_fenced_engine_refuses_the_second_commit_of_a_message(engine: Engine) -> None:
    async def work() -> None:
        one, two = engine.log(), engine.log()
        assert one.capabilities.fenced
        await one.put("rides", [record(1)])
        found = await take(one, 1)
        await one.close()  # it is taken for dead; its lease is free
        again = await take(two, 1)
        await two.commit("rides", GROUP, again, [("answers", record(1))])
        with pytest.raises(Conflict):
            await one.commit("rides", GROUP, found, [("answers", record(9))])
        assert ids(await take(two, 2, topic="answers", group="look", tries=3)) == ["m1"]

    run(engine, work)


@of(*EMBEDDED)
def test_a_second_consumer_stands_by_until_the_first_ends(engine: Engine) -> None:
    async def work() -> None:
        one, two = engine.log(), engine.log()
        await one.put("rides", [record(n) for n in range(4)])
        assert len(await take(one, 2)) == 2
        assert await two.fetch("rides", GROUP, 4, 0.1) == []
        await one.close()
        assert ids(await take(two, 4)) == ["m0", "m1", "m2", "m3"]

    run(engine, work)


@of(*EMBEDDED)
def test_messages_are_not_finished_before_the_ones_they_follow(engine: Engine) -> None:
    async def work() -> None:
        log = engine.log()
        await log.put("rides", [record(n) for n in range(4)])
        found = await take(log, 4)
        with pytest.raises(Conflict):
            await log.commit("rides", GROUP, found[2:])
        await lag_is(log, 4, GROUP)

    run(engine, work)


@of(*BROKERS)
def test_what_a_silent_consumer_holds_is_given_to_another_and_counted(engine: Engine) -> None:
    async def work() -> None:
        silent, other = engine.log("silent"), engine.log("other")
        await silent.put("rides", [record(1), record(2)])
        assert len(await take(silent, 2)) == 2
        assert await other.fetch("rides", GROUP, 2, 0.05) == []
        again = await take(other, 2, tries=60)
        assert sorted(ids(again)) == ["m1", "m2"]
        assert [message.deliveries for message in again] == [2, 2]
        await other.commit("rides", GROUP, again)
        await lag_is(other, 0, GROUP)

    run(engine, work)


@of(*BROKERS)
def test_a_server_that_is_not_there_is_unavailable(engine: Engine) -> None:
    async def work() -> None:
        scheme = engine.url.partition(":")[0]
        log = open_log(engine.store, parse(f"{scheme}://127.0.0.1:{free_port()}/rides"), consumer="c")
        engine.opened.append(log)
        with pytest.raises(Unavailable):
            await log.put("rides", [record(1)])

    run(engine, work)


@of(*EMBEDDED)
def test_the_embedded_log_forgets_only_what_every_group_has_finished(engine: Engine) -> None:
    async def work() -> None:
        log, store = engine.log(), engine.store
        await log.put("rides", [record(n) for n in range(10)])
        later_us = store.clock.now_us() + 1
        assert trim(store, "rides", before_us=later_us) == 0, "nobody has read it"
        await log.commit("rides", "a", (await take(log, 10, group="a")))
        await log.commit("rides", "b", (await take(log, 4, group="b")))
        assert trim(store, "rides", before_us=0) == 0
        assert trim(store, "rides", before_us=later_us) == 4
        await log.commit("rides", "b", (await take(log, 6, group="b")))
        assert trim(store, "rides", before_us=later_us) == 5
        assert [message.position for message in records(store, "rides")] == ["10"]
        await log.put("rides", [record(11)])
        assert [message.position for message in records(store, "rides")] == ["10", "11"]

    run(engine, work)


@of("redis")
def test_a_redis_key_that_is_no_stream_takes_no_message_along(engine: Engine) -> None:
    async def work() -> None:
        import redis.asyncio

        log = engine.log()
        await log.put("rides", [record(1)])
        found = await take(log, 1)
        async with redis.asyncio.Redis.from_url(engine.url.rstrip("/")) as client:
            await client.set("answers", "text")
        with pytest.raises(InvalidInput, match="not a stream"):
            await log.commit("rides", GROUP, found, [("answers", record(1))])
        await lag_is(log, 1, GROUP)

    run(engine, work)


@of(*BROKERS)
def test_plain_entries_of_other_producers_can_be_read(engine: Engine) -> None:
    async def work() -> None:
        if engine.url.startswith("redis"):
            import redis.asyncio
            from faststream.redis import RedisBroker

            async with redis.asyncio.Redis.from_url(engine.url.rstrip("/")) as client:
                await client.xadd("rides", {"id": "a", "key": "k", "data": '{"x":1}'})
                await client.xadd("rides", {"payload": '{"x":2}'})
            async with RedisBroker(engine.url.rstrip("/"), logger=None) as broker:
                await broker.publish({"x": 3}, stream="rides")
        else:
            import nats

            await engine.log().lag("rides", GROUP)  # makes the stream
            client = await nats.connect(engine.url.rstrip("/"))
            for n in (1, 2, 3):
                await client.jetstream().publish("rides", b'{"x":%d}' % n, headers={"Nats-Msg-Id": "a"} if n == 1 else None)
            await client.close()
        found = await take(engine.log(), 3)
        assert [message.record.value.replace(b" ", b"") for message in found] == [b'{"x":1}', b'{"x":2}', b'{"x":3}']
        assert found[0].record.id == "a"
        assert found[1].record.id == f"rides-{found[1].position}", "without an id, its place is one: the same at every delivery"

    run(engine, work)


@pytest.mark.parametrize(
    "url",
    ["rides", "kafka://host/rides", "log:", "log:a b", "redis://host", "redis:///rides", "nats://host:port/rides", "redis://h/r?claim_s=x"],
)
def test_a_url_that_is_no_stream_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        parse(url)


def test_credentials_are_not_shown() -> None:
    assert parse("redis://me:secret@host:1/2/rides").shown == "redis://host:1/2/rides"
    with pytest.raises(InvalidInput) as caught:
        parse("redis://me:secret@host/rides?x=1")
    assert "secret" not in str(caught.value)
