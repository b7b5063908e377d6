"""The queue in front of a runner, with a runner that does what the test says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.errors import Busy, DeadlineExceeded, ModelFailed
from andon.serving.batching import Batcher, Work
from andon.serving.options import BatchOptions, Options, QueueOptions
from andon.serving.runners import RunnerDied
from tests.unit.serving.virtual import run_virtually


class Runner:
    """Doubles ``x``; a negative value raises, 99 kills the process, 1313 is a defect."""

    healthy = True
    slots = 1

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
        if (columns["x"] == 1313).any():
            raise KeyError("x")
        return {"y": columns["x"] * 2}

    async def run(self, columns: dict[str, Any], n: int) -> dict[str, Any]:
        await self.gate.wait()
        if (columns["x"] == 99).any():
            raise RunnerDied
        return self.run_now(columns, n)

    async def close(self) -> None:
        pass


def batches(rows: int) -> Options:
    return Options(batch=BatchOptions(max_rows=rows))


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
        batcher = Batcher(runner, merge, finish, options=batches(4))
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
        found = await outcomes([ask(batcher, 1), ask(batcher, -1), ask(batcher, 1313), ask(batcher, 2)])
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
        batcher = Batcher(runner, merge, finish, options=Options(queue=QueueOptions(max_rows=3)))
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
        batcher = Batcher(runner, merge, finish, options=batches(1))
        futures = [ask(batcher, value) for value in range(100, 600)]
        assert await outcomes(futures) == [[value * 2] for value in range(100, 600)]

    asyncio.run(main())


# --- with a clock that jumps


class Slow(Runner):
    """Takes ``a + b n`` seconds of virtual time."""

    def __init__(self, a: float = 0.005, b: float = 0.0, slots: int = 1) -> None:
        super().__init__(False)
        self.a, self.b, self.slots = a, b, slots
        self.now = self.most = 0

    async def run(self, columns: dict[str, Any], n: int) -> dict[str, Any]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.a + self.b * n)
        finally:
            self.now -= 1
        if (columns["x"] == 99).any():
            raise RunnerDied
        return self.run_now(columns, n)


def batcher_of(runner: Runner, **more: Any) -> Batcher:
    return Batcher(runner, merge, finish, now=asyncio.get_running_loop().time, **more)


def put(batcher: Batcher, *values: float, client: str = "", within_s: float = 1.0, size_bytes: int = 0) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    work = Work(len(values), [(value,) for value in values], None, "r", [], 0, "production", loop.create_future(), started_s=loop.time())
    work.client, work.size_bytes, work.deadline_s = client, size_bytes, loop.time() + within_s
    batcher.submit(work)
    return work.future


async def taught(batcher: Batcher, *sizes: int) -> None:
    for size in sizes:
        await put(batcher, *range(size), within_s=60)


def test_what_cannot_be_done_in_time_is_refused_on_arrival_with_the_time_to_come_back() -> None:
    async def main() -> None:
        runner = Slow(a=0.1)
        batcher = batcher_of(runner, options=batches(2))
        await taught(batcher, 1, 2)
        there = [put(batcher, at, within_s=0.5) for at in range(7)]  # four batches: 0.4 s
        refused = []
        for _ in range(3):
            with pytest.raises(Busy) as error:
                put(batcher, 9, within_s=0.35)
            refused.append(error.value)
        assert refused[0].fields["retry_after_s"] == 1
        assert refused[0].fields["predicted_wait_s"] == pytest.approx(0.4)
        assert await outcomes(there) == [[at * 2] for at in range(7)]
        slow = [put(batcher, *range(2), within_s=60) for _ in range(50)]
        with pytest.raises(Busy) as error:
            put(batcher, 1)
        assert error.value.fields["retry_after_s"] == 5  # as long as the queue takes
        assert len(await outcomes(slow)) == 50

    run_virtually(main())


def test_an_idle_model_takes_anything_so_that_a_wrong_measure_corrects_itself() -> None:
    async def main() -> None:
        runner = Slow(a=5.0)
        batcher = batcher_of(runner)
        await taught(batcher, 1, 2)
        runner.a = 0.001
        answered = 0
        for _ in range(400):
            try:
                answered += bool(await put(batcher, 1, within_s=0.05))
            except Busy:
                await asyncio.sleep(0.001)
        assert answered == 400
        for _ in range(300):
            pair = [put(batcher, 1, within_s=60), put(batcher, 1, within_s=60)]
            await outcomes(pair)
        assert batcher.cost.predict_s(1) < 0.01

    run_virtually(main())


def test_time_that_is_up_is_told_at_once_also_while_the_model_hangs() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        runner = Slow(a=10.0)
        batcher = batcher_of(runner, options=batches(1))
        running, waiting = put(batcher, 1, within_s=0.2), put(batcher, 2, within_s=0.4)
        patient = put(batcher, 3, within_s=30)
        for future, at_s in ((running, 0.2), (waiting, 0.4)):
            with pytest.raises(DeadlineExceeded):
                await future
            assert loop.time() == pytest.approx(at_s, abs=0.011)
        assert batcher.queued_rows == 1
        assert await patient == [6]
        assert loop.time() == pytest.approx(20.0)
        assert runner.sizes == [1, 1]  # what nobody waited for was not run

    run_virtually(main())


def test_a_hanging_batch_makes_the_wait_grow() -> None:
    async def main() -> None:
        runner = Slow(a=0.01)
        batcher = batcher_of(runner)
        await taught(batcher, 1, 2)
        runner.a = 100.0
        put(batcher, 1, within_s=1000)
        await asyncio.sleep(0.005)
        put(batcher, 1, within_s=2.0)
        await asyncio.sleep(5)
        with pytest.raises(Busy):
            put(batcher, 1, within_s=2.0)
        assert batcher.backlog_s() == pytest.approx(5.0, abs=0.1)

    run_virtually(main())


def test_the_queue_is_bounded_in_bytes_and_batches_are_too() -> None:
    async def main() -> None:
        runner = Slow()
        options = Options(batch=BatchOptions(max_bytes=100), queue=QueueOptions(max_bytes=250))
        batcher = batcher_of(runner, options=options)
        first = put(batcher, 0, size_bytes=1000)  # one request of any size is taken when nothing waits
        await asyncio.sleep(0.001)
        rest = [put(batcher, at, size_bytes=60) for at in range(4)]
        with pytest.raises(Busy, match="full"):
            put(batcher, 9, size_bytes=60)
        await outcomes([first, *rest])
        assert runner.sizes == [1, 1, 1, 1, 1]  # two of 60 bytes are over 100

    run_virtually(main())


def test_a_flood_waits_behind_itself() -> None:
    """One client has 3,000 requests waiting; another one asks now and then, and waits for a turn, not for the flood."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        runner = Slow(a=0.005)
        batcher = batcher_of(runner, options=Options(batch=BatchOptions(max_rows=10), queue=QueueOptions(max_rows=3000)))
        await taught(batcher, 1, 10)
        flood = [put(batcher, 1, client="flood", within_s=60) for _ in range(3000)]
        slowest = 0.0
        for at in range(50):
            started_s = loop.time()
            assert await put(batcher, at, client="polite", within_s=0.1) == [at * 2]
            slowest = max(slowest, loop.time() - started_s)
        assert slowest <= 0.021  # the batch that runs, a turn of the flood's, and its own
        assert (
            sum(isinstance(one.exception(), Busy) for one in flood if one.done() and one.exception()) == 1
        )  # made room for the polite one
        assert not [one for one in flood if one.done() and one.exception() and not isinstance(one.exception(), Busy)]
        for one in flood:
            one.cancel()

    run_virtually(main())


