"""Notices of change: prompt, named, ending cleanly."""

from __future__ import annotations

import asyncio

import pytest

from andon.api.watching import Notice, Watcher
from andon.core.errors import Busy
from andon.registry import register, set_tag
from andon.store import Store
from tests.conftest import ANA


def test_a_listener_hears_what_moved_and_a_beat_when_nothing_does(store: Store) -> None:
    async def scene() -> list[Notice | None]:
        watcher = Watcher(store)
        watcher.start()
        heard: list[Notice | None] = []

        async def listen() -> None:
            async for notice in watcher.listen(beat_s=0.4):
                heard.append(notice)

        task = asyncio.create_task(listen())
        await asyncio.sleep(0.3)
        register(store, "prompt", "hello", {"text": "hi"}, actor=ANA)
        set_tag(store, "prompt:hello@1", "k", "v", actor=ANA)
        await asyncio.sleep(0.9)
        watcher.stop()
        await asyncio.wait_for(task, 2)
        return heard

    heard = asyncio.run(scene())
    named = {name for notice in heard if notice is not None for name in notice.changed}
    assert {"registry", "tags"} <= named
    assert None in heard


def test_nothing_that_moves_after_the_hello_is_missed(store: Store) -> None:
    async def scene() -> None:
        watcher = Watcher(store)
        watcher.start()
        for turn in range(8):  # each turn the watcher begins anew: its first look must come before the hello
            stream = watcher.listen(beat_s=5)
            hello = await asyncio.wait_for(anext(stream), 5)
            assert hello == Notice(watcher._seq, ())
            register(store, "prompt", "hello", {"text": f"hi {turn}"}, actor=ANA)
            told = await asyncio.wait_for(anext(stream), 5)
            assert told is not None
            assert "registry" in told.changed
            await stream.aclose()
        watcher.stop()

    asyncio.run(scene())


def test_only_so_many_may_listen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("andon.api.watching.MAX_LISTENERS", 0)

    async def scene() -> None:
        async for _ in Watcher(store).listen():
            pass

    with pytest.raises(Busy):
        asyncio.run(scene())


def test_a_slow_listener_loses_the_oldest_and_no_memory(store: Store) -> None:
    async def scene() -> int:
        watcher = Watcher(store)
        stream = watcher.listen(beat_s=5)
        first = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        for seq in range(500):
            watcher._tell(Notice(seq, ()))
        assert (await first) is not None
        queue = next(iter(watcher._listeners))
        waiting = queue.qsize()
        await stream.aclose()
        assert not watcher._listeners
        return waiting

    assert asyncio.run(scene()) <= 64
