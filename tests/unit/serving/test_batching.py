"""The queue in front of a runner, with a runner that does what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from andon.core.errors import Busy, ModelFailed
from andon.serving.batching import Batcher, Work
from andon.serving.runners import RunnerDied


class Runner:
    """Doubles ``x``; a negative value raises, 99 kills the process, 13 is a defect."""

    healthy = True

    def __init__(self, inline: bool) -> None:
        self.inline = inline
        self.sizes: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def cheap(self, n: int) -> bool:
        return self.inline

    def run_now(self, columns: dict[str, Any], n: int) -> dict[str, Any]:
        self.sizes.append(n)
        if (columns["x"] < 0).any():
            raise ModelFailed("negative")
        if (columns["x"] == 13).any():
            raise KeyError("x")
        return {"y": columns["x"] * 2}

    async def run(self, columns: dict[str, Any], n: int) -> dict[str, Any]:
        await self.gate.wait()
        if (columns["x"] == 99).any():
            raise RunnerDied
        return self.run_now(columns, n)

    async def close(self) -> None:
        pass


def merge(batch: Sequence[Work]) -> dict[str, Any]:
    return {"x": np.array([row[0] for work in batch for row in work.rows or ()])}


def finish(batch: Sequence[Work], inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    at = 0
    for work in batch:
        if not work.future.done():
            work.future.set_result(outputs["y"][at : at + work.n].tolist())
        at += work.n


def ask(batcher: Batcher, *values: float) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    rows = [(value,) for value in values]
    work = Work(len(rows), rows, None, "r", [], 0, "production", future)
    batcher.submit(work)
    return future


async def outcomes(futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)


@pytest.mark.parametrize("inline", [True, False])
def test_requests_of_one_turn_share_a_batch_and_get_their_own_rows(inline: bool) -> None:
    async def main() -> None:
        runner = Runner(inline)
        batcher = Batcher(runner, merge, finish)
        found = await outcomes([ask(batcher, 1), ask(batcher, 2, 3), ask(batcher, 4)])
        assert found == [[2], [4, 6], [8]]
        assert runner.sizes == [4]

    asyncio.run(main())


def test_what_queues_while_busy_is_taken_together_up_to_the_cap() -> None:
    async def main() -> None:
        runner = Runner(False)
        runner.gate.clear()
        batcher = Batcher(runner, merge, finish, max_batch_rows=4)
        first = ask(batcher, 1)
        await asyncio.sleep(0)
        rest = [ask(batcher, value) for value in range(2, 9)]
        big = ask(batcher, *range(6))
        assert batcher.queued_rows == 13
        runner.gate.set()
        found = await outcomes([first, *rest, big])
        assert found == [[2], *([value * 2] for value in range(2, 9)), [0, 2, 4, 6, 8, 10]]
        assert runner.sizes == [1, 4, 3, 6]  # the cap is on joining: one request is never cut
        assert batcher.queued_rows == 0

    asyncio.run(main())


@pytest.mark.parametrize("inline", [True, False])
def test_a_bad_row_is_only_its_own_senders_error(inline: bool) -> None:
    async def main() -> None:
        batcher = Batcher(Runner(inline), merge, finish)
        found = await outcomes([ask(batcher, 1), ask(batcher, -1), ask(batcher, 13), ask(batcher, 2)])
        assert found[0] == [2]
        assert found[3] == [4]
        assert isinstance(found[1], ModelFailed)
        assert isinstance(found[2], ModelFailed)
        assert "KeyError" in found[2].message
        assert await ask(batcher, 5) == [10]

    asyncio.run(main())


def test_a_request_that_kills_the_process_fails_alone() -> None:
    async def main() -> None:
        batcher = Batcher(Runner(False), merge, finish)
        found = await outcomes([ask(batcher, 1), ask(batcher, 99), ask(batcher, 2)])
        assert found[0] == [2]
        assert found[2] == [4]
        assert isinstance(found[1], ModelFailed)
        assert "twice" in found[1].message

    asyncio.run(main())


def test_a_full_queue_refuses_and_an_empty_one_takes_any_size() -> None:
    async def main() -> None:
        runner = Runner(False)
        runner.gate.clear()
        batcher = Batcher(runner, merge, finish, max_queued_rows=3)
        first = ask(batcher, 1)
        await asyncio.sleep(0)
        wide = ask(batcher, 1, 2, 3, 4, 5)
        with pytest.raises(Busy):
            ask(batcher, 1)
        runner.gate.set()
        assert await first == [2]
        assert len(await wide) == 5
        assert await ask(batcher, 7) == [14]

    asyncio.run(main())


def test_whoever_has_gone_is_not_run() -> None:
    async def main() -> None:
        runner = Runner(False)
        runner.gate.clear()
        batcher = Batcher(runner, merge, finish)
        first = ask(batcher, 1)
        await asyncio.sleep(0)
        gone, there = ask(batcher, 2), ask(batcher, 3)
        gone.cancel()
        runner.gate.set()
        assert await first == [2]
        assert await there == [6]
        assert runner.sizes == [1, 1]

    asyncio.run(main())


def test_inline_batches_give_way_to_others() -> None:
    async def main() -> None:
        runner = Runner(True)
        batcher = Batcher(runner, merge, finish, max_batch_rows=1)
        futures = [ask(batcher, value) for value in range(100, 600)]
        assert await outcomes(futures) == [[value * 2] for value in range(100, 600)]

    asyncio.run(main())
