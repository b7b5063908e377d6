"""Three kinds of batching, measured: which one solves what. See docs/batching.md.

    OMP_NUM_THREADS=1 python bench/batching.py

Static (offline): rows a second against the size of a batch. Dynamic (online): latency against the offered load, for one request at a time,
a window of 5 ms, and what Andon does (nothing waits while the model is idle). Continuous (text generation): a small transformer decoder
that answers requests of very different lengths, in fixed batches and with a sequence joining as soon as another has left.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _load import quantile
from _report import report

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
PLOT = Path(__file__).resolve().parent.parent / "docs" / "images" / "batching.svg"
SECONDS = 0.2 if SMOKE else 3.0
FEATURES = 10
WINDOW_S = 0.005
SIZES = [1, 64] if SMOKE else [1, 4, 16, 64, 256, 1_024, 4_096, 16_384]
RATES = [200] if SMOKE else [50, 200, 500, 1_000, 2_000, 4_000, 6_000]
Predict = Callable[[Any], Any]


def forest() -> Predict:
    """A scikit-learn forest: some 0.7 ms a batch and some microseconds a row."""
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2_000, FEATURES))
    predict: Predict = (
        RandomForestRegressor(n_estimators=24, max_depth=8, random_state=0).fit(rows, rows[:, 0] * 2 + rows[:, 1] ** 2).predict
    )
    return predict


# --- static


def static(predict: Predict) -> list[list[object]]:
    """Rows a second for each size of a batch."""
    table: list[list[object]] = []
    for size in SIZES:
        rows = np.random.default_rng(1).normal(size=(size, FEATURES))
        predict(rows)
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS / 3:
            predict(rows)
            calls += 1
        spent = time.perf_counter() - began
        table.append([size, size * calls / spent, spent / calls * 1e3])
    return table


# --- dynamic


class OneByOne:
    """A queue, and a model call for each request."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._thread = ThreadPoolExecutor(1)
        self._queue: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def submit(self, row: Any, future: asyncio.Future[Any]) -> None:
        self._queue.append((row, future))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._drain())

    def taken(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        return [self._queue.popleft()]

    async def wait(self) -> None:
        """Before a batch is taken."""

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            await self.wait()
            batch = self.taken()
            made = await loop.run_in_executor(self._thread, self._predict, np.stack([row for row, _ in batch]))
            for value, (_, future) in zip(made, batch, strict=True):
                future.set_result(value)

    def close(self) -> None:
        self._thread.shutdown()


class Window(OneByOne):
    """The first request of a batch waits for others, always."""

    async def wait(self) -> None:
        await asyncio.sleep(WINDOW_S)

    def taken(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        batch = list(self._queue)
        self._queue.clear()
        return batch


class Own:
    """The batcher that ``andon serve`` has in front of each release."""

    healthy = True
    slots = 1

    def __init__(self, predict: Predict) -> None:
        from andon.serving.batching import Batcher, Work

        self._predict = predict
        self._thread = ThreadPoolExecutor(1)
        self._work = Work
        self._batcher = Batcher(self, self._merge, self._finish)  # type: ignore[arg-type]

    @staticmethod
    def _merge(batch: Sequence[Any]) -> dict[str, Any]:
        return {"rows": np.stack([work.columns["rows"] for work in batch])}

    @staticmethod
    def _finish(batch: Sequence[Any], inputs: Any, outputs: dict[str, Any]) -> None:  # noqa: ARG004
        for value, work in zip(outputs["y"], batch, strict=True):
            work.future.set_result(value)

    def cheap(self, n: int) -> bool:  # noqa: ARG002
        return False

    async def run(self, columns: dict[str, Any], n: int) -> dict[str, Any]:  # noqa: ARG002
        return {"y": await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, columns["rows"])}

    def submit(self, row: Any, future: asyncio.Future[Any]) -> None:
        self._batcher.submit(self._work(1, None, {"rows": row}, "", [0], 0, "production", future))

    def close(self) -> None:
        self._thread.shutdown()


async def offered(make: Callable[[], Any], rate: float) -> tuple[float, float, float]:
    """An open loop of Poisson arrivals: answers a second, p50 and p99 in ms. What is not answered a second after the end counts as late."""
    loop = asyncio.get_running_loop()
    rng = np.random.default_rng(2)
    queue = make()
    latencies: list[float] = []
    row = rng.normal(size=FEATURES)
    began = loop.time()
    at = began
    sent = 0

    def finish(arrived_s: float) -> Callable[[Any], None]:
        return lambda _: latencies.append(loop.time() - arrived_s)

    while at < began + SECONDS:
        at += rng.exponential(1 / rate)
        if (early := at - loop.time()) > 0:
            await asyncio.sleep(early)
        future = loop.create_future()
        future.add_done_callback(finish(at))  # from when it was due: a generator that falls behind must not hide it
        queue.submit(row, future)
        sent += 1
    await asyncio.sleep(1.0)
    done = list(latencies)
    queue.close()
    late = [SECONDS + 1.0] * (sent - len(done))
    return len(done) / (SECONDS + 1.0 if late else SECONDS), quantile(done + late, 0.5) * 1e3, quantile(done + late, 0.99) * 1e3


def dynamic(predict: Predict) -> list[list[object]]:
    """Latency for each offered rate and way of batching."""
    table: list[list[object]] = []
    for rate in RATES:
        for name, make in (("one at a time", OneByOne), (f"window of {WINDOW_S * 1e3:g} ms", Window), ("Andon", Own)):
            table.append([name, rate, *asyncio.run(offered(lambda make=make: make(predict), rate))])  # type: ignore[misc]
    return table


# --- continuous


class Decoder:
    """A transformer decoder with random weights and a cache of keys and values: what matters here is what a step costs."""

    def __init__(self, slots: int, *, width: int = 256, layers: int = 4, heads: int = 4, longest: int = 512) -> None:
        rng = np.random.default_rng(3)
        self.width, self.heads = width, heads
        make = lambda *shape: rng.normal(0, 0.02, shape).astype(np.float32)  # noqa: E731
        self.weights = [(make(width, 3 * width), make(width, width), make(width, 4 * width), make(4 * width, width)) for _ in range(layers)]
        self.cache = np.zeros((layers, 2, slots, heads, longest, width // heads), dtype=np.float32)

    def step(self, states: Any, lengths: Any) -> Any:
        """One token for every slot: ``states [slots, width]``, and how long each sequence is. An idle slot costs what a busy one does."""
        n, head = len(states), self.width // self.heads
        upto = int(lengths.max()) + 1
        hidden = np.arange(upto)[None, :] > lengths[:, None]
        every = np.arange(n)
        for layer, (qkv, out, up, down) in enumerate(self.weights):
            q, k, v = (part.reshape(n, self.heads, head) for part in np.split(states @ qkv, 3, axis=1))
            self.cache[layer, 0, every, :, lengths] = k
            self.cache[layer, 1, every, :, lengths] = v
            keys, values = self.cache[layer, 0, :, :, :upto], self.cache[layer, 1, :, :, :upto]
            scores = (keys @ q[..., None])[..., 0] / head**0.5
            scores[np.broadcast_to(hidden[:, None], scores.shape)] = -np.inf
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            states = states + (scores[:, :, None] @ values)[:, :, 0].reshape(n, -1) @ out
            states = states + np.maximum(states @ up, 0) @ down
            states /= np.sqrt((states**2).mean(axis=1, keepdims=True)) + 1e-5
        return states


def generate(lengths: Sequence[int], slots: int, *, continuous: bool) -> tuple[float, list[float], float]:
    """Answer requests of these lengths, all there at the start: tokens/s, seconds until each was whole, mean share of slots at work."""
    decoder = Decoder(slots)
    waiting = deque(enumerate(lengths))
    states = np.ones((slots, decoder.width), dtype=np.float32)
    left, done_tokens = np.zeros(slots, dtype=int), np.zeros(slots, dtype=int)
    finished: list[float] = []
    busy = steps = 0
    began = time.perf_counter()
    while waiting or left.any():
        if continuous or not left.any():
            for slot in np.flatnonzero(left == 0):
                if waiting:
                    left[slot], done_tokens[slot] = waiting.popleft()[1], 0
                    states[slot] = 1
        running = np.flatnonzero(left)
        states = decoder.step(states, done_tokens)
        done_tokens[running] += 1
        left[running] -= 1
        done_tokens[left == 0] = 0
        now_s = time.perf_counter() - began
        finished += [now_s] * int((left[running] == 0).sum())
        busy += len(running)
        steps += 1
    return sum(lengths) / (time.perf_counter() - began), finished, busy / (steps * slots)


def lengths_of_answers(n: int) -> list[int]:
    """Answers' lengths in tokens: log-normal, as conversations' are (median 80, a tenth over 300), at most 500."""
    rng = np.random.default_rng(4)
    return [int(value) for value in np.clip(rng.lognormal(np.log(80), 1.0, n), 2, 500)]


def continuous() -> list[list[object]]:
    """Both ways of batching the same generation requests."""
    lengths = lengths_of_answers(8 if SMOKE else 120)
    table: list[list[object]] = []
    for slots in (4,) if SMOKE else (1, 4, 16):
        for name, joins in (("static", False), ("continuous", True)):
            rate, finished, share = generate(lengths, slots, continuous=joins)
            table.append([name, slots, rate, quantile(finished, 0.5), quantile(finished, 0.99), share])
    return table


def plot(rows: list[list[object]], asked: list[list[Any]], tokens: list[list[Any]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "andon"
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4))
    left.loglog([row[0] for row in rows], [row[1] for row in rows], "o-")
    left.set(title="static: rows/s of one model", xlabel="rows in a batch", ylabel="rows/s")
    for name in dict.fromkeys(row[0] for row in asked):
        chosen = [row for row in asked if row[0] == name]
        middle.loglog([row[1] for row in chosen], [row[4] for row in chosen], "o-", label=name)
    middle.set(title="dynamic: p99 against the offered load", xlabel="requests/s offered", ylabel="p99, ms")
    middle.legend(frameon=False)
    for name in ("static", "continuous"):
        chosen = [row for row in tokens if row[0] == name]
        right.plot([row[1] for row in chosen], [row[2] for row in chosen], "o-", label=name)
    right.set(title="text generation: tokens/s", xlabel="sequences at once", ylabel="tokens/s")
    right.legend(frameon=False)
    for one in (left, middle, right):
        one.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    predict = forest()
    rows = static(predict)
    report(
        "batching_static", "Static batching: a forest of 24 trees", ["rows a batch", "rows/s", "ms a batch"], rows, "one thread, offline"
    )
    asked = dynamic(predict)
    title = "Dynamic batching: the same forest behind three queues"
    columns = ["queue", "offered/s", "answered/s", "p50 ms", "p99 ms"]
    report(
        "batching_dynamic",
        title,
        columns,
        asked,
        f"open loop, Poisson, {SECONDS:g} s a load; one model thread; latency from when a request was due",
    )
    tokens = continuous()
    title = "Continuous batching: answers of very different lengths from one decoder"
    columns = ["batching", "sequences at once", "tokens/s", "median s until whole", "p99 s", "slots at work"]
    report(
        "batching_continuous",
        title,
        columns,
        tokens,
        "a decoder of 4 layers, width 256, NumPy, one thread; log-normal lengths, median 80 tokens, all asked at the start",
    )
    if not SMOKE:
        plot(rows, asked, tokens)


if __name__ == "__main__":
    main()
