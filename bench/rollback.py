"""Rollback under load: from the moment the channel's move is committed to the last answer of the release that was left.

A replica answers closed-loop clients without pause while ``service:bench@production`` moves back and forth between two warm releases. The
time runs from ``move_alias`` returning (the commit is durable) to the arrival, at a client, of the last answer that names the release left.
``rollouts_live.py`` does the same with rollouts, upgrades and more replicas.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _load import Load, post, quantile
from _report import report
from serving_floor import first_answer_s, start

FLIPS = int(os.environ.get("BENCH_FLIPS", "4" if os.environ.get("ANDON_BENCH_SMOKE") else "50"))
CONNECTIONS = 16


class Watched:
    """When each release was last heard of, and whether any answer contradicts the release it names."""

    def __init__(self, outputs: dict[bytes, float]) -> None:
        self.outputs = outputs
        self.last_s = dict.fromkeys(outputs, 0.0)
        self.wrong = 0

    def see(self, head: bytes, body: bytes, sent_s: float, received_s: float) -> None:  # noqa: ARG002
        for release, output in self.outputs.items():
            if b'"release":"%s"' % release in body:
                self.last_s[release] = received_s
                self.wrong += json.loads(body)["outputs"] != [{"y": output}] or b"x-andon-release: %s\r\n" % release not in head + b"\r\n"
                return
        self.wrong += 1


def releases(home: Path, kind: str) -> tuple[str, str]:
    """Two releases that answer 5 and 6 to the request; the first is in production."""
    from andon.store import open_store
    from tests.unit.serving.line import ECHO, Line

    with open_store(home) as store:
        line = Line(store, home / "scratch", "bench")
        if kind == "ONNX in the front":
            good, bad = line.onnx((2.0, 1.0), 2.0), line.onnx((2.0, 1.0), 3.0)
        else:
            good, bad = (
                line.python(ECHO.replace('columns["k"]', '4 * columns["k"]')),
                line.python(ECHO.replace('columns["k"]', '5 * columns["k"]')),
            )
        line.point(good)
    return good, bad


async def flips(home: Path, port: int, good: str, bad: str) -> tuple[list[float], Load, Watched]:
    from andon.core.actors import Actor
    from andon.registry import move_alias
    from andon.store import open_store

    rng = random.Random(7)
    watched = Watched({good.encode(): 5.0, bad.encode(): 6.0})
    request = post("/predict", b'{"rows":[{"x":1,"k":1}]}')
    load = Load(lambda: request, watched.see)
    committed: list[tuple[float, str]] = []

    def move(store: object, to: str) -> float:
        move_alias(store, "service:bench@production", to, actor=Actor("process", "bench"), reason="bench")  # type: ignore[arg-type]
        return time.perf_counter()

    found: list[float] = []
    with open_store(home) as store:
        driving = asyncio.ensure_future(load.run(port, CONNECTIONS, 3600))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(move, store, bad)  # loads it for the first time
        while watched.last_s[bad.encode()] == 0.0:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        for at in range(FLIPS):
            to, left = (good, bad) if at % 2 == 0 else (bad, good)
            at_s = await asyncio.to_thread(move, store, to)
            committed.append((at_s, left))
            await asyncio.sleep(rng.uniform(0.35, 0.45))  # longer than any flip takes, and not in step with the poll
            found.append(max(0.0, watched.last_s[left.encode()] - at_s))
            assert watched.last_s[to.encode()] > at_s, "the flip was not followed"
        load.stopped = True
        driving.cancel()
        await asyncio.sleep(0.3)
    return found, load, watched


def main() -> None:
    import uvloop

    table: list[list[object]] = []
    for kind in ("ONNX in the front", "Python in a child process"):
        with tempfile.TemporaryDirectory(prefix="andon-bench-") as scratch:
            home = Path(scratch)
            good, bad = releases(home, kind)
            process, port, started = start("-m", "andon", "serve", "bench", "--home", str(home), "--port", "0")
            try:
                first_answer_s(port, post("/predict", b'{"rows":[{"x":1,"k":1}]}'), started)
                found, load, watched = uvloop.run(flips(home, port, good, bad))
            finally:
                process.terminate()
                process.wait()
            ms = [seconds * 1e3 for seconds in found]
            table.append(
                [
                    kind,
                    len(ms),
                    quantile(ms, 0.5),
                    quantile(ms, 0.99),
                    max(ms),
                    len(load.latencies_s),
                    load.failed,
                    load.dropped,
                    watched.wrong,
                ]
            )
    report(
        "rollback",
        f"Rollback under load ({CONNECTIONS} closed-loop connections): from the committed flip to the last answer of the release left",
        ["release", "flips", "p50 ms", "p99 ms", "max ms", "answers", "failed", "dropped", "wrong"],
        table,
        "SQLite ledger, synchronous=FULL; both releases warm; the replica polls the ledger every 20 ms; the clock stops at the client",
    )


if __name__ == "__main__":
    main()
