"""Ensembles and cascades as one release: in the front when all of it is ONNX, else in one child; judged by the gate like any model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import andon
from andon import registry
from andon.models import Column, Signature, save_model
from andon.serving.front import Front
from andon.serving.runners import ChildRunner, InProcessRunner
from andon.store import Store
from tests.conftest import ANA
from tests.unit.serving.line import EXAMPLE, SIGNATURE, Line, linear_onnx

ROW = {"x": 1.5, "k": 2}


def serve(line: Line, release: str, use: Callable[[Front], Awaitable[None]]) -> None:
    line.point(release)

    async def main() -> None:
        front = Front(line.store, line.service)
        await front.start()
        try:
            assert await front.wait_ready(20), front.not_ready()
            await use(front)
        finally:
            await front.close()

    asyncio.run(main())


def onnx(store: Store, name: str, weights: tuple[float, ...], bias: float = 0.0) -> str:
    saved = save_model(store, linear_onnx(weights, bias), name=name, example=list(EXAMPLE), signature=SIGNATURE, actor=ANA)
    return str(saved.address)


def code(store: Store, folder: Path, name: str, body: str) -> str:
    (folder / name).mkdir(parents=True)
    (folder / name / "model.py").write_text(f"class Model:\n    def predict(self, c):\n        return {body}\n")
    outputs = (Column("y", "double"),)
    saved = save_model(
        store,
        folder / name,
        name=name,
        entry="model:Model",
        example=list(EXAMPLE),
        signature=Signature(SIGNATURE.inputs, outputs),
        actor=ANA,
    )
    return str(saved.address)


def released(line: Line, version: registry.Version) -> str:
    made = andon.release(line.service, model=version.address, waive="a test", strict=False, store=line.store, actor=ANA)
    return str(made.address)


def test_members_that_are_onnx_run_in_the_front(line: Line) -> None:
    store = line.store
    members = [onnx(store, "a", (2.0, 1.0)), onnx(store, "b", (4.0, 0.0), 1.0)]
    version = andon.ensemble("both", members, show_members=True, store=store, actor=ANA)

    async def use(front: Front) -> None:
        assert isinstance(front.loaded().runner, InProcessRunner)
        made = await front.predict([ROW, {"x": 0.0, "k": 1}])
        assert made.outputs == {"y": [6.0, 1.0], "m0_y": [5.0, 1.0], "m1_y": [7.0, 1.0]}

    serve(line, released(line, version), use)


def test_a_cascade_with_code_runs_in_one_child(line: Line, tmp_path: Path) -> None:
    store = line.store
    cheap = code(store, tmp_path, "cheap", "{'y': c['x'] / 10}")
    dear = onnx(store, "dear", (100.0, 0.0))
    version = andon.cascade("tiers", {"cheap": cheap, "dear": dear}, confidence="y", rule="margin", thresholds=0.3, store=store, actor=ANA)

    async def use(front: Front) -> None:
        runner = front.loaded().runner
        assert isinstance(runner, ChildRunner)
        assert len(runner.pids) == 1
        made = await front.predict([{"x": 9.0, "k": 0}, {"x": 5.0, "k": 0}, {"x": 1.0, "k": 0}])
        assert made.outputs == {"y": [0.9, 500.0, 0.1], "answered_by": ["cheap", "dear", "cheap"]}

    serve(line, released(line, version), use)


def test_the_gate_judges_an_ensemble_by_its_own_answers(line: Line, tmp_path: Path) -> None:
    import pyarrow as pa

    store = line.store
    rng = np.random.default_rng(1)
    x, k = rng.normal(size=400), rng.integers(0, 5, 400)
    table = pa.table(
        {"x": x, "k": k, "label": 3 * x + 0.5 * k, "at": np.arange(400) * 60_000_000 + 1_600_000_000_000_000, "base": np.zeros(400)}
    )
    andon.register_dataset("held-out", table, store=store, actor=ANA)
    members = [onnx(store, "a", (2.0, 1.0)), onnx(store, "b", (4.0, 0.0))]
    version = andon.ensemble("both", members, store=store, actor=ANA)
    asked: dict[str, Any] = {"evaluation": "dataset:held-out", "label": "label", "event_time": "at", "baseline": "base", "strict": False}
    made = andon.release(line.service, model=version.address, store=store, actor=ANA, **asked)
    judged = next(item.verdict for item in made.judged if item.verdict.check == "mae-beats-baseline")
    assert judged.n == 400
    assert judged.value == pytest.approx(0, abs=1e-12)  # the label is 3 x + k / 2, which is the mean of the two, exactly
    parents = {edge.parent for edge in registry.lineage(store, made.address, "up").edges}
    assert set(members) <= parents


@pytest.mark.parametrize("slots", [2])
def test_an_ensemble_in_the_front_may_run_on_several_threads(line: Line, slots: int) -> None:
    store = line.store
    version = andon.ensemble("both", [onnx(store, "a", (2.0, 1.0)), onnx(store, "b", (4.0, 0.0))], store=store, actor=ANA)
    made = andon.release(
        line.service, model=version.address, settings={"runner": {"replicas": slots}}, waive="a test", strict=False, store=store, actor=ANA
    )

    async def use(front: Front) -> None:
        assert front.loaded().runner.slots == slots
        rows = [{"x": float(at), "k": 0} for at in range(50)]
        for made in await asyncio.gather(*(front.predict([row]) for row in rows)):
            assert made.release == str(front.loaded().address)
        assert (await front.predict([rows[2]])).outputs == {"y": [6.0]}

    serve(line, str(made.address), use)
