"""``/invocations`` beside MLflow's own scoring server on the same bodies, and MLflow's own client against ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from andon.core.errors import InvalidInput
from andon.models import Column, Signature
from andon.serving.front import Front
from andon.store import open_store
from andon.wire.mlflow_scoring.bodies import from_csv, from_json
from tests.unit.serving.clients import Server
from tests.unit.serving.line import Line
from tests.unit.serving.test_app import Ask, with_app

ROWS = [{"x": 1.0, "k": 2}, {"x": 0.5, "k": 0}]
SPLIT = {"columns": ["k", "x"], "data": [[2, 1.0], [0, 0.5]]}
JSON = "application/json"


class Linear:
    """``y = 2 x + k``, as MLflow would hold it."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow would make a schema of type hints
        return (2 * model_input["x"] + model_input["k"]).to_numpy()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import warnings

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # `init` sets it, and this takes it away again
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.pyfunc.scoring_server import init
        from mlflow.types import ColSpec, Schema
        from starlette.testclient import TestClient

        class Held(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
            predict = Linear.predict

        signature = ModelSignature(Schema([ColSpec("double", "x"), ColSpec("long", "k")]), Schema([ColSpec("double", "y")]))
        folder = tmp_path_factory.mktemp("model") / "linear"
        mlflow.pyfunc.save_model(folder, python_model=Held(), signature=signature, pip_requirements=[])
        with TestClient(init(mlflow.pyfunc.load_model(str(folder)))) as client:
            yield client


GOOD: list[tuple[str, Any]] = [
    (JSON, {"dataframe_split": SPLIT}),
    (JSON, {"dataframe_split": SPLIT | {"index": [7, 9]}}),
    (JSON, {"dataframe_split": {"columns": ["x", "more", "k"], "data": [[1.0, "z", 2]]}}),
    (JSON, {"dataframe_records": ROWS}),
    (JSON, {"dataframe_records": [row | {"more": None} for row in ROWS]}),
    (JSON, {"instances": ROWS}),
    (JSON, {"inputs": {"x": [1.0, 0.5], "k": [2, 0]}}),
    (JSON, {"inputs": ROWS}),
    (JSON, {"dataframe_split": {"columns": ["x", "k"], "data": [[1, 2]]}}),
    (f"{JSON}; charset=utf-8", {"dataframe_records": ROWS}),
    ("text/csv", "x,k\n1.0,2\n0.5,0\n"),
    ("text/csv; charset=UTF-8", ",x,k\n0,1.0,2\n1,0.5,0\n"),
    ("text/csv", 'k,x,"more"\r\n2,1.0,"a, b"\r\n\r\n0,0.5,\r\n'),
]
BAD: list[tuple[str, Any]] = [
    (JSON, b"{"),
    (JSON, b"\xff\xfe"),
    (JSON, [1, 2]),
    (JSON, 7),
    (JSON, {}),
    (JSON, {"rows": ROWS}),
    (JSON, {"inputs": {"x": [1.0], "k": [2]}, "instances": ROWS}),
    (JSON, {"dataframe_split": [[1.0, 2]]}),
    (JSON, {"dataframe_split": {"columns": ["x", "k"]}}),
    (JSON, {"dataframe_split": SPLIT | {"more": 1}}),
    (JSON, {"dataframe_split": {"columns": ["x", "k"], "data": [[1.0]]}}),
    (JSON, {"dataframe_records": SPLIT}),
    (JSON, {"dataframe_records": [{"x": 1.0}]}),
    (JSON, {"dataframe_records": [{"x": "one", "k": 2}]}),
    (JSON, {"instances": {"x": 1.0}}),
    (JSON, {"inputs": {"x": [1.0, 0.5], "k": [2]}}),
    ("text/csv", "x\n1.0\n"),
    ("text/csv", "x,k\none,2\n"),
    ("text/csv", b"\xff"),
]
OTHER: list[tuple[str, Any]] = [
    ("text/plain", "x"),
    ("", "x"),
    (f"{JSON}; charset=latin-1", {"inputs": ROWS}),
    (f"{JSON}; q=1", {"inputs": ROWS}),
]


def body(value: Any) -> bytes:
    return value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else json.dumps(value).encode()


def test_the_same_bodies_have_the_same_outcome(line: Line, theirs: Any) -> None:
    line.point(line.onnx())

    async def use(front: Front, ask: Ask) -> None:
        for kind, value in GOOD + BAD + OTHER:
            real = theirs.post("/invocations", content=body(value), headers={"content-type": kind})
            ours = await ask("POST", "/invocations", body(value), content_type=kind)
            if (kind, value) in GOOD:
                assert (real.status_code, real.json()) == (ours.status, ours.json) == (200, ours.json), value
                assert ours.headers["x-andon-release"] == "release:bikes@1"
            elif (kind, value) in BAD:
                assert (real.status_code, ours.status) == (400, 400), value
                assert set(ours.json) == {"error_code", "message"} <= set(real.json())
                assert ours.json["error_code"] == "BAD_REQUEST"
                assert ours.json["message"]
            else:
                assert (real.status_code, ours.status) == (415, 415), value
                assert ours.headers["content-type"].startswith("text/plain")
        for path in ("/ping", "/version"):
            real, ours = theirs.get(path), await ask("GET", path)
            assert (real.status_code, real.content) == (ours.status, ours.body)
        assert (theirs.get("/invocations").status_code, (await ask("GET", "/invocations")).status) == (405, 405)

    with_app(line, use)


def test_what_is_stricter_than_there(line: Line) -> None:
    line.point(line.onnx())

    async def use(front: Front, ask: Ask) -> None:
        for value, said in (
            ({"dataframe_records": [{"x": None, "k": 2}]}, "required"),
            ({"dataframe_records": [{"x": "1.5", "k": 2}]}, "takes a number"),
            ({"inputs": ROWS, "params": {"temperature": 1}}, "no parameters"),
        ):
            reply = await ask("POST", "/invocations", value, content_type=JSON)
            assert (reply.status, said in reply.json["message"]) == (400, True), reply.body
        front.draining = True
        assert (await ask("GET", "/ping")).status == 503

    with_app(line, use)


ONE = Signature((Column("image", "float", shape=(2,)),), (Column("y", "double"),))
SCALAR = Signature((Column("x", "double"),), (Column("y", "double"),))
MANY = Signature((Column("x", "double"), Column("b", "boolean"), Column("t", "datetime"), Column("s", "string", False)), SCALAR.outputs)


@pytest.mark.parametrize(
    ("signature", "value", "rows"),
    [
        (SCALAR, {"instances": [1.0, 2.0]}, [{"x": 1.0}, {"x": 2.0}]),
        (SCALAR, {"inputs": [[1.0], [2.0]]}, [{"x": 1.0}, {"x": 2.0}]),
        (SCALAR, {"inputs": {"x": 1.0}}, [{"x": 1.0}]),
        (ONE, {"instances": [[1.0, 2.0]]}, [{"image": [1.0, 2.0]}]),
        (ONE, {"inputs": {"image": [[1.0, 2.0]]}}, [{"image": [1.0, 2.0]}]),
        (MANY, {"inputs": [[1.0, True, 5, "a"]]}, [{"x": 1.0, "b": True, "t": 5, "s": "a"}]),
        (SCALAR, {"dataframe_split": {"data": [[1.0]]}}, [{"x": 1.0}]),
        (SCALAR, {"dataframe_split": {"columns": [0], "data": [[1.0]]}}, [{"x": 1.0}]),
        (SCALAR, {"inputs": []}, []),
    ],
)
def test_tensors_and_positions(signature: Signature, value: Any, rows: Any) -> None:
    assert from_json(json.dumps(value).encode(), signature) == rows


def test_csv_by_the_signature() -> None:
    given = b"\xef\xbb\xbfs,t,b,x\r\n,2026-11-22T00:00:00Z,TRUE,1e3\r\nq,17,false,\r\n"
    assert from_csv(given, MANY) == [
        {"x": 1000.0, "b": True, "t": "2026-11-22T00:00:00Z", "s": None},
        {"x": None, "b": False, "t": 17, "s": "q"},
    ]
    for csv, said in (
        (b"x,b,t\n1,yes,3\n", "boolean"),
        (b"x,x\n1,2\n", "once"),
        (b"x\n1,2\n", "1 fields"),
        (b'x\n"1', "CSV"),
    ):
        with pytest.raises(InvalidInput, match=said):
            from_csv(csv, MANY)
    with pytest.raises(InvalidInput, match="shape"):
        from_csv(b"image\n1\n", ONE)


def test_the_client_of_mlflow(tmp_path: Path) -> None:
    import pandas as pd
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    home = tmp_path / ".andon"
    with open_store(home) as store:
        line = Line(store, home / "scratch")
        line.point(line.onnx())
    with Server(home) as server:
        asyncio.run(server.wait_ready())
        client = ScoringServerClient("127.0.0.1", server.port)
        client.ping()
        assert client.get_version() == "3.17.2"
        answer = client.invoke(pd.DataFrame(ROWS))
        assert answer.get_predictions(predictions_format="ndarray").tolist() == [4.0, 1.0]
        assert client.invoke(np.array([[1.0, 2], [0.5, 0]]))["predictions"] == [4.0, 1.0]
        with pytest.raises(Exception, match="BAD_REQUEST"):
            client.invoke(pd.DataFrame([{"x": "one", "k": 2}]))
        many = client.invoke(pd.DataFrame({"x": np.arange(2000.0), "k": np.arange(2000)}))
        assert many["predictions"] == (3 * np.arange(2000.0)).tolist()
