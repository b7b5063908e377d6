"""Which release answers, whatever the protocol; and what is counted when one is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from andon.core.errors import InvalidInput, NotFound
from andon.serving.front import Front
from andon.wire import mlflow_scoring
from andon.wire import openinference as oip
from tests.unit.serving.line import Line
from tests.unit.serving.splitting import a_split, exposures, holding, predictions, put_split, with_front

INPUTS = [{"name": "all", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 1.0]}]


async def infer(front: Front, key: str | None = None, *, version: str = "", header_key: str | None = None, **more: Any) -> Any:
    body = json.dumps({"inputs": INPUTS, "parameters": {"key": key} if key else {}, **more}).encode()
    path = f"/v2/models/bikes/{f'versions/{version}/' if version else ''}infer"
    rest = oip.Rest(front)
    meant = rest.infer_of(path)
    assert meant is not None
    inference = rest.read(*meant, body, None, lambda: oip.Asker(key=header_key))
    return json.loads(rest.answered(inference, await front.answer(inference))[1])


async def invoke(front: Front, key: str) -> Any:
    body = b'{"inputs": [{"x": 1.0, "k": 1}]}'
    query = mlflow_scoring.read(front, body, b"application/json", mlflow_scoring.Asker(key=key))
    headers, reply = mlflow_scoring.answered(query, await front.answer(query))
    return json.loads(reply)["predictions"][0], dict(headers)[b"x-andon-release"].decode()


def test_a_key_has_the_same_release_in_every_protocol(line: Line) -> None:
    production, candidate = line.onnx(), line.onnx((20.0, 10.0))
    line.point(production)
    put_split(line, a_split(production, candidate))
    value = {production: 3.0, candidate: 30.0}

    async def use(front: Front, source: object) -> None:
        await holding(front, production, candidate)
        seen = set()
        for at in range(24):
            key = f"user-{at}"
            choice = front.choose("r", key).loaded.address
            seen.add(choice)
            for answer in (await infer(front, key), await infer(front, header_key=key), await infer(front, key, header_key="another")):
                assert (answer["outputs"][0]["data"], answer["parameters"]["release"]) == ([value[choice]], choice)
                assert answer["model_version"] == choice.rpartition("@")[2]
            assert await invoke(front, key) == (value[choice], choice)
        assert seen == {production, candidate}

    with_front(line, use)
    assert len(exposures(line)) == 24 * 4


def test_a_version_that_is_asked_for_is_no_part_of_a_rollout(line: Line) -> None:
    production, candidate = line.onnx(), line.onnx((20.0, 10.0))
    line.point(production)
    put_split(line, a_split(production, candidate, share=10_000))

    async def use(front: Front, source: object) -> None:
        await holding(front, production, candidate)
        assert (await infer(front, id="split"))["parameters"]["release"] == candidate
        assert (await infer(front, version="1", id="first"))["parameters"]["release"] == production
        assert (await infer(front, version="2", id="second"))["parameters"]["release"] == candidate
        with pytest.raises(NotFound, match="version 9 is not loaded"):
            await infer(front, version="9")

    with_front(line, use)
    assert [(row[0], row[1]) for row in predictions(line)] == [("first", "production"), ("second", "asked-for"), ("split", "candidate")]
    assert [row[0] for row in exposures(line)] == ["split"]


def test_a_service_whose_name_has_slashes_is_one_model(line: Line) -> None:
    line = Line(line.store, line._scratch / "team", "team/bikes")
    line.point(line.onnx())

    async def use(front: Front, source: object) -> None:
        await front.wait_ready(10)
        rest = oip.Rest(front)

        async def ask(method: str, path: str) -> Any:
            async def read() -> bytes:
                return b"{}"

            reply = await rest.answer(oip.Asked(method, path, read))
            assert reply.status == 200, reply.body
            return json.loads(reply.body)

        assert rest.infer_of("/v2/models/team/bikes/infer") == ("team/bikes", "")
        assert rest.infer_of("/v2/models/team/bikes/versions/1/infer") == ("team/bikes", "1")
        assert rest.infer_of("/v2/models/team/bikes/versions/1") is None
        assert rest.infer_of("/v2/models/teams/bikes/infer") is None
        assert (await ask("GET", "/v2/models/team/bikes"))["name"] == "team/bikes"
        assert await ask("GET", "/v2/models/team/bikes/versions/1/ready") == {"name": "team/bikes", "ready": True}
        assert await ask("POST", "/v2/repository/models/team/bikes/load") == {}
        (stats,) = (await ask("GET", "/v2/models/team/bikes/stats"))["model_stats"]
        assert stats["name"] == "team/bikes"

    with_front(line, use)


def test_a_refusal_is_counted_once(line: Line) -> None:
    line.point(line.onnx())

    async def use(front: Front, source: object) -> None:
        await front.wait_ready(10)
        with pytest.raises(InvalidInput):
            await infer(front, outputs=[{"name": "nothing"}])
        with pytest.raises(NotFound):
            await infer(front, version="9")
        await infer(front)
        assert {key: count for key, count in front.metrics.requests.items() if count} == {
            ("", "invalid-input"): 1,
            ("", "not-found"): 1,
            ("release:bikes@1", "ok"): 1,
        }

    with_front(line, use)
