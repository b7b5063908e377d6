"""The loop over the embedded log, in this process: answers, dead letters, retries, deploys, back-pressure, draining, records."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from andon.cli.main import invoke
from andon.core.clocks import DAY_US
from andon.core.errors import InvalidInput, NotFound, Unavailable
from andon.models.records import Column, Signature
from andon.operations import streaming
from andon.operations.showing.jobs import job_view, jobs_view
from andon.releases.splits import assign
from andon.serving.jobs import Job
from andon.serving.streaming import Message, Record, Streamer, StreamOptions, parse
from andon.serving.streaming.embedded import EmbeddedLog, records
from andon.serving.streaming.running import stream
from andon.store import Store
from tests.conftest import ANA
from tests.unit.serving.line import Line
from tests.unit.serving.splitting import a_split, put_split

# raises on negative x, always; on x = 5 only the first two times
MOODY = """
class Model:
    def __init__(self, folder):
        self.left = 2
    def predict(self, columns):
        if (columns["x"] < 0).any():
            raise ValueError("no roots of negative numbers")
        if (columns["x"] == 5).any() and self.left:
            self.left -= 1
            raise OSError("not now")
        return {"y": columns["x"] * 2}
"""


@pytest.fixture
def line(disk_store: Store, tmp_path: Path) -> Line:
    return Line(disk_store, tmp_path / "scratch")


def put(store: Store, rows: list[Any], topic: str = "in", **options: Any) -> int:
    return streaming.stream_put(topic, rows, store=store, **options)


def values(store: Store, topic: str) -> list[dict[str, Any]]:
    return [json.loads(message.record.value) for message in records(store, topic, most=10_000)]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def run(store: Store, during: Callable[[Streamer, str], Awaitable[None]], *, metrics_port: int | None = None, **options: Any) -> Job:
    """Stream ``log:in`` to ``log:out`` while ``during`` looks on; stopped when it has seen enough."""

    async def both() -> Job:
        looking: list[asyncio.Task[None]] = []

        def ready(streamer: Streamer, url: str) -> None:
            async def look() -> None:
                try:
                    await during(streamer, url)
                finally:
                    streamer.stop()

            looking.append(asyncio.create_task(look()))

        given = StreamOptions(**({"group": "g"} | options))
        job = await stream(store, "bikes", parse("log:in"), parse("log:out"), given, actor=ANA, ready=ready, metrics_port=metrics_port)
        await looking[0]
        return job

    return asyncio.run(both())


def drained(store: Store, n: int, topics: tuple[str, ...] = ("out", "in.dead")) -> Callable[[Streamer, str], Coroutine[Any, Any, None]]:
    async def look(*_: Any) -> None:
        await until(lambda: sum(len(records(store, topic, most=10_000)) for topic in topics) >= n)

    return look


def test_every_message_is_answered_once_and_says_by_whom(line: Line, disk_store: Store) -> None:
    line.point(line.onnx())
    assert put(disk_store, [{"id": f"ride-{n}", "x": n / 2, "k": n} for n in range(50)], id_field="id") == 50
    put(disk_store, [{"rows": [{"x": 1.0, "k": 1}, {"x": 2.0, "k": 2}], "request_id": "two", "event_time": "2011-08-01"}])
    job = run(disk_store, drained(disk_store, 51))
    out = values(disk_store, "out")
    assert out[3] == {"id": "ride-3", "key": None, "request_id": "ride-3", "release": "release:bikes@1", "outputs": {"y": [6.0]}}
    assert [one["outputs"]["y"][0] for one in out[:50]] == [2 * (n / 2) + n for n in range(50)]
    assert (out[50]["request_id"], out[50]["outputs"]["y"]) == ("two", [3.0, 6.0])
    headers = records(disk_store, "out")[0].record.headers
    assert headers == {"andon-release": "release:bikes@1", "andon-source": "in@1"}
    logged = disk_store.tables.query('select request_id, event_time, "output.y" y from "predictions/bikes" order by request_id')
    assert logged.num_rows == 52
    assert set(logged["request_id"].to_pylist()) == {f"ride-{n}" for n in range(50)} | {"two"}
    assert (job.state, job.rows, job.errors, job.lag) == ("stopped", 52, 0, job.lag)
    view = job_view(disk_store, job.id)
    assert [event.type for event in view.events] == ["started", "stopped"]
    assert jobs_view(disk_store, service="bikes").jobs[0].release == "release:bikes@1"


def test_poison_goes_to_the_dead_letters_with_the_error_and_the_original_bytes(line: Line, disk_store: Store) -> None:
    line.point(line.python(MOODY))
    poison: list[Any] = [
        b"\xff\xfe not json",
        b'{"x": 1.0, "k": ',
        b"[" * 2_000,
        {"x": "one", "k": 1},
        {"x": 1.0},
        {"x": 1.0, "k": 1, "colour": "red"},
        {"x": -1.0, "k": 1},
        b"",
    ]
    put(disk_store, [{"x": 1.0, "k": 1}, *poison, {"x": 5.0, "k": 1}, {"x": 2.0, "k": 1}])
    seen: list[int] = []

    async def look(streamer: Streamer, _: str) -> None:
        await drained(disk_store, 11)(streamer, "")
        seen.append(streamer.metrics.retries)

    job = run(disk_store, look, retries=2)
    assert [one["outputs"]["y"][0] for one in values(disk_store, "out")] == [2.0, 10.0, 4.0], (
        "a model that fails now and then is tried again"
    )
    dead = records(disk_store, "in.dead")
    assert [message.record.value for message in dead] == [one if isinstance(one, bytes) else msgspec.json.encode(one) for one in poison]
    errors = [message.record.headers["andon-error"] for message in dead]
    assert errors == ["invalid-input"] * 6 + ["model-failed", "invalid-input"]
    assert "no roots of negative numbers" in dead[6].record.headers["andon-reason"]
    assert "rows[0].x" in dead[3].record.headers["andon-reason"]
    assert dead[0].record.headers["andon-source"] == "in@2"
    assert seen[0] >= 3
    assert (job.rows, job.errors) == (3, 8)
    again = [message.record.value for message in dead if b"colour" in message.record.value]
    assert put(disk_store, again) == 1, "a dead letter is put back as it was"


def test_a_deploy_takes_effect_without_a_restart(line: Line, disk_store: Store) -> None:
    first, second = line.onnx(), line.onnx(bias=100.0)
    line.point(first)

    async def look(*_: Any) -> None:
        put_here = EmbeddedLog(disk_store)
        n = 0

        async def feed(release: str) -> None:
            nonlocal n
            async with asyncio.timeout(20):
                while not any(one["release"] == release for one in values(disk_store, "out")):
                    await put_here.put("in", [Record(id=f"m{n}", value=b'{"x":1.0,"k":1}')])
                    n += 1
                    await asyncio.sleep(0.02)

        await feed(first)
        await asyncio.to_thread(line.point, second)
        await feed(second)
        await until(lambda: len(records(disk_store, "out", most=10_000)) == n)

    run(disk_store, look)
    out = values(disk_store, "out")
    assert {(one["release"], one["outputs"]["y"][0]) for one in out} == {(first, 3.0), (second, 103.0)}
    assert len({one["id"] for one in out}) == len(out), "the swap lost nothing and doubled nothing"


def test_a_candidate_of_another_signature_gets_what_it_takes_and_units_are_assigned_by_the_field(line: Line, disk_store: Store) -> None:
    production = line.onnx()
    candidate = line.onnx((2.0,), signature=Signature((Column("x", "double"),), (Column("y", "double"),)), example=({"x": 1.0},))
    line.point(production)
    split = a_split(production, candidate, key="k")
    put_split(line, split)

    async def look(streamer: Streamer, _: str) -> None:
        front = streamer._answerer._front
        async with asyncio.timeout(20):
            while not (front._router.live and {production, candidate} <= set(front._holder.loaded)):
                await asyncio.sleep(0.01)
        log = EmbeddedLog(disk_store)
        await log.put("in", [Record(id=f"m{k}", value=b'{"x":10.0,"k":%d}' % k) for k in range(40)])
        await until(lambda: len(records(disk_store, "out", most=100)) + len(records(disk_store, "in.dead", most=100)) == 40)

    run(disk_store, look)
    assert records(disk_store, "in.dead") == []
    wanted = {f"m{k}": assign(split, str(k)).release for k in range(40)}
    assert set(wanted.values()) == {production, candidate}
    assert {one["id"]: one["release"] for one in values(disk_store, "out")} == wanted
    assert {one["id"]: one["outputs"]["y"][0] for one in values(disk_store, "out") if one["release"] == candidate} == {
        name: 20.0 for name, release in wanted.items() if release == candidate
    }


def test_a_service_without_a_release_waits_and_loses_nothing(line: Line, disk_store: Store) -> None:
    put(disk_store, [{"x": 1.0, "k": 1}])

    async def look(streamer: Streamer, _: str) -> None:
        await until(lambda: streamer.metrics.lag == 1)
        assert records(disk_store, "out") == records(disk_store, "in.dead") == []
        await asyncio.to_thread(lambda: line.point(line.onnx()))
        await drained(disk_store, 1)(streamer, "")

    job = run(disk_store, look)
    assert (job.rows, job.errors) == (1, 0)


def test_what_is_in_flight_is_bounded_and_finished_when_told_to_stop(line: Line, disk_store: Store) -> None:
    slow = MOODY.replace('return {"y"', '__import__("time").sleep(0.02); return {"y"').replace(" == 5", " == -5").replace(" * 2", "")
    line.point(line.python(slow))
    put(disk_store, [{"x": float(n), "k": 1} for n in range(400)])
    most = 0

    async def look(streamer: Streamer, _: str) -> None:
        nonlocal most
        while len(records(disk_store, "out")) < 24:
            most = max(most, streamer.metrics.in_flight)
            await asyncio.sleep(0.002)

    run(disk_store, look, most=8)
    assert 0 < most <= 16, "one batch that is answered and one that is committed"
    done = len(records(disk_store, "out"))
    assert done < 400
    run(disk_store, drained(disk_store, 400))
    assert [one["outputs"]["y"][0] for one in values(disk_store, "out")] == [float(n) for n in range(400)]


def test_the_lag_is_a_metric_and_health_says_why_not(line: Line, disk_store: Store) -> None:
    line.point(line.onnx())
    put(disk_store, [{"x": 1.0, "k": 1}] * 5)
    pages: dict[str, str] = {}

    async def look(streamer: Streamer, url: str) -> None:
        await drained(disk_store, 5)(streamer, url)
        await until(lambda: streamer.metrics.lag == 0)
        for page in ("/metrics", "/health"):
            with await asyncio.to_thread(urllib.request.urlopen, url + page) as reply:
                pages[page] = reply.read().decode()

    run(disk_store, look, metrics_port=0)
    labels = 'service="bikes",source="log:in",group="g"'
    assert f"andon_stream_lag_messages{{{labels}}} 0" in pages["/metrics"]
    assert f'andon_stream_messages_total{{{labels},outcome="answered"}} 5' in pages["/metrics"]
    assert "andon_requests_total" in pages["/metrics"]
    assert pages["/health"] == "ok\n"


def test_the_key_field_is_the_answers_key_and_not_the_models_business(line: Line, disk_store: Store) -> None:
    line.point(line.onnx())
    put(disk_store, [{"rider": 7, "x": 1.0, "k": 1}, {"rider": "eva", "x": 1.0, "k": 1}, {"x": 1.0, "k": 1}])
    run(disk_store, drained(disk_store, 3), key="rider")
    assert [message.record.key for message in records(disk_store, "out")] == ["7", "eva", None]


class Away(EmbeddedLog):
    """A log that is away for some calls, and loses the answer to a commit that has happened."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.calls = 0

    async def fetch(self, topic: str, group: str, most: int, wait_s: float) -> list[Message]:
        self.calls += 1
        if self.calls in (1, 3, 4):
            raise Unavailable("the log is away")
        return await super().fetch(topic, group, most, wait_s)

    async def commit(self, topic: str, group: str, messages: Any, produced: Any = ()) -> None:
        await super().commit(topic, group, messages, produced)
        self.calls += 1
        if self.calls % 3 == 0:
            raise Unavailable("the answer was lost")