def test_slots_run_at_the_same_time_and_share_what_waits() -> None:
    async def main() -> None:
        runner = Slow(a=0.001, b=0.01, slots=3)
        batcher = batcher_of(runner)
        await taught(batcher, 1, 2, 3)
        runner.sizes.clear()
        found = await outcomes([put(batcher, at, within_s=60) for at in range(30)])
        assert found == [[at * 2] for at in range(30)]
        assert runner.most == 3
        assert runner.sizes == [10, 10, 10]

    run_virtually(main())


def test_an_accelerator_may_wait_a_little_for_company_and_nobody_else_does() -> None:
    async def main(max_wait_ms: float, b: float, gap_s: float) -> tuple[list[int], float]:
        loop = asyncio.get_running_loop()
        runner = Slow(a=0.01, b=b)
        batcher = batcher_of(runner, options=Options(batch=BatchOptions(max_rows=64, max_wait_ms=max_wait_ms)))
        await taught(batcher, 1, 2, 4, 8)
        await asyncio.sleep(1.0)
        batcher._gap_s = gap_s
        runner.sizes.clear()
        started_s = loop.time()
        futures = []
        for at in range(8):
            futures.append(put(batcher, at))
            await asyncio.sleep(gap_s)
        await outcomes(futures)
        return runner.sizes, loop.time() - started_s

    assert run_virtually(main(5.0, 0.0, 0.0005))[0] == [8]  # a >> b n, and more are on their way
    assert run_virtually(main(0.0, 0.0, 0.0005))[0] == [1, 7]  # the default: the first goes at once
    assert run_virtually(main(5.0, 0.01, 0.0005))[0][0] == 1  # rows are what costs: waiting gains nothing
    sizes, seconds = run_virtually(main(5.0, 0.0, 0.05))  # nobody else is to be expected
    assert sizes == [1] * 8
    assert seconds == pytest.approx(8 * 0.05 + 0.0, abs=0.011)


