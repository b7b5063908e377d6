"""What the tests of splits share: a front that follows a source with a switch, and splits written as a rollout would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from andon.releases.splits import WHOLE, Arm, Mirror, Split, live_split_in, renew_split_in, set_split_in
from andon.serving.front import Front
from andon.serving.source import StoreSource
from andon.store import Store
from tests.unit.serving.line import Line

ROW = {"x": 1.0, "k": 1}


class Source(StoreSource):
    """The registry, with a switch for its outage and a brake for loading."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.down = False
        self.slow_s: dict[str, float] = {}
        self.loads: list[str] = []

    def changes(self) -> int:
        if self.down:
            raise ConnectionError("the ledger is gone")
        return super().changes()

    def release(self, address: str) -> Any:
        self.loads.append(address)
        time.sleep(self.slow_s.get(address, 0))
        return super().release(address)


def with_front(line: Line, use: Callable[[Front, Source], Awaitable[None]], **more: Any) -> None:
    async def main() -> None:
        source = Source(line.store)
        front = Front(line.store, line.service, source=source, poll_s=0.005, **more)
        await front.start("http://here")
        try:
            await use(front, source)
        finally:
            await front.close()

    asyncio.run(main())


async def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)


def a_split(production: str, candidate: str | None = None, share: int = 5_000, **more: Any) -> Split:
    arms = [Arm(channel="production", release=production, share=WHOLE - (share if candidate else 0))]
    if candidate:
        arms.append(Arm(channel="candidate", release=candidate, share=share))
    return Split(**({"rollout": "rollout:1", "salt": "salt", "arms": tuple(arms)} | more))


def a_mirror(production: str, shadow: str, **more: Any) -> Split:
    return a_split(production, mirrors=(Mirror(**({"release": shadow, "share": WHOLE} | more)),))


def put_split(line: Line, split: Split | None) -> None:
    def work(connection: Any) -> None:
        live = live_split_in(connection, line.service)
        set_split_in(connection, line.service, split, expected=live.revision if live else 0, now_us=1)

    line.store.ledger.write(work)


def renew(line: Line) -> None:
    line.store.ledger.write(lambda connection: renew_split_in(connection, line.service))


async def holding(front: Front, *releases: str) -> None:
    """Wait until the front follows the split and holds these."""
    await until(lambda: front._router.live is not None and set(releases) <= set(front._state().load.holds))


def exposures(line: Line, columns: str = "request_id, unit, channel, release, status") -> list[tuple[Any, ...]]:
    found = line.store.tables.query(
        f'select {columns} from "exposures/{line.service}" order by event_time, request_id, channel'
    ).to_pylist()
    return [tuple(row.values()) for row in found]


def predictions(line: Line) -> list[tuple[Any, ...]]:
    sql = f'select request_id, channel, release, "output.y" from "predictions/{line.service}" order by 1, 2, 4'
    return [tuple(row.values()) for row in line.store.tables.query(sql).to_pylist()]