def test_a_log_that_goes_away_is_tried_again_and_a_lost_answer_doubles_nothing(
    line: Line, disk_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("andon.serving.streaming.embedded.EmbeddedLog", Away)
    line.point(line.onnx())
    put(disk_store, [{"x": float(n), "k": 0} for n in range(60)])
    interruptions: list[int] = []

    async def look(streamer: Streamer, _: str) -> None:
        await drained(disk_store, 60)(streamer, "")
        interruptions.append(streamer.metrics.interruptions)

    run(disk_store, look, most=7)
    assert [one["outputs"]["y"][0] for one in values(disk_store, "out")] == [2.0 * n for n in range(60)]
    assert interruptions[0] >= 2


def test_three_topics_are_three(disk_store: Store) -> None:
    for source, target, dead in (("log:a", "log:a", None), ("log:a", "log:b", "log:b"), ("log:a", "log:a.dead", None)):
        with pytest.raises(InvalidInput, match="three topics"):
            streaming.stream("bikes", source, target, dead=dead, store=disk_store)


def test_messages_without_the_id_they_should_have_are_refused_and_named(disk_store: Store) -> None:
    with pytest.raises(InvalidInput) as caught:
        put(disk_store, [{"id": 1, "x": 1}, {"x": 2}], id_field="id")
    assert caught.value.fields["line"] == 1
    assert records(disk_store, "in") == []


def test_the_commands(line: Line, disk_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", disk_store.settings.home]
    lines = tmp_path / "rides.jsonl"
    lines.write_text('{"id": "a", "x": 1.0, "k": 1}\n\n{"id": "b", "x": 2.0, "k": 2}\n')
    assert invoke(["stream", "put", "in", str(lines), "--id", "id", *home]) == 0
    assert capsys.readouterr().out == "2 messages put\n"
    assert invoke(["stream", "put", "log:in", str(lines), "--id", "id", "--json", *home]) == 0
    capsys.readouterr()
    assert invoke(["stream", "read", "in", *home]) == 0
    assert capsys.readouterr().out == '{"x":1.0,"k":1}\n{"x":2.0,"k":2}\n', "the second put found them there"
    line.point(line.onnx())
    run(disk_store, drained(disk_store, 2))
    assert invoke(["stream", "read", "out", "--group", "look", "--json", *home]) == 0
    assert [one["id"] for one in msgspec.json.decode(capsys.readouterr().out)] == ["a", "b"]
    job = jobs_view(disk_store).jobs[0]
    for command in (["stream", "jobs"], ["ls", "job"], ["ls", "job:bikes"], ["show", f"job:{job.id}"], ["history", f"job:{job.id}"]):
        assert invoke([*command, *home]) == 0
        assert "stopped" in capsys.readouterr().out
    assert invoke(["show", "job:none", *home]) == NotFound.exit_code
    capsys.readouterr()
    assert invoke(["stream", "bikes", "--from", "in", "--to", "log:out", *home]) == InvalidInput.exit_code
    (tmp_path / "broken.jsonl").write_text('{"id": 1}\nnonsense\n')
    assert invoke(["stream", "put", "in", str(tmp_path / "broken.jsonl"), "--id", "id", *home]) == InvalidInput.exit_code
    assert "line 2" in capsys.readouterr().err
    with pytest.raises(NotFound):
        job_view(disk_store, "none")


def test_finished_records_are_trimmed_after_their_days(line: Line, disk_store: Store) -> None:
    from andon.serving.streaming.embedded import trim

    line.point(line.onnx())
    put(disk_store, [{"x": 1.0, "k": 1}] * 5)
    run(disk_store, drained(disk_store, 5))
    assert trim(disk_store, "in", before_us=disk_store.clock.now_us() - 7 * DAY_US) == 0
    assert trim(disk_store, "in", before_us=disk_store.clock.now_us()) == 4