def test_halves_find_the_bad_rows_in_few_runs() -> None:
    async def main() -> None:
        runner = Slow()
        batcher = batcher_of(runner)
        found = await outcomes([put(batcher, -1 if at == 37 else 100 + at) for at in range(64)])
        assert isinstance(found[37], ModelFailed)
        assert [one for at, one in enumerate(found) if at != 37] == [[200 + at * 2] for at in range(64) if at != 37]
        assert len(runner.sizes) <= 13

    run_virtually(main())


@given(st.integers(0, 2**32), st.sampled_from([1, 3]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_nobody_ever_gets_anothers_answer(seed: int, slots: int, inline: bool) -> None:
    """Thousands of requests that name themselves: some leave, raise, kill the process or have no time; the rest get their own."""

    async def main() -> None:
        chance = random.Random(seed)
        runner: Runner = Slow(a=0.002, b=0.0001, slots=slots)
        runner.inline = inline
        batcher = batcher_of(runner, options=batches(chance.choice([1, 7, 32])))
        asked: list[tuple[list[float], asyncio.Future[Any]]] = []
        refused = 0
        for at in range(300):
            values: list[float] = [10_000.0 + at * 10 + row for row in range(chance.choice([1, 1, 1, 3, 9]))]
            if chance.random() < 0.03:
                values[0] = chance.choice([-1.0, 1313.0] if inline else [-1.0, 1313.0, 99.0])
            try:
                asked.append((values, put(batcher, *values, client=chance.choice("abc"), within_s=chance.choice([0.004, 0.05, 10.0]))))
            except Busy:
                refused += 1
            if chance.random() < 0.1:
                chance.choice(asked)[1].cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(chance.choice([0.0, 0.001, 0.004]))
        found = await asyncio.gather(*(future for _, future in asked), return_exceptions=True)
        for (values, _), outcome in zip(asked, found, strict=True):
            if isinstance(outcome, list):
                assert outcome == [value * 2 for value in values]
            elif isinstance(outcome, ModelFailed):
                assert values[0] in (-1.0, 1313.0, 99.0)
            else:
                assert isinstance(outcome, DeadlineExceeded | asyncio.CancelledError)
        assert batcher.queued_rows == 0
        assert sum(isinstance(one, list) for one in found) > 30

    run_virtually(main())
