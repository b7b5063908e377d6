"""Runners: models in the front's process and in a child's, and the child program's own rules."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from andon.core.errors import LoadFailed, ModelFailed
from andon.serving import child
from andon.serving.runners import ChildRunner, ChildSpec, InProcessRunner, ModelSpec, RunnerDied, _Cost
from tests.unit.serving.line import ECHO, linear_onnx

COLUMNS = {"x": np.array([1.0, 2.0]), "k": np.array([1, 2])}


def model(folder: Path, kind: str, entry: str, **more: Any) -> ModelSpec:
    values: dict[str, Any] = {"inputs": (("x", "double"), ("k", "long")), "outputs": (("y", "double"),)} | more
    return ModelSpec(format=kind, path=str(folder), entry=entry, **values)


def with_child(tmp_path: Path, code: str, use: Callable[[ChildRunner], Awaitable[None]], **more: Any) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "code_of_model.py").write_text(code)
    values = {"python": sys.executable, "model": model(tmp_path / "m", "python", "code_of_model:Model"), "log": str(tmp_path / "log")}

    async def main() -> None:
        runner = ChildRunner(ChildSpec(**(values | more)))
        try:
            await runner.start()
            await use(runner)
        finally:
            await runner.close()
            assert runner.pid is None

    asyncio.run(main())


def test_onnx_runs_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(linear_onnx((2.0, 1.0), 0.5))
    runner = InProcessRunner(model(tmp_path, "onnx", "model.onnx"))
    assert not runner.cheap(2)  # nothing is known yet
    assert runner.run_now(COLUMNS, 2)["y"].tolist() == [3.5, 6.5]
    for _ in range(50):
        runner.run_now(COLUMNS, 2)
    assert runner.cheap(2)
    with pytest.raises(ModelFailed):
        runner.run_now({"x": COLUMNS["x"]}, 2)
    assert asyncio.run(runner.run(COLUMNS, 2))["y"].tolist() == [3.5, 6.5]
    asyncio.run(runner.close())


def test_a_file_that_is_no_model_is_a_load_failure(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(LoadFailed, match="could not be loaded"):
        InProcessRunner(model(tmp_path, "onnx", "model.onnx"))
    with pytest.raises(LoadFailed, match="cannot be served"):
        InProcessRunner(model(tmp_path, "safetensors", "model.safetensors"))


def test_scikit_learn_answers_as_the_models_floor_names_it(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression, LogisticRegression

    from andon.models import load, save

    x = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 5.0]])
    columns = {"x": x[:, 0], "k": x[:, 1].astype(np.int64)}
    regressor, two, three = (
        LinearRegression().fit(x, x[:, 0] * 2),
        LogisticRegression().fit(x, [0, 1, 0, 1]),
        LogisticRegression().fit(x, list("abca")),
    )
    for at, estimator in enumerate((regressor, two, three)):
        saved = save(estimator, {"x": columns["x"], "k": columns["k"]}, into=tmp_path / str(at), format="skops")
        manifest = saved.manifest("b3:" + "0" * 64)
        spec = ModelSpec(
            format=manifest.format,
            path=str(saved.folder),
            entry=manifest.entry,
            inputs=tuple((column.name, column.dtype) for column in manifest.signature.inputs),
            outputs=tuple((column.name, column.dtype) for column in manifest.signature.outputs),
        )
        ours = child.load_model(msgspec.to_builtins(spec))(columns, 4)
        theirs = load(manifest, saved.folder).predict(columns)
        assert list(ours) == list(theirs)
        for name in theirs:
            assert np.asarray(ours[name]).tolist() == pytest.approx(theirs[name].tolist()) if name != "prediction" else True
            assert np.asarray(ours[name]).tolist() == theirs[name].tolist() or theirs[name].dtype.kind == "f"


def test_the_rule_about_skops_types_is_the_models_floors() -> None:
    from andon.models.loading import _is_known_class

    names = [
        "sklearn.linear_model._base.LinearRegression",
        "numpy.ndarray",
        "numpy.load",
        "os.system",
        "functools.partial",
        "numpy.f2py.main",
    ]
    names += [
        "sklearn.utils.validation.check_array",
        "scipy.special._ufuncs.expit",
        "sklearn.tests.x.Y",
        "numpy.dtypes.Float64DType",
        "a.b",
    ]
    assert [child._is_let_in(name) for name in names] == [_is_known_class(name) for name in names]


def test_pickles_are_loaded_only_when_flagged(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"not": "a model"}))
    spec = model(tmp_path, "pickle", "model.pkl")
    with pytest.raises(ValueError, match="flag 'pickle'"):
        child.load_model(msgspec.to_builtins(spec))
    child.load_model(msgspec.to_builtins(msgspec.structs.replace(spec, flags=("pickle",))))


def test_columns_cross_as_they_are() -> None:
    columns = {
        "f": np.array([1.5, np.nan]),
        "i": np.array([1, -2]),
        "b": np.array([True, False]),
        "t": np.array(["é", None], dtype=object),
        "u": np.array(["a", "bc"]),
        "d": np.array(["2011-08-01", "NaT"], dtype="M8[us]"),
        "m": np.array([[1.0, 2.0], [3.0, 4.0]], dtype="f4"),
        "s": np.arange(4.0)[::2],
    }
    specs, buffers = child.pack(columns)
    again = child.unpack(msgspec.json.decode(msgspec.json.encode(specs)), bytearray(b"".join(buffers)))
    for name, values in columns.items():
        assert np.array_equal(again[name].astype(object), values.astype(object)) or name in ("f", "d")
        assert again[name].shape == values.shape
    assert np.isnan(again["f"][1])
    assert again["d"].dtype == columns["d"].dtype
    again["i"][0] = 7  # user code may change what it is given
    empty = child.pack({"x": np.array([], dtype="f8")})
    assert child.unpack(empty[0], bytearray())["x"].tolist() == []
    with pytest.raises(TypeError):
        child.pack({"x": np.array([object()], dtype=object)})


def test_a_child_answers_and_survives_errors(tmp_path: Path) -> None:
    code = ECHO.replace('return {"y"', 'print("seen", len(columns["x"]))\n        1 / columns["k"].prod().item()\n        return {"y"')

    async def use(runner: ChildRunner) -> None:
        assert runner.healthy
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]
        with pytest.raises(ModelFailed, match="ZeroDivisionError") as caught:
            await runner.run({"x": np.array([1.0]), "k": np.array([0])}, 1)
        said = str(caught.value.envelope())
        assert "Traceback" not in said
        assert "code_of_model" not in said
        assert str(tmp_path) not in said
        assert "code_of_model.py" in runner.log_tail()  # where the operator looks
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]
        assert "seen 2" in runner.log_tail()
        many = {"x": np.arange(1.0, 200_001), "k": np.ones(200_000, dtype=np.int64)}
        assert (await runner.run(many, 200_000))["y"][-1] == 200_001.0

    with_child(tmp_path, code, use)


def test_a_child_that_dies_comes_back(tmp_path: Path) -> None:
    async def use(runner: ChildRunner) -> None:
        first = runner.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        for _ in range(500):  # noticed and started again without any request
            await asyncio.sleep(0.01)
            if runner.healthy and runner.pid not in (None, first):
                break
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]

    with_child(tmp_path, ECHO, use)


def test_a_batch_that_kills_or_hangs(tmp_path: Path) -> None:
    code = ECHO.replace(
        'return {"y"',
        'import os, time\n        k = columns["k"][0]\n'
        '        os._exit(1) if k == 9 else time.sleep(60 * int(k == 8))\n        return {"y"',
    )

    async def use(runner: ChildRunner) -> None:
        with pytest.raises(RunnerDied):
            await runner.run({"x": np.array([1.0]), "k": np.array([9])}, 1)
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]
        with pytest.raises(ModelFailed, match=r"longer than 1 s"):
            await runner.run({"x": np.array([1.0]), "k": np.array([8])}, 1)
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]

    with_child(tmp_path, code, use, batch_timeout_s=1.0)


@pytest.mark.parametrize(
    ("code", "more", "said"),
    [
        ("raise RuntimeError('no')", {}, "RuntimeError: no"),
        ("import sys; sys.exit('leaving')", {}, "leaving"),
        ("import time; time.sleep(60)", {"load_timeout_s": 0.5}, "longer than 0.5 s"),
        (ECHO, {"pins": {"numpy": "0.0.1"}}, "numpy==0.0.1 is pinned"),
        (ECHO, {"pins": {"nobody-has-this": "1"}}, "nothing is installed"),
        (ECHO, {"transform": "nowhere:function"}, "nowhere"),
        (ECHO, {"python": "/nonexistent/python"}, "did not start"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path: Path, code: str, more: dict[str, Any], said: str) -> None:
    async def use(runner: ChildRunner) -> None:
        raise AssertionError("it loaded")

    with pytest.raises(LoadFailed) as caught:
        with_child(tmp_path, code, use, **more)
    assert said in str(caught.value)


@pytest.mark.parametrize(("made", "said"), [("1.0", "one value for each of 2 rows"), ("columns['x'][:1]", "one value for each of 2 rows")])
def test_outputs_of_another_length_are_the_models_failure(tmp_path: Path, made: str, said: str) -> None:
    async def use(runner: ChildRunner) -> None:
        with pytest.raises(ModelFailed, match=said):
            await runner.run(COLUMNS, 2)

    with_child(tmp_path, ECHO.replace('columns["x"] + columns["k"]', made), use)


def test_the_cost_of_a_batch_is_learnt() -> None:
    cost = _Cost()
    assert cost.predict_s(1) == float("inf")
    cost.learn(10, 0.001)
    assert cost.predict_s(100) == pytest.approx(0.01)  # one size seen: as if it were all per row
    cost = _Cost()
    for n in (1, 10, 100, 1000) * 30:
        cost.learn(n, 0.0002 + n * 1e-6)
    assert cost.predict_s(500) == pytest.approx(0.0007, rel=1e-6)
    assert cost.predict_s(1) == pytest.approx(0.000201, rel=1e-6)
