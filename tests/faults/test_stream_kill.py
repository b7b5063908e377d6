"""Consumers of streams are killed at every boundary and at random moments, and brokers are stopped and started again: nothing is lost.

Every message has an answer (or a dead letter) in the end, under its own id; on no engine does a kill leave two of them.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from andon.operations.showing.jobs import jobs_view
from andon.serving.streaming import Record, open_log, parse
from andon.store import Store
from tests.unit.serving.line import Line
from tests.unit.serving.streaming.brokers import Broker

FIRST, LATER, IN_FLIGHT = 300, 100, 32
CLAIM = "?claim_s=0.5"


@pytest.fixture(params=["log", "redis", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker | None]:
    if request.param == "log":
        yield None
        return
    server = Broker(request.param, tmp_path / request.param)
    server.start()
    yield server
    server.stop()


def url(broker: Broker | None, topic: str) -> str:
    return f"log:{topic}" if broker is None else f"{broker.url}/{topic}{CLAIM}"


def begin(store: Store, broker: Broker | None, fault: str = "", program: tuple[str, ...] = ("-m", "andon")) -> subprocess.Popen[str]:
    topics = ["--from", url(broker, "rides"), "--to", url(broker, "answers"), "--in-flight", str(IN_FLIGHT)]
    command = [sys.executable, *program, "stream", "bikes", *topics, "--home", store.settings.home]
    environment = os.environ | {"ANDON_FAULT": fault, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("andon: service:bikes on")
    return process


def end(process: subprocess.Popen[str], *expected: int) -> str:
    out, said = process.communicate(timeout=60)
    assert process.returncode in expected, f"{process.returncode}: {said}"
    return out


def message(n: int) -> Record:
    value = b"poison" if n % 50 == 3 else msgspec.json.encode({"x": n / 2, "k": n})
    return Record(id=f"m{n}", value=value)


async def put(store: Store, broker: Broker | None, numbers: range) -> None:
    log = open_log(store, parse(url(broker, "rides")), consumer="producer")
    await log.put("rides", [message(n) for n in numbers])
    await log.close()


async def outcomes(store: Store, broker: Broker | None, wanted: int) -> dict[str, list[Any]]:
    """Everything in the answers and the dead letters, once there are ``wanted`` different ids and nothing more comes."""
    log = open_log(store, parse(url(broker, "answers")), consumer="looker")
    found: dict[str, list[Any]] = {}
    async with asyncio.timeout(60):
        quiet = 0
        while quiet < 1:
            more = []
            for topic in ("answers", "rides.dead"):
                some = await log.fetch(topic, "look", 1_000, 0.1)
                await log.commit(topic, "look", some)
                more += some
            for one in more:
                found.setdefault(one.record.id, []).append(one.record)
            quiet = quiet + 1 if not more and len(found) >= wanted else 0
    await log.close()
    return found


def check(found: dict[str, list[Any]], numbers: range) -> None:
    assert set(found) == {f"m{n}" for n in numbers}, "every message has an outcome, and nothing else has"
    twice = {id_: len(records) for id_, records in found.items() if len(records) > 1}
    assert not twice
    for n in numbers:
        record = found[f"m{n}"][0]
        if message(n).value == b"poison":
            assert (record.value, record.headers["andon-error"]) == (b"poison", "invalid-input")
        else:
            assert msgspec.json.decode(record.value)["outputs"] == {"y": [2 * (n / 2) + n]}


def test_no_kill_and_no_restart_loses_or_doubles_an_answer(broker: Broker | None, disk_store: Store, tmp_path: Path) -> None:
    line = Line(disk_store, tmp_path / "scratch")
    line.point(line.onnx())
    first, later = range(FIRST), range(FIRST, FIRST + LATER)
    asyncio.run(put(disk_store, broker, first))
    for fault in ("stream.produced:3", ""):
        process = begin(disk_store, broker, fault)
        if not fault:
            time.sleep(random.Random(7).uniform(0.1, 0.5))  # wherever that is in its work
            process.kill()
        end(process, -signal.SIGKILL)
    process = begin(disk_store, broker)
    check(asyncio.run(outcomes(disk_store, broker, len(first))), first)
    if broker is not None:
        broker.stop()
        until = time.monotonic() + 20
        while not problem(disk_store):
            assert time.monotonic() < until, "the job's record says what is wrong"
            time.sleep(0.02)
        assert process.poll() is None, "it waits"
        broker.start()
    asyncio.run(put(disk_store, broker, later))
    check(asyncio.run(outcomes(disk_store, broker, len(later))), later)
    process.send_signal(signal.SIGTERM)
    assert "messages to the dead letters" in end(process, 0)
    states = Counter(job.state for job in jobs_view(disk_store).jobs)
    assert states == {"lost": 2, "stopped": 1}
    logged = disk_store.tables.query('select count(distinct request_id) n from "predictions/bikes"')["n"][0].as_py()
    assert logged == sum(message(n).value != b"poison" for n in (*first, *later)), "monitors see every answer"


FALLING = """
import os, signal, sys
from andon.cli.main import main
from andon.serving.streaming import answering
once = answering.Answerer._once

async def fall(self, message, request_id):
    if message.record.id == "m17":
        os.kill(os.getpid(), signal.SIGKILL)
    return await once(self, message, request_id)

answering.Answerer._once = fall
main(sys.argv[1:])
"""


def test_a_message_that_ends_its_consumers_is_a_dead_letter_at_last_and_takes_no_other_with_it(
    broker: Broker | None, disk_store: Store, tmp_path: Path
) -> None:
    """As a native library that crashes on one input would: nothing in the process can catch it."""
    line = Line(disk_store, tmp_path / "scratch")
    line.point(line.onnx())
    numbers = [n for n in range(40) if n % 50 != 3]

    async def fill() -> None:
        log = open_log(disk_store, parse(url(broker, "rides")), consumer="producer")
        await log.put("rides", [message(n) for n in numbers])
        await log.close()

    asyncio.run(fill())
    starts = 0
    while True:
        process = begin(disk_store, broker, program=("-c", FALLING))
        starts += 1
        try:
            process.wait(3.0 if starts > 10 else 30.0)
        except subprocess.TimeoutExpired:  # it lives
            break
        end(process, -signal.SIGKILL)
        assert starts < 25
    assert starts > 10, "it has been tried"
    found = asyncio.run(outcomes(disk_store, broker, len(numbers)))
    process.send_signal(signal.SIGTERM)
    end(process, 0)
    dead = {name for name, (record,) in found.items() if "andon-error" in record.headers}
    assert set(found) == {f"m{n}" for n in numbers}
    assert dead == {"m17"}
    assert found["m17"][0].headers["andon-error"] == "too-many-deliveries"


def problem(store: Store) -> str:
    return next(job.problem for job in jobs_view(store).jobs if job.state == "running")
